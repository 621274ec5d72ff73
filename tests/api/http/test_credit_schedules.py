"""Credit models, weights and prices over the native API, on a real daemon (CONTRACTS 1.2, 1.7, E6)."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from harness import NOW, Running, running
from tallyd.model.moments import HOUR_US, iso

CREDITS: Final = "/api/v1/monetization/credits"
CATALOG: Final = """
[[features]]
key = "chat"

[[credit_models]]
key = "tokens"
denomination = "TOKENS"
"""


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a daemon that knows a feature and a credit model."""
    async with running(tmp_path, catalog=CATALOG) as started:
        yield started


async def post(daemon: Running, path: str, *, expect: int = 201, **body: Any) -> Any:
    """Post something; return the data, or the error."""
    reply = await daemon.http.post(CREDITS + path, json=body)
    assert reply.status_code == expect, reply.text
    answer = json.loads(reply.content, parse_float=Decimal)
    return answer["data"] if answer["success"] else answer["error"]


async def get(daemon: Running, path: str, *, expect: int = 200) -> Any:
    """Get something."""
    reply = await daemon.http.get(path)
    assert reply.status_code == expect, reply.text
    return json.loads(reply.content, parse_float=Decimal).get("data")


async def delete(daemon: Running, path: str) -> tuple[int, Any]:
    """Delete something; return the status and the whole answer."""
    reply = await daemon.http.delete(CREDITS + path)
    return reply.status_code, reply.json()


def sent(*rows: tuple[str | None, str]) -> list[dict[str, Any]]:
    """Weights of the feature as they are sent: (model, weight)."""
    return [
        {"featureKey": "chat", "weight": value, **({"model": model} if model else {})} for model, value in rows
    ]


async def test_weights_are_published_and_listed(daemon: Running) -> None:
    """A batch without an instant holds from now on; numbers come back digit by digit."""
    rows = await post(daemon, "/weights/publish", weights=sent((None, "2"), ("gpt-4o", "8.000001")))
    assert [row["weight"] for row in rows] == [2, Decimal("8.000001")]
    assert rows[1] | {"id": "", "weight": 0} == {
        "id": "",
        "featureKey": "chat",
        "model": "gpt-4o",
        "weight": 0,
        "effectiveFrom": iso(NOW),
        "createdAt": iso(NOW),
    }
    assert await get(daemon, f"{CREDITS}/weights") == rows


async def test_e6_publishing_weights(daemon: Running) -> None:
    """Past: 400. The same batch: the same rows. Another batch at that instant: 409. In force: not deleted (E6)."""
    ahead = iso(NOW + HOUR_US)
    past = await post(
        daemon, "/weights/publish", expect=400, weights=sent((None, "2")), effectiveFrom=iso(NOW - 1)
    )
    assert past["code"] == "validation_failed"
    assert "effectiveFrom" in past["message"]
    rows = await post(daemon, "/weights/publish", weights=sent((None, "2")), effectiveFrom=ahead)
    again = await post(
        daemon,
        "/weights/publish",
        expect=200,
        weights=sent((None, "2.0")),
        effectiveFrom="2026-11-21T14:00:00+01:00",
    )
    assert again == rows
    other = await post(daemon, "/weights/publish", expect=409, weights=sent((None, "3")), effectiveFrom=ahead)
    assert other["code"] == "conflict"
    daemon.clock.move(HOUR_US)
    status, answer = await delete(daemon, f"/weights/{rows[0]['id']}")
    assert (status, answer["error"]["code"]) == (400, "validation_failed")
    assert len(await get(daemon, f"{CREDITS}/weights/history")) == 1


async def test_e6_a_scheduled_weight_may_be_taken_back(daemon: Running) -> None:
    """What lies ahead is listed after what is in force, and can be deleted once; the history keeps what was."""
    now = await post(daemon, "/weights/publish", weights=sent((None, "2")))
    (ahead,) = await post(daemon, "/weights/publish", weights=sent((None, "3")), effectiveFrom=iso(NOW + HOUR_US))
    assert await get(daemon, f"{CREDITS}/weights") == [*now, ahead]
    status, answer = await delete(daemon, f"/weights/{ahead['id']}")
    assert (status, answer["success"]) == (200, True)
    assert await get(daemon, f"{CREDITS}/weights") == now
    assert (await delete(daemon, f"/weights/{ahead['id']}"))[0] == 404


async def test_a_weight_that_was_replaced_is_in_the_history_only(daemon: Running) -> None:
    """The list has what is in force; the history has all, oldest first."""
    first = await post(daemon, "/weights/publish", weights=sent((None, "2")))
    daemon.clock.move(1)
    second = await post(daemon, "/weights/publish", weights=sent((None, "3")))
    assert await get(daemon, f"{CREDITS}/weights") == second
    assert await get(daemon, f"{CREDITS}/weights/history") == first + second


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "weights"),
        ({"weights": []}, "weights"),
        ({"weights": [{"featureKey": "chat"}]}, "weights[0].weight"),
        ({"weights": [{"featureKey": "chat", "weight": 0}]}, "weights[0].weight"),
        ({"weights": [{"featureKey": "chat", "weight": 1000001}]}, "weights[0].weight"),
        ({"weights": [{"featureKey": "chat", "weight": "0.0000001"}]}, "weights[0].weight"),
        ({"weights": [{"featureKey": "no", "weight": 1}]}, "weights[0].featureKey"),
        ({"weights": [{"featureKey": "chat", "weight": 1, "model": ""}]}, "weights[0].model"),
        ({"weights": [{"featureKey": "chat", "weight": 1, "kind": "x"}]}, "weights[0].kind"),
        ({"weights": [{"featureKey": "chat", "weight": 1, "wieght": 1}]}, "weights[0].wieght"),
        ({"weights": [{"featureKey": "chat", "weight": 1}], "effectiveFrom": "soon"}, "effectiveFrom"),
        (
            {"weights": [{"featureKey": "chat", "weight": 1}], "effectiveFrom": "2500-01-01T00:00:00Z"},
            "effectiveFrom",
        ),
    ],
)
async def test_a_bad_weight_is_refused_by_field(daemon: Running, body: dict[str, Any], field: str) -> None:
    """The message names the field, and nothing is published."""
    error = await post(daemon, "/weights/publish", expect=400, **body)
    assert error["message"].startswith(f"Validation failed: {field}: ")
    assert await get(daemon, f"{CREDITS}/weights/history") == []


async def test_prices_are_published_and_the_current_ones_shown_to_clients(daemon: Running) -> None:
    """Clients see the prices in force; future ones only the operator (1.3)."""
    price = {"creditModelKey": "tokens", "pricePerCredit": "0.02"}
    (now,) = await post(daemon, "/prices/publish", prices=[price])
    (ahead,) = await post(
        daemon,
        "/prices/publish",
        prices=[{**price, "pricePerCredit": "0.03", "currency": "USD"}],
        effectiveFrom=iso(NOW + HOUR_US),
    )
    assert (now["pricePerCredit"], now["currency"], now["denomination"]) == (Decimal("0.02"), "USD", "TOKENS")
    assert await get(daemon, "/api/v1/client/credits/prices") == [now]
    assert await get(daemon, f"{CREDITS}/prices") == [now, ahead]
    daemon.clock.move(HOUR_US)
    assert await get(daemon, "/api/v1/client/credits/prices") == [ahead]
    assert (await delete(daemon, f"/prices/{now['id']}"))[0] == 400
    assert await get(daemon, f"{CREDITS}/prices/history") == [now, ahead]


async def test_a_scheduled_price_may_be_taken_back(daemon: Running) -> None:
    """A price that lies ahead can be deleted; the same batch published twice is one."""
    batch = [{"creditModelKey": "tokens", "pricePerCredit": 2}]
    (ahead,) = await post(daemon, "/prices/publish", prices=batch, effectiveFrom=iso(NOW + 1))
    again = await post(daemon, "/prices/publish", expect=200, prices=batch, effectiveFrom=iso(NOW + 1))
    assert again == [ahead]
    dearer = [{"creditModelKey": "tokens", "pricePerCredit": 3}]
    await post(daemon, "/prices/publish", expect=409, prices=dearer, effectiveFrom=iso(NOW + 1))
    assert (await delete(daemon, f"/prices/{ahead['id']}"))[0] == 200
    assert await get(daemon, f"{CREDITS}/prices") == []


@pytest.mark.parametrize(
    ("price", "field"),
    [
        ({"creditModelKey": "no", "pricePerCredit": 1}, "prices[0].creditModelKey"),
        ({"creditModelKey": "tokens", "pricePerCredit": -1}, "prices[0].pricePerCredit"),
        ({"creditModelKey": "tokens", "pricePerCredit": 1, "currency": "usd"}, "prices[0].currency"),
        ({"creditModelKey": "tokens"}, "prices[0].pricePerCredit"),
    ],
)
async def test_a_bad_price_is_refused_by_field(daemon: Running, price: dict[str, Any], field: str) -> None:
    """The message names the field."""
    error = await post(daemon, "/prices/publish", expect=400, prices=[price])
    assert error["message"].startswith(f"Validation failed: {field}: ")


async def test_a_credit_model_is_made_with_tansos_fields(daemon: Running) -> None:
    """Hard, fifo, four digits unless said otherwise; its key is its denomination in small letters (1.7)."""
    made = await post(
        daemon, "/models", name="Minutes", denomination="MINUTES", rolloverPolicy="CAPPED", rolloverCap="50.5"
    )
    assert made["id"]
    assert made | {"id": ""} == {
        "id": "",
        "key": "minutes",
        "name": "Minutes",
        "denomination": "MINUTES",
        "charge": "units",
        "onlyNamed": False,
        "hardLimit": True,
        "features": [],
        "precision": 4,
        "burnOrder": "fifo",
        "drawPriority": 0,
        "rollover": {"policy": "CAPPED", "cap": Decimal("50.5")},
        "rolloverPolicy": "CAPPED",
        "rolloverCap": Decimal("50.5"),
        "onShortfall": "bill",
        "source": "tanso",
        "createdAt": iso(NOW),
        "modifiedAt": iso(NOW),
    }
    assert await get(daemon, f"{CREDITS}/models/minutes") == made
    assert await get(daemon, f"{CREDITS}/models/{made['id']}") == made
    assert [model["key"] for model in await get(daemon, f"{CREDITS}/models")] == ["tokens", "minutes"]
    assert daemon.core.catalogue.terms.credit_models["minutes"].rollover.cap == Decimal("50.5")
    await get(daemon, f"{CREDITS}/models/no", expect=404)


async def test_a_credit_model_is_made_with_tallyds_fields(daemon: Running) -> None:
    """Every rule that a catalog file knows can be sent, in camelCase."""
    made = await post(
        daemon,
        "/models",
        key="wallet",
        denomination="USD",
        currency="USD",
        charge="price",
        hardLimit=False,
        features=["chat"],
        precision=2,
        burnOrder="expiry",
        drawPriority=3,
        expiresAfterDays=30,
        rollover={"policy": "PERCENTAGE", "percentage": 75, "expiresAfterDays": 10, "maxCount": 1},
        overage={"limit": 5, "behavior": "carry_deficit", "pricePerUnit": "0.01", "currency": "USD"},
        onShortfall="waive",
        lowAt=2,
        topUp={"below": 1, "amount": 10, "mostAMonth": 2},
        recurring={"amount": 1, "every": "week", "expires": False},
    )
    assert made["rollover"] == {"policy": "PERCENTAGE", "percentage": 75, "expiresAfterDays": 10, "maxCount": 1}
    assert made["overage"]["pricePerUnit"] == Decimal("0.01")
    assert made["topUp"] == {"below": 1, "amount": 10, "mostAMonth": 2}
    assert daemon.core.catalogue.credit_models["wallet"].top_up is not None


async def test_a_denomination_or_key_is_used_once(daemon: Running) -> None:
    """Two models of one denomination would be mistaken for each other: 409 (1.7)."""
    error = await post(daemon, "/models", expect=409, denomination="TOKENS", key="more")
    assert "denomination" in error["message"]
    error = await post(daemon, "/models", expect=409, denomination="OTHER", key="tokens")
    assert "key" in error["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "denomination"),
        ({"denomination": 5}, "denomination"),
        ({"denomination": "x" * 33}, "denomination"),
        ({"denomination": "X", "key": ""}, "key"),
        ({"denomination": "X", "rolloverPolicy": "CAPPED"}, "rolloverCap"),
        ({"denomination": "X", "rolloverPolicy": "SOME"}, "rolloverPolicy"),
        ({"denomination": "X", "rolloverPolicy": "FULL", "rollover": {}}, "rolloverPolicy"),
        ({"denomination": "X", "rollover": {"policy": "CAPPED"}}, "rollover.cap"),
        ({"denomination": "X", "hardLimt": True}, "hardLimt"),
        ({"denomination": "X", "hardLimit": "yes"}, "hardLimit"),
        ({"denomination": "X", "precision": 19}, "precision"),
        ({"denomination": "X", "expiresAfterDays": 0}, "expiresAfterDays"),
        ({"denomination": "X", "overage": {"pricePerUnit": 1}}, "overage.currency"),
        ({"denomination": "X", "topUp": {"below": 1, "amount": 1, "mostAMonth": 0}}, "topUp.mostAMonth"),
        ({"denomination": "X", "charge": "price"}, "currency"),
        ({"denomination": "X", "features": ["no"]}, "features[0]"),
    ],
)
async def test_a_bad_credit_model_is_refused_by_field(daemon: Running, body: dict[str, Any], field: str) -> None:
    """The message names the field as it was sent."""
    error = await post(daemon, "/models", expect=400, **body)
    assert error["message"].startswith(f"Validation failed: {field}: ")


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/weights/publish", "read"),
        ("DELETE", "/weights/x", "read"),
        ("POST", "/prices/publish", "read"),
        ("DELETE", "/prices/x", "read"),
        ("POST", "/models", "read"),
        ("GET", "/weights", "ingest"),
        ("GET", "/models", "ingest"),
    ],
)
async def test_changes_need_admin_and_reads_need_read(daemon: Running, method: str, path: str, scope: str) -> None:
    """A key without the scope is refused."""
    headers = await daemon.key_for(scope)
    reply = await daemon.http.request(method, CREDITS + path, headers=headers, json={})
    assert reply.status_code == 403, reply.text


async def test_what_was_published_is_there_after_a_restart(tmp_path: Path) -> None:
    """Weights, prices and models outlive the daemon."""
    async with running(tmp_path, catalog=CATALOG) as daemon:
        rows = await post(daemon, "/weights/publish", weights=sent((None, "2")))
        made = await post(daemon, "/models", denomination="X")
        prices = await post(daemon, "/prices/publish", prices=[{"creditModelKey": "x", "pricePerCredit": 1}])
    async with running(tmp_path, catalog=CATALOG) as daemon:
        assert await get(daemon, f"{CREDITS}/weights") == rows
        assert await get(daemon, f"{CREDITS}/models/x") == made
        assert await get(daemon, f"{CREDITS}/prices") == prices
