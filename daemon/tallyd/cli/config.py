"""`tallyd config`: look at settings and catalog before the daemon does."""

import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from tallyd.cli.settings import settings_options
from tallyd.config import Config, ConfigError
from tallyd.engine.catalog import CatalogError, CatalogIssue, check_catalog, read_catalog
from tallyd.model.catalog import Definitions, Meter, Plan
from tallyd.payments.provider import open_provider
from tallyd.payments.registry import CheckoutPluginError
from tallyd.pricing.registry import PluginError, Registry


@click.group("config")
def command() -> None:
    """Look at settings and catalog."""


@command.command("check")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@settings_options
def check(config: Config, as_json: bool) -> None:
    """Read the settings and the catalog and say what is in them, or all that is wrong.

    Needs no daemon. A daemon that runs takes a catalog over on SIGHUP.
    """
    definitions, issues = _read(config)
    if as_json:
        found = {"ok": not issues, "file": config.catalog, "problems": issues}
        click.echo(msgspec.json.encode(found).decode())
    elif issues:
        for issue in issues:
            click.echo(f"{config.catalog}: {issue.where}: {issue.message}", err=True)
        click.echo(f"problems: {len(issues)}; the daemon would refuse this catalog", err=True)
    else:
        _show(config, definitions)
    sys.exit(1 if issues else 0)


def _read(config: Config) -> tuple[Definitions, list[CatalogIssue]]:
    try:
        registry = Registry(inline=config.plugins.inline, disabled=config.plugins.disabled)
        open_provider(config.payments)
    except (CheckoutPluginError, ConfigError, PluginError) as error:
        raise click.ClickException(str(error)) from None
    if config.catalog is None:
        return Definitions(), []
    try:
        definitions = read_catalog(Path(config.catalog).read_text(encoding="utf-8"), config.catalog)
        check_catalog(definitions, registry.models, config.catalog)
    except CatalogError as error:
        return Definitions(), error.issues
    except OSError as error:
        return Definitions(), [CatalogIssue("file", error.strerror or str(error))]
    except UnicodeDecodeError as error:
        return Definitions(), [CatalogIssue("file", f"is not UTF-8 at byte {error.start}")]
    return definitions, []


def _show(config: Config, definitions: Definitions) -> None:
    console = Console()
    unix = f" and unix:{config.http.unix}" if config.http.unix else ""
    console.print(f"books    {config.data_dir}", highlight=False)
    console.print(f"http     {config.http.bind}{unix}", highlight=False)
    console.print(f"socket   {config.socket_path or 'none'}", highlight=False)
    console.print(f"payments {config.payments.provider or 'none: invoices are marked as paid'}", highlight=False)
    if config.catalog is None:
        console.print("catalog  none: events are recorded but not charged; name one with --catalog")
        return
    console.print(f"catalog  {config.catalog}: no problems", highlight=False)
    console.print(f"features {', '.join(feature.key for feature in definitions.features)}", highlight=False)
    meters = {meter.key: meter for meter in definitions.meters}
    for plan in definitions.plans:
        console.print(_plan_table(plan, meters))
    if definitions.model_prices:
        models = sorted({price.model for price in definitions.model_prices})
        console.print(f"own model prices for {', '.join(models)}", highlight=False)


def _plan_table(plan: Plan, meters: dict[str, Meter]) -> Table:
    months = "month" if plan.interval_months == 1 else f"{plan.interval_months} months"
    title = f"plan {plan.key}: {plan.price_amount} {plan.currency} a {months}, {plan.billing_timing}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, expand=False)
    for heading in ("feature", "counts", "pricing", "terms", "cost"):
        table.add_column(heading, overflow="fold")
    for each in plan.features:
        terms = {name: value for name, value in each.pricing.items() if name != "model"}
        cost = each.cost or {}
        table.add_row(
            each.feature,
            _counted(meters[each.meter]) if each.meter else "usageUnits",
            str(each.pricing.get("model", "included")),
            _terms(terms),
            str(cost.get("model", "price table")),
        )
    return table


def _counted(meter: Meter) -> str:
    kind, key = meter.aggregation.type, meter.aggregation.key
    return f"{kind} of {key or 'events'} over {meter.event_name}{', filtered' if meter.filter else ''}"


def _terms(terms: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in terms.items()) or "-"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"({len(value)})"
    if isinstance(value, dict):
        return "/".join(str(key) for key in value)
    return str(value)
