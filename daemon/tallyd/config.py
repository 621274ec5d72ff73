"""Settings: `tallyd.toml`, then `TALLYD_*` variables, then command-line options, into one frozen Config."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from tallyd.model.access import Scope

Positive = Annotated[int, msgspec.Meta(gt=0)]
PositiveNumber = Annotated[float, msgspec.Meta(gt=0)]

ENVIRONMENT_PREFIX: Final = "TALLYD_"
CONFIG_FILE_VARIABLE: Final = "TALLYD_CONFIG_FILE"
NOBODY: Final = "none"
PORT_MAX: Final = 65_535
SOCKET_NAME: Final = "tallyd.sock"


class ConfigError(Exception):
    """Settings that cannot be used: names the file or variable and the key."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An unknown key is an error, so that a misspelt one is noticed."""


class Store(_Section, frozen=True, kw_only=True):
    """`[store]`: where the books are."""

    data_dir: str = "./data"


class Http(_Section, frozen=True, kw_only=True):
    """`[http]`: addresses HTTP is served on. `none` for bind or an absent unix path serves none."""

    bind: str = "127.0.0.1:8787"
    unix: str | None = None
    body_bytes_max: Positive = 4_194_304
    bodies_bytes_max: Positive = 134_217_728


class Peer(_Section, frozen=True, kw_only=True):
    """`[[socket.peers]]`: scopes of whoever connects with this uid or gid."""

    uid: int | None = None
    gid: int | None = None
    scopes: tuple[Scope, ...]


class Socket(_Section, frozen=True, kw_only=True):
    """`[socket]`: the Unix socket for JSON-RPC."""

    path: str | None = None
    mode: str = "0660"
    group: str | None = None
    default_scopes: tuple[Scope, ...] = ("ingest", "read")
    peers: tuple[Peer, ...] = ()
    connections_max: Positive = 4_096
    line_bytes_max: Positive = 4_194_304
    line_timeout_s: PositiveNumber = 30.0
    send_timeout_s: PositiveNumber = 30.0
    in_flight_max: Positive = 256


class Customers(_Section, frozen=True, kw_only=True):
    """`[customers]`: who is metered."""

    auto_create: bool = True
    resident_max: Positive = 50_000
    idle_s: PositiveNumber = 600.0


class Features(_Section, frozen=True, kw_only=True):
    """`[features]`: what is metered."""

    auto_create: bool = True


class Plugins(_Section, frozen=True, kw_only=True):
    """`[plugins]`: which pricing models are trusted with the daemon's own thread, and how long others get."""

    inline: tuple[str, ...] = ("included", "usage", "graduated", "llm_tokens")
    disabled: tuple[str, ...] = ()
    budget_ms: Positive = 250


class AccountSettings(_Section, frozen=True, kw_only=True):
    """`[account]`: what holds for the whole account."""

    currency: str = "USD"
    business_id: str = "tallyd"


class Log(_Section, frozen=True, kw_only=True):
    """`[log]`: structured logs on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Config(_Section, frozen=True, kw_only=True):
    """All settings. Sections and keys are those of config/tallyd.toml."""

    store: Store = Store()
    http: Http = Http()
    socket: Socket = Socket()
    customers: Customers = Customers()
    features: Features = Features()
    plugins: Plugins = Plugins()
    account: AccountSettings = AccountSettings()
    log: Log = Log()
    catalog: str | None = None
    shutdown_s: PositiveNumber = 3.0

    @property
    def data_dir(self) -> Path:
        """The directory of the books."""
        return Path(self.store.data_dir)

    @property
    def socket_path(self) -> str | None:
        """Where the Unix socket is, absolute; None when none is served."""
        if self.socket.path == NOBODY:
            return None
        return str(Path(self.socket.path or self.data_dir / SOCKET_NAME).absolute())


def load_config(
    path: Path | None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Read the settings.

    Args:
        path: the TOML file, or None for the defaults.
        environment: where `TALLYD_SECTION_KEY` variables come from.
        overrides: `{"section.key": value}` from the command line; None values are left out.

    Raises:
        ConfigError: names the file or variable, the key, and what it should be.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        raw = _read_toml(path)
    _convert(raw, str(path) if path else "defaults")  # errors of the file name the file
    for name, value in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(ENVIRONMENT_PREFIX) and name != CONFIG_FILE_VARIABLE:
            _put_variable(raw, name, value)
    for place, value in (overrides or {}).items():
        if value is not None:
            _put(raw, place.split("."), value)
    return _convert(raw, "settings")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _convert(raw: dict[str, Any], source: str) -> Config:
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        where = place.rstrip("`").lstrip(".")
        raise ConfigError(f"{source}: {where + ': ' if where else ''}{message}") from None
    if not _is_address(config.http.bind):
        text = f"must be HOST:PORT, such as 127.0.0.1:8787, or {NOBODY}; it is {config.http.bind!r}"
        raise ConfigError(f"{source}: http.bind: {text}")
    return config


def _is_address(bind: str) -> bool:
    host, _, port = bind.rpartition(":")
    return bind == NOBODY or (host != "" and port.isascii() and port.isdigit() and int(port) <= PORT_MAX)


def _put(raw: dict[str, Any], place: list[str], value: Any) -> None:
    *sections, key = place
    for section in sections:
        raw = raw.setdefault(section, {})
    raw[key] = value


def _put_variable(raw: dict[str, Any], name: str, text: str) -> None:
    """Put `TALLYD_HTTP_BIND=…` at `http.bind`. Lists are comma-separated."""
    words = name.removeprefix(ENVIRONMENT_PREFIX).lower()
    for field in msgspec.structs.fields(Config):
        if words == field.encode_name:
            _put(raw, [words], _typed(name, text, field.type))
            return
        if words.startswith(f"{field.encode_name}_") and isinstance(field.default, _Section):
            key = words.removeprefix(f"{field.encode_name}_")
            for inner in msgspec.structs.fields(type(field.default)):
                if inner.encode_name == key:
                    _put(raw, [field.encode_name, key], _typed(name, text, inner.type))
                    return
    raise ConfigError(f"{name}: there is no such setting; see config/tallyd.toml")


def _typed(name: str, text: str, wanted: Any) -> Any:
    value: Any = text
    if getattr(wanted, "__origin__", None) is tuple:
        value = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return msgspec.convert(value, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from None
