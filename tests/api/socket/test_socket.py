"""The Unix socket: JSON-RPC on lines, from a real peer to a real file."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from support import THIS_MONTH, Peer, Served, served
from tallyd.api.socket.peers import ALL, scopes_of
from tallyd.config import Peer as PeerSettings
from tallyd.config import Socket
from tallyd.model.moments import iso


def body(**fields: Any) -> dict[str, Any]:
    """An event as sent."""
    return {"eventName": "call", "customerReferenceId": "acme", "featureKey": "api", "usageUnits": 1, **fields}


def call(number: object, method: str, **params: Any) -> dict[str, Any]:
    """A request."""
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


async def subscribed(peer: Peer, plan: str = "capped", customer: str = "acme") -> None:
    """Put a customer on a plan since the month began."""
    params = {"customerReferenceId": customer, "planKey": plan, "startsAt": iso(THIS_MONTH)}
    await peer.result("subscribe", **params)


async def answers(peer: Peer, count: int) -> list[Any]:
    """Return the next messages."""
    return [await peer.line() for _ in range(count)]


# What can be asked


async def test_every_method_answers(tmp_path: Path) -> None:
    """ping, subscribe, ingest, check, evaluate, consume, keys.create: one customer's first minute."""
    async with served(tmp_path) as daemon, daemon.peer() as peer:
        assert (await peer.result("ping"))["pong"] is True
        await subscribed(peer)
        before = (await peer.result("check", customerReferenceId="acme", featureKey="api"))["position"]
        (result,) = (await peer.result("ingest", events=[body(usageUnits=12)]))["results"]
        assert (result["status"], result["revenueAmount"], result["position"]) == ("created", 1.2, before + 1)
        checked = await peer.result("check", customerReferenceId="acme", featureKey="api")
        assert checked["allowed"] is True
        assert checked["usage"] == {"used": 12, "limit": 100, "remaining": 88}
        assert checked["priceVersion"] == "capped@1"
        evaluated = await peer.result(
            "evaluate", customerReferenceId="acme", featureKey="api", usage={"usageUnits": 89}
        )
        assert (evaluated["allowed"], evaluated["simulation"]["wouldExceedLimit"]) == (False, True)
        consumed = await peer.result("consume", **body(usageUnits=88))
        assert (consumed["allowed"], consumed["usage"]["remaining"]) == (True, 0)
        refused = await peer.result("consume", **body())
        assert (refused["allowed"], refused["meta"]["reason"]["code"]) == (False, "limit_reached")
        assert "eventId" not in refused
        secret = (await peer.result("keys.create", name="app", scopes=["read"]))["key"]
        assert daemon.core.keys.scopes_of(secret) == {"read"}


async def test_a_consume_repeated_with_its_key_is_admitted_once(tmp_path: Path) -> None:
    """The retry of an admitted consume says so, and takes nothing more (P2)."""
    async with served(tmp_path) as daemon, daemon.peer() as peer:
        await subscribed(peer)
        first = await peer.result("consume", **body(eventIdempotencyKey="k", usageUnits=100))
        again = await peer.result("consume", **body(eventIdempotencyKey="k", usageUnits=100))
        assert (again["allowed"], again["duplicate"], again["eventId"]) == (True, True, first["eventId"])
        other = await peer.call("consume", **body(eventIdempotencyKey="k", usageUnits=1))
        assert other["error"]["data"]["code"] == "idempotency_conflict"
        assert other["error"]["data"]["detail"] == first["eventId"]


async def test_one_bad_event_does_not_sink_the_batch(tmp_path: Path) -> None:
    """Results are in order: created, refused by field, duplicate, conflict."""
    async with served(tmp_path) as daemon, daemon.peer() as peer:
        keyed = body(eventIdempotencyKey="k")
        events = [keyed, body(usageUnits=-1), keyed, {**keyed, "usageUnits": 2}, {"eventName": "x"}, 5]
        results = (await peer.result("ingest", events=events))["results"]
        statuses = [each["status"] for each in results]
        assert statuses == ["created", "refused", "duplicate", "conflict", "refused", "refused"]
        assert results[1]["error"]["field"] == "usageUnits"
        assert results[4]["error"]["field"] == "customerReferenceId"


async def test_two_hundred_consumers_over_fifty_connections_admit_exactly_the_limit(tmp_path: Path) -> None:
    """Cap 100, 200 consumes of 1 at once: 100 admitted, and the books opened again say 100 (P4, P1)."""
    admitted: list[bool] = []
    async with served(tmp_path) as daemon:
        async with daemon.peer() as peer:
            await subscribed(peer)

        async def consumer() -> None:
            async with daemon.peer() as peer:
                await peer.send(*(call(number, "consume", **body()) for number in range(4)))
                admitted.extend([each["result"]["allowed"] for each in await answers(peer, 4)])

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(consumer)
    assert (len(admitted), sum(admitted)) == (200, 100)
    async with served(tmp_path) as daemon, daemon.peer() as peer:
        checked = await peer.result("check", customerReferenceId="acme", featureKey="api")
        assert checked["usage"] == {"used": 100, "limit": 100, "remaining": 0}


async def test_numbers_keep_every_digit(tmp_path: Path) -> None:
    """A number of 38 digits comes back as it was sent; one of 39 is refused with the limit (P9)."""
    long = "12345678901234567890.123456789012345678"
    line = (
        b'{"jsonrpc":"2.0","id":%d,"method":"ingest","params":{"events":[{"eventName":"call",'
        b'"customerReferenceId":"acme","costAmount":%s,"usageUnits":%s}]}}\n'
    )
    async with served(tmp_path) as daemon, daemon.peer() as peer:
        await peer.send(line % (1, long.encode(), f'"{long}"'.encode()))
        content = b""
        while not content.endswith(b"\n"):
            content += await peer.stream.receive_some(65_536)
        assert content.count(long.encode()) == 2
        await peer.send(line % (2, b"1" + long.encode(), b"1"))
        (refused,) = (await peer.line())["result"]["results"]
        assert refused["error"]["field"] == "costAmount"
        assert "20 digits" in refused["error"]["message"]


@pytest.mark.parametrize(
    "number", ["1" * 300, "0." + "1" * 300, "1e400", "1E-400", "9" * 40, '"1e400"', '"NaN"', '"Infinity"']
)
async def test_numbers_beyond_the_limits_are_refused_one_by_one(tmp_path: Path, number: str) -> None:
    """Whatever is wrong with a number, its event alone is refused, naming the field; the others are stored."""
    events = f'[{{"eventName":"a","customerReferenceId":"acme","usageUnits":{number}}},'
    events += '{"eventName":"b","customerReferenceId":"acme","usageUnits":1}]'
    async with served(tmp_path) as daemon, daemon.peer() as peer:
        await peer.send(
            b'{"jsonrpc":"2.0","id":1,"method":"ingest","params":{"events":' + events.encode() + b"}}\n"
        )
        bad, good = (await peer.line())["result"]["results"]
        assert (bad["status"], bad["error"]["field"]) == ("refused", "usageUnits")
        assert good["status"] == "created"


# The protocol


async def test_pipelined_answers_are_matched_by_id(tmp_path: Path) -> None:
    """Many requests in one write, ids of both kinds: each is answered once, whatever the order."""
    async with served(tmp_path) as daemon, daemon.peer() as peer:
        await subscribed(peer)
        ids = [*range(100), *(f"id-{number}" for number in range(100))]
        methods = ("ping", "check", "consume")
        params = {"ping": {}, "check": {"customerReferenceId": "acme", "featureKey": "api"}, "consume": body()}
        await peer.send(
            *(call(number, methods[index % 3], **params[methods[index % 3]]) for index, number in enumerate(ids))
        )
        got = await answers(peer, len(ids))
        assert {each["id"] for each in got} == set(ids)
        assert all("result" in each for each in got)


async def test_a_batch_is_answered_as_one_array(tmp_path: Path) -> None:
    """Calls, a notification and rubbish in one JSON-RPC batch: an answer each, none for the notification."""
    async with served(tmp_path) as daemon, daemon.peer() as peer:
        notification = {"jsonrpc": "2.0", "method": "ingest", "params": {"events": [body()]}}
        await peer.send([call(1, "ping"), notification, 7, call(2, "nothing")])
        batch = await peer.line()
        assert [each["id"] for each in batch] == [1, None, 2]
        assert [each.get("error", {}).get("code") for each in batch] == [None, -32600, -32601]
        await peer.send([notification], call(3, "ping"))
        assert (await peer.line())["id"] == 3


async def test_a_notification_is_carried_out_and_not_answered(tmp_path: Path) -> None:
    """Without an id there is no answer, not even to an error."""
    async with served(tmp_path) as daemon, daemon.peer() as peer:
        await subscribed(peer, "pro")
        await peer.send(
            {"jsonrpc": "2.0", "method": "ingest", "params": {"events": [body(usageUnits=5)]}},
            {"jsonrpc": "2.0", "method": "nothing"},
            call(1, "ping"),
        )
        assert (await peer.line())["id"] == 1
        used = 0
        while not used:
            checked = await peer.result("check", customerReferenceId="acme", featureKey="api")
            used = checked["usage"]["used"]
        assert used == 5


@pytest.mark.parametrize(
    ("sent", "number", "code"),
    [
        (b"garbage\n", -32700, "malformed_request"),
        (b"\xff\xfe\x00\x01\n", -32700, "malformed_request"),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"\n', -32700, "malformed_request"),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}\n', -32600, "malformed_request"),
        (b'{"id":1,"method":"ping"}\n', -32600, "malformed_request"),
        (b'{"jsonrpc":"2.0","id":1}\n', -32600, "malformed_request"),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}\n', -32600, "malformed_request"),
        (b'{"jsonrpc":"2.0","id":1,"method":5}\n', -32600, "malformed_request"),
        (b"[]\n", -32600, "malformed_request"),
        (b"[" * 100_000 + b"\n", -32700, "malformed_request"),
        (b'{"a":' * 100_000 + b"\n", -32700, "malformed_request"),
        (b'"text"\n', -32600, "malformed_request"),
        (b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}\n', -32700, "malformed_request"),
        (b"[" + b",".join([b"1"] * 1001) + b"]\n", -32600, "malformed_request"),
    ],
)
async def test_a_line_that_is_no_request_is_answered_and_the_connection_lives(
    tmp_path: Path, sent: bytes, number: int, code: str
) -> None:
    """Rubbish has its JSON-RPC error with a stable code, and the next request is served."""
    async with served(tmp_path) as daemon, daemon.peer() as peer:
        await peer.send(sent)
        error = (await peer.line())["error"]
        assert (error["code"], error["data"]["code"]) == (number, code)
        assert (await peer.result("ping"))["pong"] is True


@pytest.mark.parametrize(
    ("method", "params", "number", "code", "field"),
    [
        ("nothing", {}, -32601, "not_found", None),
        ("check", {}, -32602, "validation_failed", "customerReferenceId"),
        (
            "check",
            {"customerReferenceId": 5, "featureKey": "api"},
            -32602,
            "validation_failed",
            "customerReferenceId",
        ),
        ("check", {"customerReferenceId": "nobody", "featureKey": "api"}, -32000, "not_found", None),
        (
            "check",
            {"customerReferenceId": "a\x00b", "featureKey": "api"},
            -32602,
            "validation_failed",
            "customerReferenceId",
        ),
        (
            "check",
            {"customerReferenceId": "x" * 256, "featureKey": "api"},
            -32602,
            "validation_failed",
            "customerReferenceId",
        ),
        ("consume", body(usageUnits=0), -32602, "validation_failed", "usageUnits"),
        ("consume", body(usageUnits="many"), -32602, "validation_failed", "usageUnits"),
        ("consume", body(eventIdempotencyKey="k" * 256), -32602, "validation_failed", "eventIdempotencyKey"),
        ("consume", body(occurredAt="2026-11-21T12:00:00"), -32602, "validation_failed", "occurredAt"),
        ("consume", body(occurredAt="9999-12-31T23:59:59Z"), -32602, "validation_failed", "occurredAt"),
        ("consume", body(meta={"note": "a\x00b"}), -32602, "validation_failed", "meta"),
        ("consume", body(meta={"n": 10**30}), -32602, "validation_failed", "meta.n"),
        ("consume", body(meta={"note": "x" * 300_000}), -32602, "validation_failed", "meta"),
        ("ingest", {"events": []}, -32602, "validation_failed", "events"),
        ("ingest", {"events": [1] * 1001}, -32602, "validation_failed", "events"),
        ("ingest", {}, -32602, "validation_failed", "events"),
        (
            "evaluate",
            {"customerReferenceId": "acme", "featureKey": "api", "usage": {"usageUnits": 0}},
            -32602,
            "validation_failed",
            "usage.usageUnits",
        ),
        ("subscribe", {"customerReferenceId": "acme", "planKey": "none"}, -32602, "validation_failed", "planKey"),
        (
            "subscribe",
            {"customerReferenceId": "acme", "planKey": "pro", "startsAt": "9999-12-31T00:00:00Z"},
            -32602,
            "validation_failed",
            "startsAt",
        ),
        (
            "subscribe",
            {"customerReferenceId": "acme", "planKey": "pro", "billingAnchorDay": 32},
            -32602,
            "validation_failed",
            "billingAnchorDay",
        ),
        (
            "subscribe",
            {"customerReferenceId": "acme", "planKey": "pro", "billingAnchorDay": 0},
            -32602,
            "validation_failed",
            "billingAnchorDay",
        ),
        ("keys.create", {"name": "x", "scopes": ["root"]}, -32602, "validation_failed", "scopes"),
    ],
)
async def test_bad_params_name_the_field(
    tmp_path: Path, method: str, params: dict[str, Any], number: int, code: str, field: str | None
) -> None:
    """Each bad request has its number, its stable `data.code` and the field to blame; nothing is stored."""
    async with served(tmp_path) as daemon, daemon.peer() as peer:
        error = (await peer.call(method, **params))["error"]
        assert (error["code"], error["data"]["code"]) == (number, code)
        assert error["data"].get("field") == field
        assert daemon.core.counts.events == 0


@pytest.mark.parametrize("params", [b"[]", b"7", b'"x"', b"null"])
async def test_params_that_are_no_object_are_refused(tmp_path: Path, params: bytes) -> None:
    """Params by position, or anything but an object, are invalid params."""
    async with served(tmp_path) as daemon, daemon.peer() as peer:
        await peer.send(b'{"jsonrpc":"2.0","id":1,"method":"check","params":' + params + b"}\n")
        assert (await peer.line())["error"]["code"] == -32602


async def test_deep_metadata_is_refused_and_not_a_crash(tmp_path: Path) -> None:
    """Metadata nested a thousand times over is refused in words."""
    deep = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    async with served(tmp_path) as daemon, daemon.peer() as peer:
        await peer.send(
            b'{"jsonrpc":"2.0","id":1,"method":"consume","params":{"eventName":"a","customerReferenceId":"c",'
            b'"meta":' + deep + b"}}\n"
        )
        assert (await peer.line())["error"]["data"]["code"] in ("malformed_request", "validation_failed")
        assert (await peer.result("ping"))["pong"] is True


# The bounds of a connection


async def refused_with(daemon: Served, *sent: bytes) -> Any:
    """Send, and return the last message before the daemon closed the connection."""
    async with daemon.peer() as peer:
        last = None
        try:
            for each in sent:
                await peer.send(each)
        except trio.BrokenResourceError:
            pass  # it closed while we were still sending
        while (line := await peer.line()) is not None:
            last = line
        return last


@pytest.mark.parametrize(
    "sent", [[b"x" * 2_000], [b"x" * 600, b"x" * 600], [b"x" * 2_000 + b"\n"], [b"{}\n" + b"x" * 1_500 + b"\n"]]
)
async def test_a_line_over_the_limit_ends_the_connection(tmp_path: Path, sent: list[bytes]) -> None:
    """Whether it comes at once, in parts, or finished: the peer is told why and let go; others are served."""
    async with served(tmp_path, socket__line_bytes_max=1_000) as daemon:
        answer = await refused_with(daemon, *sent)
        assert answer["error"]["data"]["code"] == "too_large"
        async with daemon.peer() as peer:
            assert (await peer.result("ping"))["pong"] is True


async def test_half_a_line_and_silence_ends_the_connection(tmp_path: Path) -> None:
    """A line that is not finished in time is not waited for; an idle connection is."""
    async with served(tmp_path, socket__line_timeout_s=0.05) as daemon, daemon.peer() as idle:
        answer = await refused_with(daemon, b'{"jsonrpc"')
        assert "not finished" in answer["error"]["message"]
        assert (await idle.result("ping"))["pong"] is True


async def test_a_line_sent_byte_by_byte_wins_no_time(tmp_path: Path) -> None:
    """The time is for the whole line: a byte now and then does not keep a connection open."""
    async with served(tmp_path, socket__line_timeout_s=0.2) as daemon, daemon.peer() as peer:
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                with trio.move_on_after(5):
                    while True:
                        await peer.send(b"x")
                        await trio.sleep(0.02)

            async def dripping() -> None:
                try:
                    await drip()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return

            nursery.start_soon(dripping)
            with trio.move_on_after(4) as patience:
                answer = await peer.line()
            nursery.cancel_scope.cancel()
        assert not patience.cancelled_caught
        assert "not finished" in answer["error"]["message"]


async def test_one_connection_too_many_is_refused_in_words(tmp_path: Path) -> None:
    """Over `connections_max` a peer is told to retry; once somebody leaves there is room."""
    async with served(tmp_path, socket__connections_max=2) as daemon:
        async with daemon.peer() as first, daemon.peer() as second:
            assert await first.result("ping")
            assert await second.result("ping")
            answer = await refused_with(daemon)
            assert answer["error"]["data"]["code"] == "rate_limited"
        while daemon.server.connections:
            await trio.lowlevel.checkpoint()
        async with daemon.peer() as third:
            assert await third.result("ping")


async def test_a_peer_that_closes_its_side_still_gets_its_answers(tmp_path: Path) -> None:
    """`printf … | nc -U`: half-closed after sending, every request is answered, then the daemon closes."""
    async with served(tmp_path) as daemon, daemon.peer() as peer:
        await subscribed(peer)
        await peer.send(*(call(number, "consume", **body()) for number in range(20)))
        await peer.stream.send_eof()
        got = await answers(peer, 20)
        assert sorted(each["id"] for each in got) == list(range(20))
        assert await peer.line() is None


async def test_a_peer_that_does_not_read_holds_nobody_else(tmp_path: Path) -> None:
    """Unread answers stop the daemon from reading that peer, and no other; it is dropped in the end."""
    async with served(tmp_path, socket__send_timeout_s=0.2) as daemon, daemon.peer() as deaf:
        async with daemon.peer() as peer:
            await subscribed(peer)
        line = msgspec.json.encode(call(1, "check", customerReferenceId="acme", featureKey="api")) + b"\n"
        async with trio.open_nursery() as nursery:

            async def shout() -> None:
                try:
                    while True:
                        await deaf.send(line * 500)
                except trio.BrokenResourceError:
                    return

            nursery.start_soon(shout)
            async with daemon.peer() as peer:
                for _ in range(50):
                    assert (await peer.result("consume", **body()))["allowed"]
        while daemon.server.connections:
            await trio.lowlevel.checkpoint()


async def test_a_peer_that_goes_away_leaves_its_event_recorded(tmp_path: Path) -> None:
    """Who closes before the answer has still sent an event: it is in the books, once."""
    async with served(tmp_path) as daemon:
        async with daemon.peer() as peer:
            await subscribed(peer)
            await peer.send(call(1, "ingest", events=[body(eventIdempotencyKey="k")]))
        async with daemon.peer() as peer:
            (result,) = (await peer.result("ingest", events=[body(eventIdempotencyKey="k")]))["results"]
            checked = await peer.result("check", customerReferenceId="acme", featureKey="api")
        assert result["status"] in ("created", "duplicate")
        assert checked["usage"]["used"] == 1


# Scopes


@pytest.mark.parametrize(
    ("uid", "gid", "scopes"),
    [
        (0, 0, ALL),
        (os.geteuid(), 12345, ALL),
        (1001, 5, {"read"}),
        (1002, 50, {"ingest"}),
        (1001, 50, {"read"}),
        (1003, 70, {"admin"}),
        (1004, 70, {"ingest", "read"}),
        (4321, 4321, {"ingest", "read"}),
    ],
)
def test_a_peer_has_the_scopes_of_the_first_entry_that_matches(uid: int, gid: int, scopes: set[str]) -> None:
    """By uid, by gid, by both; else root and the daemon's own user may do all, everybody else the default."""
    settings = Socket(
        peers=(
            PeerSettings(uid=1001, scopes=("read",)),
            PeerSettings(gid=50, scopes=("ingest",)),
            PeerSettings(uid=1003, gid=70, scopes=("admin",)),
        )
    )
    assert scopes_of(uid, gid, settings) == scopes


async def test_a_peer_without_the_scope_is_refused_by_name(tmp_path: Path) -> None:
    """The kernel says who is at the other end; what is not granted is forbidden, and says what is missing."""
    async with served(tmp_path) as daemon:
        mine = PeerSettings(uid=os.geteuid(), scopes=("read",))
        daemon.server._settings = msgspec.structs.replace(daemon.server._settings, peers=(mine,))
        async with daemon.peer() as peer:
            assert await peer.result("ping")
            for method in ("consume", "ingest", "subscribe", "keys.create", "catalog.reload", "rerate"):
                error = (await peer.call(method))["error"]
                assert error["data"]["code"] == "forbidden"
            assert (await peer.call("check", customerReferenceId="x", featureKey="y"))["error"]["data"][
                "code"
            ] == "not_found"


async def test_the_socket_file_has_the_mode_of_the_settings(tmp_path: Path) -> None:
    """Who may connect is first of all the file's mode."""
    async with served(tmp_path, socket__mode="0600") as daemon:
        assert (await trio.Path(daemon.path).stat()).st_mode & 0o777 == 0o600
