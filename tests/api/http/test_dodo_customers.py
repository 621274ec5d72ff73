"""Dodo's customers, against a running daemon (CONTRACTS 2.7, F8)."""

from pathlib import Path
from typing import Any

import dodopayments
import pytest
import trio

from harness import NOW, Running, running
from tallyd.model.moments import SECOND_US, iso

Body = dict[str, Any]
ANN: Body = {"name": "Ann Lee", "email": "ann@example.com"}


async def names(daemon: Running, **query: Any) -> list[str]:
    """Return the names on a page of the list."""
    reply = await daemon.http.get("/customers", params=query)
    assert reply.status_code == 200, reply.text
    return [item["name"] for item in reply.json()["items"]]


class TestCreate:
    """POST /customers."""

    async def test_dodos_own_client_creates(self, daemon: Running) -> None:
        """The dodopayments package makes a customer, reads it back, and its id is its reference everywhere."""
        made = await daemon.dodo.customers.create(
            **ANN, phone_number="+4912345", metadata={"tier": "gold", "n": 1}
        )
        assert made.customer_id.startswith("cus_")
        assert made.to_dict(mode="json", exclude_none=True) == {
            "business_id": "tallyd",
            "customer_id": made.customer_id,
            **ANN,
            "phone_number": "+4912345",
            "metadata": {"tier": "gold", "n": 1},
            "created_at": iso(NOW),
        }
        assert await daemon.dodo.customers.retrieve(made.customer_id) == made
        await daemon.subscribe(made.customer_id)
        native = (await daemon.http.get(f"/api/v1/client/customers/{made.customer_id}")).json()["data"]
        assert (native["email"], native["phoneNumber"], len(native["subscriptions"])) == (
            "ann@example.com",
            "+4912345",
            1,
        )

    async def test_same_address(self, daemon: Running) -> None:
        """Two customers may have one e-mail address."""
        first, second = [await daemon.dodo.customers.create(**ANN) for _ in range(2)]
        assert first.customer_id != second.customer_id

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"name": ""}, "name"),
            ({"name": None}, "name"),
            ({"email": "nowhere"}, "email"),
            ({"email": "@example.com"}, "email"),
            ({"email": 1}, "email"),
            ({"phone_number": ""}, "phone_number"),
            ({"metadata": []}, "metadata"),
        ],
        ids=str,
    )
    async def test_bad_bodies(self, daemon: Running, fields: Body, field: str) -> None:
        """A field that cannot be used is 422 and named; nobody is made."""
        reply = await daemon.http.post("/customers", json={**ANN, **fields})
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST_BODY")
        assert reply.json()["message"].startswith(f"{field}: ")
        assert await names(daemon) == []


class TestRetrieve:
    """GET /customers and /customers/{id}."""

    async def test_by_any_name(self, daemon: Running) -> None:
        """Customers of other origin go by reference, else Stripe id, else UUID, and are found by that."""
        stripe_id, uuid = "cus_stripe", "6a1ce1a0-2222-4b7b-8f58-0a1b2c3d4e5f"
        for who in ({"customerReferenceId": "ann"}, {"stripeCustomerId": stripe_id}, {"customerId": uuid}):
            reply = await daemon.http.post("/api/v1/client/events", json={"eventName": "api_call", **who})
            assert reply.status_code == 201, reply.text
        for name in ("ann", stripe_id, uuid):
            found = await daemon.dodo.customers.retrieve(name)
            assert (found.customer_id, found.name, found.email) == (name, name, "")
        assert await names(daemon) == [uuid, stripe_id, "ann"]

    async def test_unknown(self, daemon: Running) -> None:
        """Nobody is 404, in Dodo's shape, whatever the path below."""
        for path in ("", "/nowhere/at/all"):
            reply = await daemon.http.get(f"/customers/cus_none{path}")
            assert (reply.status_code, reply.json()["code"]) == (404, "NOT_FOUND")

    async def test_filters_and_pages(self, daemon: Running) -> None:
        """Listed newest first: by address, by part of the name, by time of creation, by page."""
        for number, name in enumerate(("Ann Lee", "Bob Ray", "Cat Lee")):
            await daemon.dodo.customers.create(name=name, email=f"c{number}@example.com")
            daemon.clock.move(SECOND_US)
        native = {"customerReferenceId": "dan", "firstName": "Dan", "lastName": "Lee"}
        assert (await daemon.http.post("/api/v1/client/customers", json=native)).status_code == 201
        assert await names(daemon) == ["Dan Lee", "Cat Lee", "Bob Ray", "Ann Lee"]
        assert await names(daemon, name="lEE") == ["Dan Lee", "Cat Lee", "Ann Lee"]
        assert await names(daemon, name="n l") == ["Dan Lee", "Ann Lee"]
        assert await names(daemon, email="c1@example.com") == ["Bob Ray"]
        later = iso(NOW + SECOND_US)
        assert await names(daemon, created_at_gte=later) == ["Dan Lee", "Cat Lee", "Bob Ray"]
        assert await names(daemon, created_at_lte=later) == ["Bob Ray", "Ann Lee"]
        assert await names(daemon, page_size=3, page_number=1) == ["Ann Lee"]
        assert await names(daemon, page_number=4) == []
        for query in ({"page_size": 101}, {"created_at_gte": "today"}):
            reply = await daemon.http.get("/customers", params=query)
            assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_QUERY_PARAMS")


class TestChange:
    """PATCH /customers/{id}."""

    async def test_dodos_own_client_changes(self, tmp_path: Path) -> None:
        """Only what is sent changes, null clears, and it is so after a restart."""
        async with running(tmp_path) as daemon:
            made = await daemon.dodo.customers.create(**ANN, phone_number="+49123", metadata={"tier": "gold"})
            ref = made.customer_id
            await daemon.dodo.customers.update(ref, name="Ann Ray", metadata={"tier": "tin"})
            changed = await daemon.dodo.customers.update(ref, phone_number=None)
            assert (changed.name, changed.email, changed.phone_number) == ("Ann Ray", "ann@example.com", None)
            assert changed.metadata == {"tier": "tin"}
        async with running(tmp_path) as daemon:
            assert await daemon.dodo.customers.retrieve(ref) == changed

    async def test_a_native_customer(self, daemon: Running) -> None:
        """A customer of the native API keeps what Dodo does not know; a new name takes the place of both."""
        native = {
            "customerReferenceId": "dan",
            "firstName": "Dan",
            "lastName": "Lee",
            "address": {"city": "Bonn"},
        }
        await daemon.http.post("/api/v1/client/customers", json=native)
        assert (await daemon.dodo.customers.update("dan", email="dan@example.com")).name == "Dan Lee"
        assert (await daemon.dodo.customers.update("dan", name="Daniel")).name == "Daniel"
        kept = (await daemon.http.get("/api/v1/client/customers/dan")).json()["data"]
        assert (kept["address"], kept["email"]) == ({"city": "Bonn"}, "dan@example.com")
        assert "firstName" not in kept

    async def test_changes_at_once(self, daemon: Running) -> None:
        """Changes of different fields sent at once are all kept."""
        ref = (await daemon.dodo.customers.create(**ANN)).customer_id
        changes: list[Body] = [{"name": "Bea"}, {"email": "bea@example.com"}, {"phone_number": "+1"}]
        async with trio.open_nursery() as nursery:
            for change in changes:
                nursery.start_soon(lambda change=change: daemon.dodo.customers.update(ref, **change))
        found = await daemon.dodo.customers.retrieve(ref)
        assert (found.name, found.email, found.phone_number) == ("Bea", "bea@example.com", "+1")

    @pytest.mark.parametrize(
        ("fields", "field"),
        [({"name": None}, "name"), ({"email": None}, "email"), ({"email": "x"}, "email"), ({"name": " "}, "name")],
        ids=str,
    )
    async def test_bad_changes(self, daemon: Running, fields: Body, field: str) -> None:
        """Name and address cannot be cleared: 422."""
        ref = (await daemon.dodo.customers.create(**ANN)).customer_id
        reply = await daemon.http.patch(f"/customers/{ref}", json=fields)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST_BODY")
        assert reply.json()["message"].startswith(f"{field}: ")

    async def test_unknown(self, daemon: Running) -> None:
        """Nobody cannot be changed: 404."""
        with pytest.raises(dodopayments.NotFoundError):
            await daemon.dodo.customers.update("cus_none", name="x")
