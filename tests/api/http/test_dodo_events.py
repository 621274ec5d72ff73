"""Dodo's usage events, against a running daemon (seed 003; CONTRACTS 2.1, 2.2, F1 to F5, F8)."""

import sqlite3
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import dodopayments
import httpx
import msgspec
import pytest
import trio

from harness import NOW, Running, running
from tallyd.actors.intake import Request
from tallyd.actors.messages import Duplicate
from tallyd.api.http.dodo_events import count_new
from tallyd.engine.events import read_event
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.event import EventBody, Source
from tallyd.model.moments import MINUTE_US, SECOND_US, iso
from tallyd.model.problems import Code, Problem, ProblemError
from tallyd.store import event_rows, sqlite, writer
from tallyd.store.event_rows import EventQuery

Event = dict[str, Any]


def event(number: int = 1, **fields: Any) -> Event:
    """Return an event as Dodo's clients send it."""
    return {"event_id": f"e{number}", "customer_id": "acme", "event_name": "api_request", **fields}


def at(micros: int) -> str:
    """Return an instant so many microseconds from now, ISO 8601."""
    return iso(NOW + micros)


async def ingest(daemon: Running, *events: Event, **options: Any) -> httpx.Response:
    """Send events."""
    return await daemon.http.post("/events/ingest", json={"events": list(events)}, **options)


async def stored(daemon: Running, **query: Any) -> list[str]:
    """Return the ids on a page of the list."""
    reply = await daemon.http.get("/events", params={"page_size": 100, **query})
    assert reply.status_code == 200, reply.text
    return [item["event_id"] for item in reply.json()["items"]]


async def refused(daemon: Running, reply: httpx.Response, status: int, code: str) -> str:
    """Check that nothing was stored and return what was said."""
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    assert await stored(daemon) == []
    return str(reply.json()["message"])


class TestIngest:
    """POST /events/ingest."""

    async def test_dodos_own_client_ingests(self, daemon: Running) -> None:
        """The dodopayments package records events and learns how many are new."""
        first = await daemon.dodo.usage_events.ingest(
            events=[
                {
                    "event_id": "api_call_12345",
                    "customer_id": "cus_abc123",
                    "event_name": "api_request",
                    "timestamp": at(-MINUTE_US),
                    "metadata": {"endpoint": "/api/v1/users", "method": "GET", "tokens_used": "150"},
                }
            ]
        )
        assert first.ingested_count == 1

    @pytest.mark.parametrize("number", [1, 1_000])
    async def test_up_to_a_thousand(self, daemon: Running, number: int) -> None:
        """One to 1,000 events are taken in one request, and all are counted."""
        reply = await ingest(daemon, *(event(each) for each in range(number)))
        assert (reply.status_code, reply.json()) == (200, {"ingested_count": number})

    @pytest.mark.parametrize("number", [0, 1_001])
    async def test_none_or_too_many(self, daemon: Running, number: int) -> None:
        """No events, or 1,001, are 422, and nothing is stored."""
        reply = await ingest(daemon, *(event(each) for each in range(number)))
        assert str(number) in await refused(daemon, reply, 422, "INVALID_REQUEST_BODY")

    async def test_an_id_twice_in_one_request(self, daemon: Running) -> None:
        """An id that stands in a request twice fails all of it, and the message names the id."""
        reply = await ingest(daemon, event(1), event(2), event(1, event_name="other"))
        assert "'e1'" in await refused(daemon, reply, 400, "INVALID_REQUEST_PARAMETERS")

    async def test_a_known_id_is_ignored(self, daemon: Running) -> None:
        """An id that is recorded already is ignored and not counted, even with another body."""
        await ingest(daemon, event(1, metadata={"tokens": 5}))
        reply = await ingest(daemon, event(1, metadata={"tokens": 9}, customer_id="other"), event(2))
        assert (reply.status_code, reply.json()) == (200, {"ingested_count": 1})
        kept = (await daemon.http.get("/events/e1")).json()
        assert (kept["metadata"], kept["customer_id"]) == ({"tokens": 5}, "acme")

    async def test_ids_that_differ_in_case(self, daemon: Running) -> None:
        """Ids are case-sensitive: one in capitals is another event."""
        reply = await ingest(daemon, event(event_id="Call"), event(event_id="call"))
        assert reply.json() == {"ingested_count": 2}

    async def test_the_same_request_twice_at_once(self, daemon: Running) -> None:
        """Of two identical requests sent at once, one counts each event and both succeed."""
        counts: list[int] = []

        async def send() -> None:
            reply = await ingest(daemon, *(event(each) for each in range(20)))
            counts.append(reply.json()["ingested_count"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(send)
        assert sum(counts) == 20
        assert len(await stored(daemon)) == 20

    async def test_one_bad_event_sinks_all(self, daemon: Running) -> None:
        """Events are all or nothing, and the message names the first offending one."""
        bad = [event(each, timestamp=at(-61 * MINUTE_US)) for each in (2, 3)]
        message = await refused(daemon, await ingest(daemon, event(1), *bad), 400, "INVALID_REQUEST_PARAMETERS")
        assert "'e2'" in message
        assert "timestamp" in message

    async def test_a_feature_of_the_events_name(self, daemon: Running) -> None:
        """An event whose name is a feature's key is counted on that feature."""
        await daemon.subscribe("acme")
        await ingest(daemon, event(1), event(2))
        reply = await daemon.http.get("/api/v1/client/events", params={"customerReferenceId": "acme"})
        assert [item["featureKey"] for item in reply.json()["data"]["items"]] == ["api_request"] * 2

    async def test_a_refused_request_is_counted(self, daemon: Running) -> None:
        """The metrics count every event of a refused request."""
        await ingest(daemon, event(1), event(1))
        assert daemon.core.counts.refused == 2


class TestTimestamps:
    """The window: an hour back, five minutes ahead."""

    @pytest.mark.parametrize(
        "offset", [-60 * MINUTE_US, -59 * MINUTE_US, 0, 4 * MINUTE_US, 5 * MINUTE_US], ids=str
    )
    async def test_within(self, daemon: Running, offset: int) -> None:
        """A timestamp within the window, its ends included, is kept as it was sent."""
        reply = await ingest(daemon, event(timestamp=at(offset)))
        assert reply.json() == {"ingested_count": 1}
        assert (await daemon.http.get("/events/e1")).json()["timestamp"] == at(offset)

    @pytest.mark.parametrize(
        "offset",
        [
            -61 * MINUTE_US,
            -60 * MINUTE_US - 1,
            5 * MINUTE_US + 1,
            6 * MINUTE_US,
            48 * 60 * MINUTE_US,
            -365 * 24 * 60 * MINUTE_US,
        ],
        ids=str,
    )
    async def test_outside(self, daemon: Running, offset: int) -> None:
        """A timestamp outside the window is 400, be it by a microsecond."""
        reply = await ingest(daemon, event(timestamp=at(offset)))
        assert "timestamp" in await refused(daemon, reply, 400, "INVALID_REQUEST_PARAMETERS")

    @pytest.mark.parametrize("fields", [{}, {"timestamp": None}], ids=["absent", "null"])
    async def test_absent(self, daemon: Running, fields: Event) -> None:
        """Without a timestamp an event happened now."""
        await ingest(daemon, event(**fields))
        assert (await daemon.http.get("/events/e1")).json()["timestamp"] == iso(NOW)

    async def test_kept_with_its_zone(self, daemon: Running) -> None:
        """A timestamp comes back with the zone and the digits it was sent with."""
        await ingest(daemon, event(timestamp="2026-11-21T13:30:00.500+02:00"))
        assert (await daemon.http.get("/events/e1")).json()["timestamp"] == "2026-11-21T13:30:00.500+02:00"

    @pytest.mark.parametrize("text", ["", "yesterday", "2026-11-21T12:00:00", "9999-12-31T23:59:59Z", "1e9"])
    async def test_not_an_instant(self, daemon: Running, text: str) -> None:
        """Text that is no instant, lacks a zone or lies in the year 9999 is 400."""
        reply = await ingest(daemon, event(timestamp=text))
        assert "timestamp" in await refused(daemon, reply, 400, "INVALID_REQUEST_PARAMETERS")


class TestMetadata:
    """Limits of metadata, and what comes back of it."""

    @pytest.mark.parametrize("letter", ["k", "é", "漢", "😀", "\x01"])
    async def test_at_the_limits(self, daemon: Running, letter: str) -> None:
        """50 pairs with keys of 100 characters and values of 500 are kept whole, in any script."""
        metadata = {f"{each:02}" + letter * 98: letter * 500 for each in range(50)}
        reply = await ingest(daemon, event(metadata=metadata))
        assert reply.json() == {"ingested_count": 1}, reply.text
        assert (await daemon.http.get("/events/e1")).json()["metadata"] == metadata

    async def test_51_pairs(self, daemon: Running) -> None:
        """51 pairs are refused with Dodo's own code."""
        reply = await ingest(daemon, event(metadata={str(each): each for each in range(51)}))
        assert "'e1'" in await refused(daemon, reply, 400, "MAXIMUM_KEYS_REACHED")

    @pytest.mark.parametrize(
        "metadata",
        [
            {"k" * 101: 1},
            {"key": "v" * 501},
            {"key": {"nested": 1}},
            {"key": [1, 2]},
            {"key": None},
            {"key": "with \x00 in it"},
            {"key": 10**39},
        ],
        ids=["long key", "long value", "object", "array", "null", "NUL", "40 digits"],
    )
    async def test_refused(self, daemon: Running, metadata: Event) -> None:
        """Long keys, long values, anything but scalars, NUL and 40 digits are 400, naming event and metadata."""
        reply = await ingest(daemon, event(1), event(2, metadata=metadata))
        message = await refused(daemon, reply, 400, "INVALID_REQUEST_PARAMETERS")
        assert "'e2': metadata" in message

    async def test_scalars_are_exact(self, daemon: Running) -> None:
        """Strings, integers, numbers and booleans come back digit for digit."""
        body = b'{"a":"x","b":12345678901234567890,"c":0.123456789012345678,"d":true,"e":1.50}'
        await daemon.http.post(
            "/events/ingest",
            content=b'{"events":[{"event_id":"e1","customer_id":"acme","event_name":"n","metadata":'
            + body
            + b"}]}",
        )
        reply = await daemon.http.get("/events/e1")
        assert body.removeprefix(b"{").removesuffix(b"}") in reply.content

    @pytest.mark.parametrize("metadata", [None, {}])
    async def test_none(self, daemon: Running, metadata: Event | None) -> None:
        """Null and empty metadata are taken."""
        assert (await ingest(daemon, event(metadata=metadata))).json() == {"ingested_count": 1}


class TestBadRequests:
    """What cannot be read, and who may not ask."""

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b'{"events": 1}',
            b"{}",
            b'{"events":[1]}',
            b'{"events":[{"event_id":"a","customer_id":"b"}]}',
            b'{"events":[{"event_id":7,"customer_id":"b","event_name":"c"}]}',
            b'{"events":[{"event_id":"a","customer_id":"b","event_name":"c","timestamp":1700000000}]}',
            b'{"events":[{"event_id":"a","customer_id":"b","event_name":"c","metadata":["x"]}]}',
            b'{"events":[{"event_id":"a","customer_id":"b","event_name":"c","metadata":{"x":NaN}}]}',
            b'{"events":[{"event_id":"a","customer_id":"b","event_name":"\\ud800"}]}',
            b'{"events":[{"event_id":"\xff","customer_id":"b","event_name":"c"}]}',
            b'{"events":' + b"[" * 20_000,
            b'{"events":[{"event_id":"a","customer_id":"b","event_name":"c","metadata":{"x":'
            + b"[" * 5_000
            + b"]" * 5_000
            + b"}}]}",
        ],
        ids=range(15),
    )
    async def test_unreadable(self, daemon: Running, content: bytes) -> None:
        """Malformed JSON and fields of the wrong type are 422, and nothing is stored."""
        reply = await daemon.http.post("/events/ingest", content=content)
        await refused(daemon, reply, 422, "INVALID_REQUEST_BODY")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            (field, value)
            for field, value in product(
                ("event_id", "customer_id", "event_name"), ("", "  ", "x" * 256, "a\x00b", "a\nb")
            )
        ],
    )
    async def test_names_that_are_none(self, daemon: Running, field: str, value: str) -> None:
        """Empty, long or unprintable ids and names are 400, and the message names Dodo's field."""
        reply = await ingest(daemon, event(1, **{field: value}))
        assert f"{field}: " in await refused(daemon, reply, 400, "INVALID_REQUEST_PARAMETERS")

    async def test_names_of_255_characters(self, daemon: Running) -> None:
        """Ids and names may have 255 characters."""
        reply = await ingest(daemon, event(event_id="a" * 255, customer_id="b" * 255, event_name="c" * 255))
        assert reply.json() == {"ingested_count": 1}

    async def test_an_endless_number(self, daemon: Running) -> None:
        """1e400 is refused: it could not be kept exactly."""
        content = b'{"events":[{"event_id":"e1","customer_id":"b","event_name":"c","metadata":{"x":1e400}}]}'
        reply = await daemon.http.post("/events/ingest", content=content)
        assert "metadata.x" in await refused(daemon, reply, 400, "INVALID_REQUEST_PARAMETERS")

    async def test_too_large(self, tmp_path: Path) -> None:
        """A body above the limit is 413 in Dodo's shape."""
        async with running(tmp_path, http__body_bytes_max=1_000) as daemon:
            reply = await ingest(daemon, *(event(each) for each in range(50)))
            await refused(daemon, reply, 413, "PAYLOAD_TOO_LARGE")

    @pytest.mark.parametrize(
        "headers", [{"Authorization": ""}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic x"}]
    )
    @pytest.mark.parametrize("path", ["/events", "/events/e1", "/events/ingest", "/meters", "/meters/mtr_1"])
    async def test_without_a_key(self, daemon: Running, path: str, headers: dict[str, str]) -> None:
        """No key and a wrong key are 401 in Dodo's shape."""
        method = "POST" if path == "/events/ingest" else "GET"
        reply = await daemon.http.request(method, path, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (401, "UNAUTHORIZED")

    async def test_with_too_small_a_key(self, daemon: Running) -> None:
        """A key that may only read cannot ingest: 403; one that may only ingest cannot read."""
        reply = await ingest(daemon, event(), headers=await daemon.key_for("read"))
        assert (reply.status_code, reply.json()["code"]) == (403, "FORBIDDEN")
        reply = await daemon.http.get("/events", headers=await daemon.key_for("ingest"))
        assert (reply.status_code, reply.json()["code"]) == (403, "FORBIDDEN")

    async def test_dodos_own_client_understands(self, daemon: Running) -> None:
        """The dodopayments package raises its own errors for ours."""
        with pytest.raises(dodopayments.BadRequestError):
            await daemon.dodo.usage_events.ingest(events=[event(), event()])  # type: ignore[list-item]
        with pytest.raises(dodopayments.UnprocessableEntityError):
            await daemon.dodo.usage_events.ingest(events=[])
        with pytest.raises(dodopayments.NotFoundError):
            await daemon.dodo.usage_events.retrieve("nobody")

    async def test_another_method(self, daemon: Running) -> None:
        """A method that is not served is 405 in Dodo's shape."""
        reply = await daemon.http.delete("/events")
        assert reply.status_code == 405
        assert set(reply.json()) == {"code", "message"}


class TestCustomers:
    """Whom an event is about."""

    async def test_an_unknown_one_is_created(self, daemon: Running) -> None:
        """An event of an unknown customer makes the customer."""
        assert (await daemon.http.get("/api/v1/client/customers/acme")).status_code == 404
        await ingest(daemon, event())
        assert (await daemon.http.get("/api/v1/client/customers/acme")).status_code == 200

    async def test_an_unknown_one_is_refused(self, tmp_path: Path) -> None:
        """Without auto_create an unknown customer is 400 and sinks the request, known customers and all."""
        async with running(tmp_path, customers__auto_create=False) as daemon:
            await daemon.http.post("/api/v1/client/customers", json={"customerReferenceId": "acme"})
            reply = await ingest(daemon, event(1), event(2, customer_id="stranger"))
            message = await refused(daemon, reply, 400, "INVALID_REQUEST_PARAMETERS")
            assert "'e2': customer_id: 'stranger'" in message
            assert (await ingest(daemon, event(1))).json() == {"ingested_count": 1}


class TestBusy:
    """When the daemon cannot take more."""

    async def test_a_full_queue(self, daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        """While too much waits to be written the answer is 429 with Retry-After, and nothing is stored."""
        monkeypatch.setattr(writer, "EVENTS_WAITING_MAX", -1)
        reply = await ingest(daemon, event())
        assert reply.headers["Retry-After"] == "1"
        await refused(daemon, reply, 429, "TOO_MANY_REQUESTS")

    async def test_books_that_cannot_be_written(self, daemon: Running) -> None:
        """After a failed commit the answer is 503 with Retry-After."""
        daemon.core.writer.failed = True
        reply = await ingest(daemon, event())
        daemon.core.writer.failed = False
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
        assert reply.json()["code"] == "UNAVAILABLE"

    def test_a_part_that_could_not_be_stored(self) -> None:
        """When any event was not taken the request is answered so that the client repeats it."""
        requests = [_request(f"e{number}") for number in range(3)]
        poison = Problem(code=Code.POISON, message="refused")
        busy = Problem(code=Code.RATE_LIMITED, message="busy")
        with pytest.raises(ProblemError) as raised:
            count_new(requests, [Duplicate(1, True), poison, busy])
        assert raised.value.problem is busy

    def test_a_part_that_never_can_be(self) -> None:
        """An event that is refused for good is named."""
        poison = Problem(code=Code.POISON, message="refused")
        with pytest.raises(ProblemError) as raised:
            count_new([_request("e1"), _request("e2")], [Duplicate(1, True), poison])
        assert raised.value.problem.message == "event 'e2': refused"


def _request(key: str) -> Request:
    read: Callable[..., Any] = read_event
    body = EventBody(event_name="n", customer_reference_id="acme")
    read_one = read(body, source=Source.DODO, key=key, new_key=str, now=NOW, feature_named=lambda _: None)
    return Request(CustomerRef(RefKind.REFERENCE, "acme"), read_one)


class TestRetrieve:
    """GET /events/{event_id}."""

    async def test_all_fields(self, daemon: Running) -> None:
        """The dodopayments package reads an event back with every field."""
        await ingest(daemon, event(timestamp=at(0), metadata={"tokens": 150, "cached": True}))
        found = await daemon.dodo.usage_events.retrieve("e1")
        assert found.to_dict(mode="json") == {
            "business_id": "tallyd",
            "customer_id": "acme",
            "event_id": "e1",
            "event_name": "api_request",
            "timestamp": at(0),
            "metadata": {"tokens": 150, "cached": True},
        }

    async def test_the_business_is_configured(self, tmp_path: Path) -> None:
        """`[account] business_id` is the events' business_id."""
        async with running(tmp_path, account__business_id="bus_1") as daemon:
            await ingest(daemon, event())
            assert (await daemon.http.get("/events/e1")).json()["business_id"] == "bus_1"

    async def test_exact_case(self, daemon: Running) -> None:
        """An id in another case is 404."""
        await ingest(daemon, event(event_id="Call"))
        reply = await daemon.http.get("/events/call")
        assert (reply.status_code, reply.json()["code"]) == (404, "NOT_FOUND")

    @pytest.mark.parametrize(
        "key", ["a/b", "a//b", "https://x.test/?q=1#2", "ingest", "50%", "ключ", "a b", "a+b"]
    )
    async def test_ids_that_need_quoting(self, daemon: Running, key: str) -> None:
        """Ids with slashes, spaces and letters of any script are found through Dodo's own client."""
        await ingest(daemon, event(event_id=key))
        assert (await daemon.dodo.usage_events.retrieve(key)).event_id == key

    async def test_events_of_the_native_api(self, daemon: Running) -> None:
        """Events recorded through Tanso's contract share the ids: they are shown, and their ids are taken."""
        body = {"eventName": "api_request", "eventIdempotencyKey": "e1", "customerReferenceId": "acme"}
        await daemon.http.post("/api/v1/client/events", json=body)
        found = (await daemon.http.get("/events/e1")).json()
        assert (found["customer_id"], found["timestamp"]) == ("acme", iso(NOW))
        assert (await ingest(daemon, event())).json() == {"ingested_count": 0}

    async def test_events_of_retempo(self, daemon: Running) -> None:
        """Events recorded through Retempo's contract are in key spaces of their own and are not shown."""
        subscription = await daemon.subscribe("acme")
        reply = await daemon.http.post(
            "/api/v1/usage-events",
            json={
                "serviceId": "pro",
                "subscriptionId": subscription,
                "userId": "acme",
                "eventKey": "e1",
                "quantity": 1,
            },
        )
        assert reply.status_code == 201
        assert (await daemon.http.get("/events/e1")).status_code == 404
        assert await stored(daemon) == []
        assert (await ingest(daemon, event())).json() == {"ingested_count": 1}

    @pytest.mark.parametrize(
        ("fields", "label"),
        [({"stripeCustomerId": "cus_1"}, "cus_1"), ({"customerId": "7a11d000-0000-4000-8000-000000000001"},) * 2],
    )
    async def test_customers_named_otherwise(self, daemon: Running, fields: Event, label: Any) -> None:
        """A customer known by its Stripe id or UUID is shown and found by that."""
        label = label if isinstance(label, str) else label["customerId"]
        body = {"eventName": "n", "eventIdempotencyKey": "e1", **fields}
        assert (await daemon.http.post("/api/v1/client/events", json=body)).status_code == 201
        assert (await daemon.http.get("/events/e1")).json()["customer_id"] == label
        assert await stored(daemon, customer_id=label) == ["e1"]


class TestList:
    """GET /events."""

    async def test_filters_combine(self, daemon: Running) -> None:
        """Customer, name and time range combine; `start` is included, `end` is not; newest come first."""
        for number, (customer, name, second) in enumerate(product("ab", "xy", (0, 1, 2))):
            moment = at(second * SECOND_US)
            await ingest(daemon, event(number, customer_id=customer, event_name=name, timestamp=moment))
        assert await stored(daemon, customer_id="a") == ["e5", "e2", "e4", "e1", "e3", "e0"]
        assert await stored(daemon, event_name="y", customer_id="b") == ["e11", "e10", "e9"]
        assert await stored(daemon, start=at(2 * SECOND_US)) == ["e11", "e8", "e5", "e2"]
        assert await stored(daemon, end=at(SECOND_US), event_name="x") == ["e6", "e0"]
        middle = {"start": at(SECOND_US), "end": at(2 * SECOND_US)}
        assert await stored(daemon, customer_id="a", event_name="x", **middle) == ["e1"]

    async def test_pages(self, daemon: Running) -> None:
        """Ten a page unless asked otherwise, page 0 is the first, and past the end is empty."""
        await ingest(daemon, *(event(each, timestamp=at(each * SECOND_US)) for each in range(25)))
        ids = [f"e{each}" for each in reversed(range(25))]
        default = (await daemon.http.get("/events")).json()
        assert [item["event_id"] for item in default["items"]] == ids[:10]
        assert set(default) == {"items"}
        for size, number in ((10, 0), (10, 1), (10, 2), (7, 3), (100, 0)):
            page = await stored(daemon, page_size=size, page_number=number)
            assert page == ids[size * number : size * (number + 1)]
        for number in (3, 2**31 - 1):
            assert await stored(daemon, page_size=10, page_number=number) == []

    async def test_dodos_own_client_pages(self, daemon: Running) -> None:
        """The dodopayments package walks the pages from an explicit page 1 on to the end."""
        await ingest(daemon, *(event(each, timestamp=at(each * SECOND_US)) for each in range(25)))
        seen = [each.event_id async for each in daemon.dodo.usage_events.list(page_number=1, page_size=5)]
        assert seen == [f"e{each}" for each in reversed(range(20))]

    @pytest.mark.parametrize(
        "query",
        [
            {"page_size": "101"},
            {"page_size": "0"},
            {"page_size": "ten"},
            {"page_number": "-1"},
            {"page_number": str(2**31)},
            {"start": "yesterday"},
            {"end": "2026-11-21T12:00:00"},
        ],
        ids=str,
    )
    async def test_bad_queries(self, daemon: Running, query: dict[str, str]) -> None:
        """Pages of 101, pages before the first and times that are none are 422."""
        reply = await daemon.http.get("/events", params=query)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_QUERY_PARAMS")

    @pytest.mark.parametrize("name", ["nobody", "", "x" * 1_000])
    async def test_an_unknown_customer(self, daemon: Running, name: str) -> None:
        """A customer that is not known has no events, which is no error."""
        await ingest(daemon, event())
        assert await stored(daemon, customer_id=name) == []


class TestMeterFilter:
    """GET /events with `meter_id`."""

    async def meter(self, daemon: Running, **fields: Any) -> str:
        """Make a meter of long API calls; return its id."""
        body = {
            "name": "Long calls",
            "event_name": "api_request",
            "measurement_unit": "calls",
            "aggregation": {"type": "sum", "key": "tokens"},
            "filter": {
                "conjunction": "and",
                "clauses": [{"key": "ms", "operator": "greater_than", "value": 100}],
            },
            **fields,
        }
        reply = await daemon.http.post("/meters", json=body)
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])

    async def test_name_and_filter_apply(self, daemon: Running) -> None:
        """A meter lets through the events of its name that pass its filter; numbers may be strings."""
        await ingest(
            daemon,
            event(1, metadata={"ms": 101}),
            event(2, metadata={"ms": 100}),
            event(3, metadata={"ms": "250.5"}),
            event(4, metadata={"tokens": 1}),
            event(5),
            event(6, event_name="other", metadata={"ms": 500}),
        )
        meter_id = await self.meter(daemon)
        assert sorted(await stored(daemon, meter_id=meter_id)) == ["e1", "e3"]
        assert sorted(await stored(daemon, meter_id=meter_id, event_name="api_request")) == ["e1", "e3"]
        assert await stored(daemon, meter_id=meter_id, customer_id="nobody") == []

    async def test_without_a_filter(self, daemon: Running) -> None:
        """A meter without a filter lets through all events of its name, and archived ones go on doing so."""
        await ingest(daemon, event(1), event(2, event_name="other"))
        meter_id = await self.meter(daemon, filter=None)
        await daemon.http.delete(f"/meters/{meter_id}")
        assert await stored(daemon, meter_id=meter_id) == ["e1"]

    async def test_pages_of_what_is_let_through(self, daemon: Running) -> None:
        """Pages are counted after the filter: each but the last is full, and none overlap."""
        await ingest(
            daemon,
            *(event(each, metadata={"ms": each * 10}, timestamp=at(each * SECOND_US)) for each in range(60)),
        )
        meter_id = await self.meter(daemon)
        ids = [f"e{each}" for each in reversed(range(11, 60))]
        pages = [await stored(daemon, meter_id=meter_id, page_size=20, page_number=number) for number in range(4)]
        assert pages == [ids[:20], ids[20:40], ids[40:], []]

    async def test_another_event_name(self, daemon: Running) -> None:
        """A meter and an event name that is not the meter's are 400."""
        meter_id = await self.meter(daemon)
        reply = await daemon.http.get("/events", params={"meter_id": meter_id, "event_name": "other"})
        assert (reply.status_code, reply.json()["code"]) == (400, "INVALID_QUERY_PARAMS")

    async def test_an_unknown_meter(self, daemon: Running) -> None:
        """An unknown meter is 404."""
        reply = await daemon.http.get("/events", params={"meter_id": "mtr_none"})
        assert (reply.status_code, reply.json()["code"]) == (404, "NOT_FOUND")

    async def test_meters_of_the_catalog(self, daemon: Running) -> None:
        """A meter of the catalog file filters as well."""
        await ingest(daemon, event(1, event_name="api_call"), event(2))
        meters = (await daemon.http.get("/meters")).json()["items"]
        assert await stored(daemon, meter_id=meters[0]["id"]) == ["e1"]


async def test_every_list_reads_off_an_index(daemon: Running) -> None:
    """No combination of filters makes SQLite sort or read the whole table."""
    await ingest(daemon, event())
    books = sqlite.open_reader(daemon.path)
    seen: list[str] = []
    for customer, name, start, end in product((None, 1), (None, "n"), (None, 1), (None, 2)):
        query = EventQuery(customer=customer, name=name, start=start, end=end, shared_keys=True)
        books.set_trace_callback(seen.append)
        event_rows.list_events(books, query)
        event_rows.list_events(books, query, lambda _: False)
        books.set_trace_callback(None)
    books.close()
    assert len(seen) == 32
    for statement in seen:
        plan = _plan(daemon.path, statement)
        assert "USING INDEX" in plan
        assert "TEMP B-TREE" not in plan


def _plan(path: Path, statement: str) -> str:
    books = sqlite3.connect(path)
    try:
        return " ".join(row[3] for row in books.execute(f"EXPLAIN QUERY PLAN {statement}"))
    finally:
        books.close()


async def test_events_outlive_the_daemon(tmp_path: Path) -> None:
    """What was acknowledged is there after a restart, and its ids are still taken."""
    async with running(tmp_path) as daemon:
        await ingest(daemon, event(metadata={"price": msgspec.json.decode("1.5")}))
    async with running(tmp_path) as daemon:
        assert (await daemon.http.get("/events/e1")).json()["metadata"] == {"price": 1.5}
        assert (await ingest(daemon, event())).json() == {"ingested_count": 0}
