"""What the daemon says about the demo's day, asked over its own API."""

import http.client
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec

from tallyd.cli.demo_day import CUSTOMERS, Day, DemoCustomer
from tallyd.cli.demo_drive import HttpClient
from tallyd.model.moments import DAY_US, iso
from tallyd.model.money import ZERO

CLIENT: Final = "/api/v1/client"
UNPRICED_MAX: Final = 500


class UsageLine(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One customer's use of one feature; money in USD, exact. `limit` is None where there is none."""

    customer: str
    plan: str | None
    feature: str
    events: int
    used: Decimal
    limit: Decimal | None
    cost: Decimal
    revenue: Decimal
    margin: Decimal
    unpriced_events: int


class UnpricedLine(msgspec.Struct, frozen=True, rename="camel"):
    """Events of a customer that lack a price."""

    customer: str
    model: str
    reason: str
    events: int


class Books:
    """Everything the demo shows."""

    def __init__(self, client: HttpClient, day: Day) -> None:
        self._client = client
        self._start = iso(day.start - day.start % DAY_US)
        self._at = iso(day.end)
        self.lines: list[UsageLine] = []
        for customer in CUSTOMERS:
            self._read(customer)
        self.unpriced_total, self.unpriced = self._unpriced()

    def _read(self, customer: DemoCustomer) -> None:
        features = self._charged(customer)
        query = urlencode({"groupBy": "FEATURE", "start": self._start, "customerReferenceId": customer.reference})
        for group in self._client.get(f"/api/v1/analytics/usage?{query}")["items"]:
            charged = features.get(group["key"])
            used = charged["used"] if charged else group["inputTokens"] + group["outputTokens"]
            self.lines.append(
                UsageLine(
                    customer=customer.reference,
                    plan=customer.plan,
                    feature=group["key"],
                    events=group["events"],
                    used=Decimal(used),
                    limit=_optional(charged.get("limit") if charged else None),
                    cost=Decimal(group["cost"]),
                    revenue=Decimal(group["revenue"]),
                    margin=Decimal(group["margin"]),
                    unpriced_events=group["unpricedEvents"],
                )
            )

    def _charged(self, customer: DemoCustomer) -> dict[str, dict[str, Any]]:
        path = f"{CLIENT}/customers/{customer.reference}/charges?{urlencode({'at': self._at})}"
        found = {}
        for subscription in self._client.get(path)["subscriptions"]:
            for feature in subscription["features"]:
                found[feature["featureKey"]] = feature
        return found

    def _unpriced(self) -> tuple[int, list[UnpricedLine]]:
        page = self._client.get(f"{CLIENT}/events?unpriced=true&limit={UNPRICED_MAX}")
        counts: dict[tuple[str, str, str], int] = {}
        for event in page["items"]:
            place = (event["customerReferenceId"], event.get("costInput", {}).get("model", ""), event["unpriced"])
            counts[place] = counts.get(place, 0) + 1
        return page["pagination"]["total"], [UnpricedLine(*place, count) for place, count in counts.items()]


def _optional(value: Any) -> Decimal | None:
    return None if value is None else Decimal(value)


def read_metrics(address: str) -> dict[str, Decimal]:
    """Return the daemon's metrics by name."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    pairs = (line.split() for line in lines if not line.startswith("#"))
    return {name: Decimal(value) for name, value in pairs}


def totals(lines: list[UsageLine]) -> tuple[Decimal, Decimal, Decimal]:
    """Return cost, revenue and margin of all lines."""
    return (
        sum((line.cost for line in lines), ZERO),
        sum((line.revenue for line in lines), ZERO),
        sum((line.margin for line in lines), ZERO),
    )
