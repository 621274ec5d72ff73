"""Driving the demo's day: HTTP on kept-alive connections and JSON-RPC on the Unix socket, at once."""

import http.client
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import trio

from tallyd.cli.demo_day import CUSTOMERS, LANES, Call, Day, Lane
from tallyd.cli.demo_tally import Tally
from tallyd.model.moments import DAY_US, iso

HTTP_CONNECTIONS: Final = 8
SOCKET_CONNECTIONS: Final = 12
EVENTS: Final = "/api/v1/client/events"
RECEIVE_BYTES: Final = 65_536

decode: Final = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode

OnCall = Callable[[Lane, Call], None]


class HttpClient:
    """One kept-alive connection with an API key."""

    def __init__(self, address: str, key: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """Ask; return the status and the decoded answer."""
        content = None if body is None else _encode(body)
        self._connection.request(method, path, content, self._headers)
        response = self._connection.getresponse()
        return response.status, decode(response.read())

    def get(self, path: str) -> dict[str, Any]:
        """Return the `data` of an answer."""
        status, answer = self.request("GET", path)
        assert status == http.client.OK, f"GET {path}: {status} {answer}"
        data: dict[str, Any] = answer["data"]
        return data

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class RpcStream:
    """One connection to the Unix socket, one question at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._last_id = 0

    async def call(self, method: str, params: Any) -> dict[str, Any]:
        """Ask and wait for the result."""
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        await self._stream.send_all(_encode(request) + b"\n")
        while (end := self._buffer.find(b"\n")) < 0:
            received = await self._stream.receive_some(RECEIVE_BYTES)
            assert received, "the daemon closed the connection"
            self._buffer += received
        answer = decode(self._buffer[:end])
        del self._buffer[: end + 1]
        assert "result" in answer, f"{method}: {answer}"
        result: dict[str, Any] = answer["result"]
        return result


class Driver:
    """Sends a day and tells a tally what was answered.

    Args:
        address: of HTTP.
        key: an API key.
        socket: path of the Unix socket.
        tally: takes the answers.
    """

    def __init__(self, address: str, key: str, socket: str, tally: Tally) -> None:
        self._address = address
        self._key = key
        self._socket = socket
        self._tally = tally
        self._on_call: OnCall = lambda _lane, _call: None

    def subscribe_all(self, day: Day) -> None:
        """Make the customers known and put them on their plans, from the day before the day on."""
        client = HttpClient(self._address, self._key)
        starts_at = iso(day.start - day.start % DAY_US)
        for customer in CUSTOMERS:
            body: dict[str, Any] = {"customerReferenceId": customer.reference}
            path = "/api/v1/client/customers"
            if customer.plan is not None:
                body |= {"planKey": customer.plan, "startsAt": starts_at}
                path = "/api/v1/client/subscriptions"
            status, answer = client.request("POST", path, body)
            assert status == http.client.CREATED, f"POST {path}: {status} {answer}"
        client.close()

    async def live(self, day: Day, on_call: OnCall) -> None:
        """Live through the day, all lanes at once, then through what comes late; `on_call` after every request."""
        self._on_call = on_call
        workers: dict[Lane, int] = {"http": HTTP_CONNECTIONS, "socket": SOCKET_CONNECTIONS, "guarded": 1}
        async with trio.open_nursery() as nursery:
            for lane in LANES:
                calls = iter(day.of(lane))
                work = self._http if lane == "http" else self._rpc
                for _ in range(workers[lane]):
                    nursery.start_soon(work, calls)
        await self._late(day.of("late"))

    # Lanes: workers of a lane share its calls

    async def _http(self, calls: Iterator[Call]) -> None:
        client = HttpClient(self._address, self._key)
        for call in calls:
            status, answer = await trio.to_thread.run_sync(self._post, client, call)
            self._take_http(call, status, answer)
        client.close()

    def _post(self, client: HttpClient, call: Call) -> tuple[int, dict[str, Any]]:
        if call.kind == "batch":
            return client.request("POST", f"{EVENTS}/batch", {"events": call.bodies})
        return client.request("POST", EVENTS, call.bodies[0])

    def _take_http(self, call: Call, status: int, answer: dict[str, Any]) -> None:
        if call.kind == "batch":
            self._take_results(call, answer["data"]["results"])
            return
        self._tally.take(call.bodies[0], _single(status, answer))
        self._done(call)

    async def _rpc(self, calls: Iterator[Call]) -> None:
        async with self._connected() as rpc:
            for call in calls:
                await self._ask(rpc, call)

    async def _late(self, calls: list[Call]) -> None:
        """Old events again, over the socket; changed ones and nonsense, over HTTP."""
        async with self._connected() as rpc:
            for call in calls:
                if call.kind == "ingest":
                    await self._ask(rpc, call)
        await self._http(iter([call for call in calls if call.kind != "ingest"]))

    @asynccontextmanager
    async def _connected(self) -> Any:
        async with await trio.open_unix_socket(self._socket) as stream:
            yield RpcStream(stream)

    # Questions over the socket

    async def _ask(self, rpc: RpcStream, call: Call) -> None:
        if call.kind == "ingest":
            answer = await rpc.call("ingest", {"events": call.bodies})
            self._take_results(call, answer["results"])
            return
        body = call.bodies[0]
        if call.kind == "consume":
            answer = await rpc.call("consume", body)
            self._take_consumed(body, answer)
        elif call.kind == "check":
            answer = await rpc.call("check", body)
            if not answer["allowed"]:
                self._tally.deny(body, f"check {body['featureKey']}", answer)
        else:
            await self._ask_first(rpc, body)
        self._done(call)

    def _take_consumed(self, body: dict[str, Any], answer: dict[str, Any]) -> None:
        if not answer["allowed"]:
            self._tally.sent += 1
            self._tally.deny(body, f"consume {body['eventName']}", answer)
            return
        self._tally.take(body, {"status": "duplicate" if answer.get("duplicate") else "created"})

    async def _ask_first(self, rpc: RpcStream, body: dict[str, Any]) -> None:
        """Ask whether the tokens fit; chat only if they do."""
        tokens = body["costInput"]["inputTokens"] + body["costInput"]["outputTokens"]
        question = {
            "customerReferenceId": body["customerReferenceId"],
            "featureKey": body["featureKey"],
            "usage": {"usageUnits": tokens},
        }
        answer = await rpc.call("evaluate", question)
        if answer["allowed"]:
            result = await rpc.call("ingest", {"events": [body]})
            self._tally.take(body, result["results"][0])
        else:
            self._tally.deny(body, f"evaluate {body['featureKey']}", answer)

    def _take_results(self, call: Call, results: list[dict[str, Any]]) -> None:
        for body, result in zip(call.bodies, results, strict=True):
            self._tally.take(body, result)
        self._done(call)

    def _done(self, call: Call) -> None:
        self._tally.calls += 1
        self._on_call(call.lane, call)


def _single(status: int, answer: dict[str, Any]) -> dict[str, Any]:
    """Put the answer to one event into the shape of a batch's results."""
    if status in (http.client.OK, http.client.CREATED):
        return {**answer["data"], "status": "created"}
    error = answer["error"]
    return {"status": "duplicate" if error["code"] == "conflict" else "refused", "error": error}
