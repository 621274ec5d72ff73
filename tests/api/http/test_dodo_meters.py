"""Dodo's meters, against a running daemon (CONTRACTS 2.3, F6, F8)."""

from pathlib import Path
from typing import Any

import dodopayments
import httpx
import pytest

from harness import NOW, Running, running
from tallyd.model.moments import SECOND_US, iso

Body = dict[str, Any]


def meter(**fields: Any) -> Body:
    """Return a meter as Dodo's clients send it."""
    return {
        "name": "Tokens",
        "event_name": "llm_call",
        "measurement_unit": "tokens",
        "aggregation": {"type": "sum", "key": "tokens"},
        **fields,
    }


def nested(levels: int) -> Body:
    """Return a filter that nests so many levels deep."""
    part: Body = {"key": "region", "operator": "equals", "value": "eu"}
    for level in range(levels):
        part = {"conjunction": "or" if level % 2 else "and", "clauses": [part]}
    return part


async def create(daemon: Running, **fields: Any) -> httpx.Response:
    """Make a meter."""
    return await daemon.http.post("/meters", json=meter(**fields))


async def listed(daemon: Running, **query: Any) -> list[str]:
    """Return the names on a page of the list, the catalog's meter left out."""
    reply = await daemon.http.get("/meters", params={"page_size": 100, **query})
    assert reply.status_code == 200, reply.text
    return [item["name"] for item in reply.json()["items"] if item["name"] != "calls"]


class TestCreate:
    """POST /meters."""

    async def test_dodos_own_client_creates(self, daemon: Running) -> None:
        """The dodopayments package makes a meter and reads every field of it."""
        made = await daemon.dodo.meters.create(
            name="EU tokens",
            description="Tokens spent in the EU",
            event_name="llm_call",
            measurement_unit="tokens",
            aggregation={"type": "sum", "key": "tokens"},
            filter={
                "conjunction": "and",
                "clauses": [{"key": "region", "operator": "equals", "value": "eu"}],
            },  # type: ignore[arg-type]
        )
        assert made.id.startswith("mtr_")
        assert made.to_dict(mode="json") == {
            "id": made.id,
            "business_id": "tallyd",
            "name": "EU tokens",
            "description": "Tokens spent in the EU",
            "event_name": "llm_call",
            "measurement_unit": "tokens",
            "aggregation": {"type": "sum", "key": "tokens"},
            "filter": {
                "conjunction": "and",
                "clauses": [{"key": "region", "operator": "equals", "value": "eu"}],
            },
            "created_at": iso(NOW),
            "updated_at": iso(NOW),
        }

    @pytest.mark.parametrize(
        "aggregation",
        [
            {"type": "count"},
            {"type": "count", "key": None},
            {"type": "sum", "key": "tokens"},
            {"type": "max", "key": "tokens"},
            {"type": "last", "key": "tokens"},
            {"type": "unique", "key": "user"},
        ],
        ids=str,
    )
    async def test_aggregations(self, daemon: Running, aggregation: Body) -> None:
        """Count needs no key; sum, max, last and tallyd's own unique have one."""
        reply = await create(daemon, aggregation=aggregation)
        assert reply.status_code == 201, reply.text

    @pytest.mark.parametrize("levels", [1, 2, 3])
    async def test_filters_nest(self, daemon: Running, levels: int) -> None:
        """Filters nest up to three levels and come back as they were sent."""
        reply = await create(daemon, filter=nested(levels))
        assert (reply.status_code, reply.json()["filter"]) == (201, nested(levels))

    @pytest.mark.parametrize(
        "operator",
        [
            "equals",
            "not_equals",
            "greater_than",
            "greater_than_or_equals",
            "less_than",
            "less_than_or_equals",
            "contains",
            "does_not_contain",
        ],
    )
    async def test_operators(self, daemon: Running, operator: str) -> None:
        """All eight operators are taken; comparisons take numbers as strings, too."""
        clauses = [{"key": "size", "operator": operator, "value": value} for value in (1, "2", 2.5)]
        reply = await create(daemon, filter={"conjunction": "or", "clauses": clauses})
        assert reply.status_code == 201, reply.text

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"aggregation": {"type": "sum"}}, "aggregation.key"),
            ({"aggregation": {"type": "max", "key": ""}}, "aggregation.key"),
            ({"aggregation": {"type": "last", "key": None}}, "aggregation.key"),
            ({"aggregation": {"type": "average", "key": "x"}}, "aggregation.type"),
            ({"aggregation": {}}, "aggregation.type"),
            ({"aggregation": "count"}, "aggregation"),
            ({"name": ""}, "name"),
            ({"name": None}, "name"),
            ({"name": "x" * 256}, "name"),
            ({"event_name": " "}, "event_name"),
            ({"measurement_unit": "\x00"}, "measurement_unit"),
            ({"description": "x" * 1_001}, "description"),
            ({"filter": nested(4)}, "filter.clauses[0].clauses[0].clauses[0]"),
            ({"filter": {"conjunction": "and", "clauses": []}}, "filter.clauses"),
            ({"filter": {"conjunction": "xor", "clauses": [{}]}}, "filter.conjunction"),
            ({"filter": {"clauses": [{}]}}, "filter.conjunction"),
            ({"filter": {"conjunction": "and", "clauses": [{"key": "a"}]}}, "filter.clauses[0]"),
            (
                {
                    "filter": {
                        "conjunction": "and",
                        "clauses": [{"key": "a", "operator": "like", "value": "b"}],
                    }
                },
                "filter.clauses[0]",
            ),
            (
                {
                    "filter": {
                        "conjunction": "and",
                        "clauses": [{"key": "a", "operator": "less_than", "value": "b"}],
                    }
                },
                "filter.clauses[0].value",
            ),
        ],
        ids=range(19),
    )
    async def test_bad_bodies(self, daemon: Running, fields: Body, field: str) -> None:
        """A field that is missing, of the wrong kind or cannot be used is 422 and named; no meter is made."""
        reply = await create(daemon, **fields)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST_BODY")
        assert reply.json()["message"].startswith(field)
        assert await listed(daemon) == []

    @pytest.mark.parametrize("missing", ["name", "event_name", "measurement_unit", "aggregation"])
    async def test_missing_fields(self, daemon: Running, missing: str) -> None:
        """Each required field that is missing is named."""
        body = {name: value for name, value in meter().items() if name != missing}
        reply = await daemon.http.post("/meters", json=body)
        assert (reply.status_code, reply.json()["message"]) == (422, f"{missing}: is required")

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null"])
    async def test_malformed(self, daemon: Running, content: bytes) -> None:
        """Malformed JSON is 422."""
        reply = await daemon.http.post("/meters", content=content)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST_BODY")

    async def test_only_for_admins(self, daemon: Running) -> None:
        """Making and archiving meters needs the admin scope: 403 without."""
        headers = await daemon.key_for("ingest", "read")
        reply = await daemon.http.post("/meters", json=meter(), headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (403, "FORBIDDEN")


class TestList:
    """GET /meters."""

    async def test_newest_first(self, daemon: Running) -> None:
        """Meters are listed newest first, ten a page, the first page being 0; past the end is empty."""
        for number in range(12):
            daemon.clock.move(SECOND_US)
            await create(daemon, name=f"m{number}")
        names = [f"m{number}" for number in reversed(range(12))]
        assert await listed(daemon) == names
        assert [item["name"] for item in (await daemon.http.get("/meters")).json()["items"]] == names[:10]
        assert await listed(daemon, page_size=5, page_number=1) == names[5:10]
        assert await listed(daemon, page_size=5, page_number=9) == []

    async def test_dodos_own_client_lists(self, daemon: Running) -> None:
        """The dodopayments package walks the pages from an explicit page 1 on to the end."""
        for number in range(4):
            daemon.clock.move(SECOND_US)
            await create(daemon, name=f"m{number}")
        seen = [each.name async for each in daemon.dodo.meters.list(page_number=1, page_size=2)]
        assert seen == ["m1", "m0", "calls"]

    async def test_meters_of_the_catalog(self, daemon: Running) -> None:
        """Meters of the catalog file are listed and retrieved beside those made here."""
        found = (await daemon.http.get("/meters")).json()["items"]
        assert [(each["name"], each["aggregation"]) for each in found] == [("calls", {"type": "count"})]
        assert (await daemon.http.get(f"/meters/{found[0]['id']}")).json() == found[0]

    @pytest.mark.parametrize("query", [{"page_size": 101}, {"page_number": -1}, {"archived": "maybe"}], ids=str)
    async def test_bad_queries(self, daemon: Running, query: Body) -> None:
        """Pages of 101 and flags that are none are 422."""
        reply = await daemon.http.get("/meters", params=query)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_QUERY_PARAMS")


class TestArchive:
    """DELETE /meters/{id}, and back."""

    async def test_dodos_own_client_archives(self, daemon: Running) -> None:
        """The dodopayments package archives a meter and brings it back; lists and `archived` follow."""
        made = await daemon.dodo.meters.create(**meter())
        await daemon.dodo.meters.archive(made.id)
        assert await listed(daemon) == []
        assert await listed(daemon, archived="true") == ["Tokens"]
        assert (await daemon.dodo.meters.retrieve(made.id)).name == "Tokens"
        await daemon.dodo.meters.unarchive(made.id)
        assert await listed(daemon) == ["Tokens"]
        assert await listed(daemon, archived="true") == []

    async def test_statuses(self, daemon: Running) -> None:
        """Archiving is 204 without a body, bringing back is 200, each also when there is nothing to do."""
        path = f"/meters/{(await create(daemon)).json()['id']}"
        for _ in range(2):
            daemon.clock.move(SECOND_US)
            reply = await daemon.http.delete(path)
            assert (reply.status_code, reply.content) == (204, b"")
        assert (await daemon.http.get(path)).json()["updated_at"] == iso(NOW + SECOND_US)
        for _ in range(2):
            daemon.clock.move(SECOND_US)
            assert (await daemon.http.post(f"{path}/unarchive")).status_code == 200
        found = (await daemon.http.get(path)).json()
        assert (found["created_at"], found["updated_at"]) == (iso(NOW), iso(NOW + 3 * SECOND_US))

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/meters/mtr_0"), ("DELETE", "/meters/mtr_0"), ("POST", "/meters/mtr_0/unarchive")],
    )
    async def test_unknown(self, daemon: Running, method: str, path: str) -> None:
        """An unknown meter is 404, whatever is asked of it."""
        reply = await daemon.http.request(method, path)
        assert (reply.status_code, reply.json()["code"]) == (404, "NOT_FOUND")

    async def test_dodos_own_client_understands(self, daemon: Running) -> None:
        """The dodopayments package raises its own error for an unknown meter."""
        with pytest.raises(dodopayments.NotFoundError):
            await daemon.dodo.meters.retrieve("mtr_0")


async def test_meters_outlive_the_daemon(tmp_path: Path) -> None:
    """Meters and whether they are archived are there after a restart, number for number."""
    part = {
        "conjunction": "and",
        "clauses": [{"key": "size", "operator": "greater_than", "value": value} for value in (1, 2.5, "3")],
    }
    async with running(tmp_path) as daemon:
        made = (await create(daemon, filter=part)).json()
        gone = (await create(daemon, name="Gone")).json()
        await daemon.http.delete(f"/meters/{gone['id']}")
    async with running(tmp_path) as daemon:
        assert (await daemon.http.get(f"/meters/{made['id']}")).json() == made
        assert await listed(daemon) == ["Tokens"]
        assert await listed(daemon, archived="true") == ["Gone"]
