"""Settings: `tallyd.toml`, then `TALLYD_*` variables, then command-line options, into one frozen Config."""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from tallyd.model.access import Scope
from tallyd.model.periods import zone_problem

Positive = Annotated[int, msgspec.Meta(gt=0)]
PositiveNumber = Annotated[float, msgspec.Meta(gt=0)]

ENVIRONMENT_PREFIX: Final = "TALLYD_"
CONFIG_FILE_VARIABLE: Final = "TALLYD_CONFIG_FILE"
PROVIDER_VARIABLE: Final = "TALLYD_PAYMENTS_PROVIDER"
FILE_SUFFIX: Final = "_file"
"""Ends a key of a payment provider whose value is in the file that is named."""
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
    timezone: str = "UTC"


class Invoices(_Section, frozen=True, kw_only=True):
    """`[invoices]`: who sends them; what is empty is left out of the page."""

    name: str = ""
    address: tuple[str, ...] = ()
    email: str = ""
    tax_id: str = ""
    footer: str = ""


class Payments(_Section, frozen=True, kw_only=True):
    """`[payments]`: the provider on whose page invoices are paid, and the tables of providers, secrets among them.

    Attributes:
        provider: name of a payment plugin; empty for none.
        success_url: where customers go after paying.
        cancel_url: where they go when they turn back; empty for no way back.
        budget_ms: how long an answer of the provider is waited for.
        settings: texts by key, by the name of the table; never shown.
    """

    provider: str = ""
    success_url: str = ""
    cancel_url: str = ""
    budget_ms: Positive = 15_000
    settings: Mapping[str, Mapping[str, str]] = {}

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = {**msgspec.structs.asdict(self), "settings": sorted(self.settings)}
        return list(shown.items())

    def __repr__(self) -> str:
        return f"Payments({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


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
    invoices: Invoices = Invoices()
    payments: Payments = Payments()
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
    variables = dict(os.environ if environment is None else environment)
    for name in sorted(variables, key=lambda name: (name != PROVIDER_VARIABLE, name)):  # it says what others mean
        if name.startswith(ENVIRONMENT_PREFIX) and name != CONFIG_FILE_VARIABLE:
            _put_variable(raw, name, variables[name])
    for place, value in (overrides or {}).items():
        if value is not None:
            _put(raw, place.split("."), value)
    config = _convert(raw, "settings")
    _check_payments(config.payments)
    return config


def provider_settings(payments: Payments) -> dict[str, str]:
    """Return what the payment plugin is given: its table, with the content of the files that it names.

    Raises:
        ConfigError: a file cannot be read, or a key is given twice.
    """
    given = dict(payments.settings.get(payments.provider, {}))
    for key in [key for key in given if key.endswith(FILE_SUFFIX)]:
        place, path = f"payments.{payments.provider}.{key}", given.pop(key)
        name = key.removesuffix(FILE_SUFFIX)
        if name in given:
            raise ConfigError(f"{place}: {name} is set as well; set one of the two")
        try:
            given[name] = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"{place}: {path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{place}: {path} is not UTF-8") from None
    return given


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _convert(raw: dict[str, Any], source: str) -> Config:
    try:
        config = msgspec.convert(_with_provider_tables(raw, source), Config)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        where = place.rstrip("`").lstrip(".")
        raise ConfigError(f"{source}: {where + ': ' if where else ''}{message}") from None
    if not _is_address(config.http.bind):
        text = f"must be HOST:PORT, such as 127.0.0.1:8787, or {NOBODY}; it is {config.http.bind!r}"
        raise ConfigError(f"{source}: http.bind: {text}")
    zone = zone_problem(config.account.timezone)
    if zone:
        raise ConfigError(f"{source}: account.timezone: {zone}")
    return config


def _with_provider_tables(raw: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the settings with the tables of payment providers, which may have any name, put together."""
    payments = raw.get("payments")
    if not isinstance(payments, dict):
        return raw
    tables = {name: value for name, value in payments.items() if isinstance(value, dict)}
    for name, table in tables.items():
        for key, value in table.items():
            if not isinstance(value, str):
                raise ConfigError(f"{source}: payments.{name}.{key}: must be a text")
    plain = {name: value for name, value in payments.items() if name not in tables}
    return {**raw, "payments": {"settings": tables, **plain}}


def _check_payments(payments: Payments) -> None:
    if payments.provider and not payments.success_url:
        raise ConfigError("payments.success_url: is missing: where customers go after paying")
    for name in ("success_url", "cancel_url"):
        text = getattr(payments, name)
        if text and not _is_url(text):
            raise ConfigError(f"payments.{name}: must be an address such as https://app.example.com/paid")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:  # it begins like an IPv6 address, and is none
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


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
    if not _put_provider_variable(raw, words, text):
        raise ConfigError(f"{name}: there is no such setting; see config/tallyd.toml")


def _put_provider_variable(raw: dict[str, Any], words: str, text: str) -> bool:
    """Put `TALLYD_PAYMENTS_STRIPE_SECRET_KEY=…` at `payments.stripe.secret_key`, if Stripe is set up; say whether.

    It takes the place of `secret_key_file`, and the other way round.
    """
    payments: dict[str, Any] = raw.get("payments", {})
    known = [name for name, table in payments.items() if isinstance(table, dict)]
    for provider in [payments.get("provider", ""), *known]:
        prefix = f"payments_{re.sub(r'[^a-z0-9]', '_', provider.lower())}_"
        key = words.removeprefix(prefix)
        if provider and key and words.startswith(prefix):
            table = payments.setdefault(provider, {})
            other = key.removesuffix(FILE_SUFFIX) if key.endswith(FILE_SUFFIX) else key + FILE_SUFFIX
            table.pop(other, None)
            table[key] = text
            return True
    return False


def _typed(name: str, text: str, wanted: Any) -> Any:
    value: Any = text
    if getattr(wanted, "__origin__", None) is tuple:
        value = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return msgspec.convert(value, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from None
