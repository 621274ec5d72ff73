"""The house rules, read off the source: what a linter cannot know, with what to use instead."""

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "daemon" / "tallyd"
PLUGINS = ROOT / "plugins"
MODULES = sorted([*PACKAGE.rglob("*.py"), *PLUGINS.rglob("*.py")])
LINES_MAX = 400

PURE = ("engine", "model", "pricing", "plugins")
"""No I/O, no clock, no chance, no Trio: values in, values out."""

NEAR_MONEY = (*PURE, "payments")
"""What counts, prices, bills or is paid."""

BELOW: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "pricing": ("model", "pricing"),
    "engine": ("model", "pricing", "engine"),
    "clock": (),
    "config": ("model",),
    "store": ("model", "engine", "store"),
    "actors": ("model", "pricing", "engine", "store", "actors", "clock"),
    "payments": ("model", "engine", "config", "payments"),
    "ops": ("model", "config", "core", "ops"),
    "plugins": ("model", "pricing", "payments"),
}
"""What a part may import of tallyd: itself and what lies under it. Parts not named may import all."""

TIME_AND_CHANCE = {"random", "secrets", "time", "uuid"}
OWNERS_OF_TIME = ("clock.py", "cli/", "ops/systemd.py")
CALLS_OF_TIME = {"now", "today", "utcnow", "time", "time_ns", "monotonic", "uuid4", "uuid1", "random"}
LOOP_LIBRARIES = {"asyncio", "aiosqlite", "trio_asyncio"}


def place(module: Path) -> str:
    """A module's path, as messages name it."""
    base = PACKAGE if module.is_relative_to(PACKAGE) else ROOT
    return module.relative_to(base).as_posix()


def part(module: Path) -> str:
    """The part of the house a module is in: a folder, or a module's own name at the top."""
    return place(module).split("/")[0].removesuffix(".py")


@cache
def nodes(module: Path) -> list[ast.AST]:
    """All that is in the module, parsed."""
    return list(ast.walk(ast.parse(module.read_text(encoding="utf-8"))))


def imports(module: Path) -> Iterator[tuple[int, str]]:
    """Everything a module imports, with the line."""
    for node in nodes(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def each(modules: list[Path]) -> pytest.MarkDecorator:
    """Run a test for each module, by its name."""
    return pytest.mark.parametrize("module", modules, ids=place)


def report(broken: list[str], instead: str) -> None:
    """Fail with every place, and what to use instead."""
    assert not broken, f"{'; '.join(broken)}: {instead}"


pure_modules = [module for module in MODULES if part(module) in PURE]


@each([module for module in MODULES if part(module) in NEAR_MONEY])
def test_no_floats_near_money(module: Path) -> None:
    """Numbers in the engine, the model, the pricing and the payments are Decimal or int (P9); not so seconds."""
    seconds = [node.annotation for node in nodes(module) if isinstance(node, ast.arg) and node.arg.endswith("_s")]
    broken = [
        f"{place(module)}:{node.lineno}"
        for node in nodes(module)
        if (isinstance(node, ast.Constant) and isinstance(node.value, float))
        or (isinstance(node, ast.Name) and node.id == "float" and node not in seconds)
    ]
    report(broken, 'use Decimal("0.1") or an integer; a float cannot hold a tenth')


@each(pure_modules)
def test_the_middle_does_no_io(module: Path) -> None:
    """The pure parts import neither Trio nor a loop, a socket or a database, and define nothing async."""
    impure = {"trio", "socket", "sqlite3", "os", "threading", "structlog", *LOOP_LIBRARIES}
    broken = [
        f"{place(module)}:{line} imports {name}" for line, name in imports(module) if name.split(".")[0] in impure
    ]
    broken += [
        f"{place(module)}:{node.lineno} is async"
        for node in nodes(module)
        if isinstance(node, ast.AsyncFunctionDef | ast.Await)
    ]
    report(broken, "take values and return values; I/O belongs to actors/, store/ and api/")


@each([module for module in MODULES if not place(module).startswith(OWNERS_OF_TIME)])
def test_time_and_chance_have_one_owner(module: Path) -> None:
    """Nobody but clock.py (and the command line) asks the machine for the time or for chance."""
    broken = [
        f"{place(module)}:{line} imports {name}"
        for line, name in imports(module)
        if name.split(".")[0] in TIME_AND_CHANCE - {"uuid"}
    ]
    broken += [
        f"{place(module)}:{node.lineno} calls {ast.unparse(node.func)}"
        for node in nodes(module)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in CALLS_OF_TIME
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in {"datetime", "date", "time", "random", "uuid"}
    ]
    report(broken, "use a Clock, new_uuid(), new_key() or new_secret() of tallyd.clock")


@each([module for module in MODULES if part(module) != "store"])
def test_only_the_store_knows_of_asyncio(module: Path) -> None:
    """Only aiosqlite needs an asyncio loop; nobody else needs to know."""
    broken = [
        f"{place(module)}:{line} imports {name}"
        for line, name in imports(module)
        if name.split(".")[0] in LOOP_LIBRARIES
    ]
    report(broken, "use the Books of tallyd.store")


@each(MODULES)
def test_nothing_is_printed(module: Path) -> None:
    """Logs go through structlog, words for people through click and rich."""
    broken = [
        f"{place(module)}:{node.lineno}"
        for node in nodes(module)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    report(broken, "use structlog in the daemon, click.echo or rich in cli/")


@each([module for module in MODULES if part(module) in BELOW])
def test_imports_point_down(module: Path) -> None:
    """A part imports itself and what lies under it, never what stands on it."""
    allowed = BELOW[part(module)]
    broken = []
    for line, name in imports(module):
        words = name.split(".")
        if words[0] == "tallyd" and len(words) > 1 and words[1] not in (*allowed, "__version__"):
            broken.append(f"{place(module)}:{line} imports {name}")
    report(broken, f"{part(module)} may import {', '.join(allowed) or 'nothing'} of tallyd")


@each(MODULES)
def test_a_module_fits_the_head(module: Path) -> None:
    """No module is longer than four hundred lines."""
    count = len(module.read_text(encoding="utf-8").splitlines())
    broken = [f"{place(module)} has {count} lines"] if count > LINES_MAX else []
    report(broken, "give a noun in it its own module")


@each(MODULES)
def test_a_broad_except_gives_its_reason(module: Path) -> None:
    """Whoever catches everything, and does not raise it again, says why on the line itself."""
    with module.open("rb") as source:
        comments = {
            token.start[0]: token.string
            for token in tokenize.tokenize(source.readline)
            if token.type == tokenize.COMMENT
        }
    broken = []
    for node in nodes(module):
        if isinstance(node, ast.ExceptHandler):
            caught = (
                []
                if node.type is None
                else [name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)]
            )
            broad = node.type is None or {"Exception", "BaseException"} & set(caught)
            reason = comments.get(node.lineno, "").lstrip("# ")
            words = re.sub(r"^noqa: [A-Z0-9, ]+ - ", "", reason)
            cleans_up = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if broad and not cleans_up and len(words.split()) < 3:
                broken.append(f"{place(module)}:{node.lineno}")
    report(broken, "catch what can happen, or write behind it why everything must be caught")


def test_the_rules_see_the_source() -> None:
    """The rules would be worthless if they looked at nothing."""
    assert len(MODULES) > 50
    assert {part(module) for module in MODULES} >= set(PURE) | {"store", "actors", "api", "cli", "ops", "payments"}
