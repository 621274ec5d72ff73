"""Settings: the example file, and `[payments]` with the secrets of its provider."""

import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from click.testing import CliRunner

from tallyd.cli import main
from tallyd.config import Config, ConfigError, Payments, load_config, provider_settings
from tallyd.payments.provider import open_provider

EXAMPLE: Final = Path(__file__).parents[1] / "config" / "tallyd.toml"
SECRET: Final = "sk_test_4eC39HqLyjWDarjtT1zdp7dc"
PAYMENTS: Final = """
[payments]
provider = "stripe"
success_url = "https://app.example.com/paid"
"""


def load(tmp_path: Path, toml: str, **variables: str) -> Config:
    """Read settings from a file with this text, and from variables."""
    path = tmp_path / "tallyd.toml"
    path.write_text(toml, encoding="utf-8")
    return load_config(path, {f"TALLYD_{name}": value for name, value in variables.items()})


def given(tmp_path: Path, toml: str, **variables: str) -> dict[str, str]:
    """What the plugin would be given."""
    return provider_settings(load(tmp_path, toml, **variables).payments)


def test_the_example_holds_the_defaults() -> None:
    """Every value that stands in config/tallyd.toml is the default it says it is."""
    assert load_config(EXAMPLE, {}) == Config()


def test_the_example_names_every_key_of_payments() -> None:
    """Each key is there, under a comment of its own."""
    written = EXAMPLE.read_text(encoding="utf-8")
    section = written.split("[payments]\n")[1].split("\n\n")[0].splitlines()
    keys = set(Payments.__struct_fields__) - {"settings"}
    assert set(tomllib.loads(written)["payments"]) == keys
    for key in keys:
        (place,) = (index for index, line in enumerate(section) if line.startswith(f"{key} = "))
        assert section[place - 1].startswith("# ")


def test_a_provider_s_table_is_texts_of_its_own(tmp_path: Path) -> None:
    """Whatever the plugin calls its settings, they are handed on as they stand."""
    found = given(tmp_path, f'{PAYMENTS}[payments.stripe]\nsecret_key = "{SECRET}"\nanything = "goes"')
    assert found == {"secret_key": SECRET, "anything": "goes"}


def test_only_the_provider_s_own_table_is_handed_on(tmp_path: Path) -> None:
    """The table of a provider that is not in use stays where it is."""
    toml = f'{PAYMENTS}[payments.stripe]\na = "1"\n[payments.other]\nb = "2"'
    assert given(tmp_path, toml) == {"a": "1"}


def test_a_secret_is_read_from_its_file(tmp_path: Path) -> None:
    """`secret_key_file` names a file whose content is `secret_key`, without the line's end."""
    (tmp_path / "key").write_text(f"{SECRET}\n", encoding="utf-8")
    toml = f'{PAYMENTS}[payments.stripe]\nsecret_key_file = "{tmp_path / "key"}"'
    assert given(tmp_path, toml) == {"secret_key": SECRET}


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """A variable takes the place of the key, and of the file that would hold it; and the other way round."""
    (tmp_path / "key").write_text("from a file", encoding="utf-8")
    in_file = f'{PAYMENTS}[payments.stripe]\nsecret_key_file = "/absent"'
    assert given(tmp_path, in_file, PAYMENTS_STRIPE_SECRET_KEY=SECRET) == {"secret_key": SECRET}
    in_toml = f'{PAYMENTS}[payments.stripe]\nsecret_key = "from toml"'
    path = str(tmp_path / "key")
    assert given(tmp_path, in_toml, PAYMENTS_STRIPE_SECRET_KEY_FILE=path) == {"secret_key": "from a file"}


def test_all_of_it_can_come_from_the_environment(tmp_path: Path) -> None:
    """The name of the provider says how the names of the others are read, whatever the order of the alphabet."""
    variables = {
        "PAYMENTS_ACME_PAY_KEY": "k",
        "PAYMENTS_ACME_PAY_SUCCESS_URL": "its own",
        "PAYMENTS_PROVIDER": "acme-pay",
        "PAYMENTS_SUCCESS_URL": "https://app.example.com",
        "PAYMENTS_BUDGET_MS": "700",
    }
    payments = load(tmp_path, "", **variables).payments
    assert provider_settings(payments) == {"key": "k", "success_url": "its own"}
    assert (payments.success_url, payments.budget_ms) == ("https://app.example.com", 700)


@pytest.mark.parametrize(
    ("toml", "variables", "words"),
    [
        ('[payments]\nprovidr = "stripe"', {}, "payments: Object contains unknown field `providr`"),
        ('[payments]\nprovider = "stripe"', {}, "payments.success_url: is missing"),
        (PAYMENTS.replace("https://", ""), {}, "payments.success_url: must be an address"),
        (f'{PAYMENTS}cancel_url = "ftp://x"', {}, "payments.cancel_url: must be an address"),
        (f"{PAYMENTS}budget_ms = 0", {}, "payments.budget_ms"),
        (f"{PAYMENTS}[payments.stripe]\nport = 5", {}, "payments.stripe.port: must be a text"),
        (f'{PAYMENTS}settings = "x"', {}, "payments.settings"),
        ("payments = 5", {}, "payments: Expected `object`"),
        (
            PAYMENTS,
            {"PAYMENTS_STRIPPE_SECRET_KEY": SECRET},
            "TALLYD_PAYMENTS_STRIPPE_SECRET_KEY: there is no such",
        ),
        ("", {"PAYMENTS_STRIPE_SECRET_KEY": SECRET}, "TALLYD_PAYMENTS_STRIPE_SECRET_KEY: there is no such"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, toml: str, variables: dict[str, str], words: str) -> None:
    """A misspelt key, an address that is none and a variable that fits nothing are refused, without the secret."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, toml, **variables)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('secret_key_file = "/absent/key"', "payments.stripe.secret_key_file: /absent/key: No such file"),
        (f'secret_key_file = "/k"\nsecret_key = "{SECRET}"', "secret_key_file: secret_key is set as well"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, table: str, words: str) -> None:
    """The key and the path are in the message, secrets are not."""
    with pytest.raises(ConfigError) as caught:
        given(tmp_path, f"{PAYMENTS}[payments.stripe]\n{table}")
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    """Not one byte of it is in the message."""
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"secret_key_file: .*key is not UTF-8$"):
        given(tmp_path, f'{PAYMENTS}[payments.stripe]\nsecret_key_file = "{tmp_path / "key"}"')


def test_settings_do_not_show_secrets(tmp_path: Path) -> None:
    """However settings are shown, of a provider's table there is the name only."""
    config = load(tmp_path, f'{PAYMENTS}[payments.stripe]\nsecret_key = "{SECRET}"')
    for shown in (repr(config), str(config), repr(config.payments), repr(config.payments.__rich_repr__())):
        assert SECRET not in shown
        assert "stripe" in shown
    assert msgspec.structs.replace(config.payments, settings={}) != config.payments


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"provider": "none-such"}, "there is no payment plugin none-such"),
        ({"stripe": {"secret_key": "pk_live_1"}}, "secret_key: must be Stripe's secret key"),
    ],
)
def test_config_check_opens_the_plugin(tmp_path: Path, extra: dict[str, Any], words: str) -> None:
    """What the daemon would refuse at start is said before; so is a plugin that is not there."""
    table = extra.get("stripe", {"secret_key": SECRET})
    toml = PAYMENTS.replace("stripe", extra.get("provider", "stripe"))
    lines = "\n".join(f'{key} = "{value}"' for key, value in table.items())
    path = tmp_path / "tallyd.toml"
    path.write_text(f'{toml}[payments.stripe]\n{lines}\nwebhook_secret = "whsec_1"', encoding="utf-8")
    done = CliRunner().invoke(main, ["config", "check", "--config", str(path)])
    assert done.exit_code == 1
    assert words in done.stderr
    assert "pk_live_1" not in done.stderr


def test_config_check_shows_who_takes_payments(tmp_path: Path) -> None:
    """The provider's name is shown, and nothing of its table."""
    path = tmp_path / "tallyd.toml"
    secrets = f'[payments.stripe]\nsecret_key = "{SECRET}"\nwebhook_secret = "whsec_1"'
    path.write_text(PAYMENTS + secrets, encoding="utf-8")
    done = CliRunner().invoke(main, ["config", "check", "--config", str(path)])
    assert done.exit_code == 0, done.stderr
    assert "payments stripe" in done.stdout
    assert SECRET not in done.stdout


def test_a_provider_is_opened_from_its_settings(tmp_path: Path) -> None:
    """The plugin behind the entry point is loaded, with the addresses and the time that are set."""
    table = f'cancel_url = ""\n[payments.stripe]\nsecret_key = "{SECRET}"\nwebhook_secret = "whsec_1"'
    opened = open_provider(load(tmp_path, PAYMENTS + table).payments)
    assert opened is not None
    assert (opened.name, opened.label, opened.cancel_url) == ("stripe", "Stripe", None)
