"""Stripe as far as Checkout Sessions go, on a real socket: stateful, and refusing what Stripe refuses.

```python
with StripeStandIn(NOW_S) as stripe_api:
    checkout = tallyd_checkout(stripe_api.settings)
    session = checkout.create_session(request)
    webhook = stripe_api.deliver(stripe_api.pay(session.provider_session))
    checkout.read_webhook(webhook.body, webhook.headers, stripe_api.now_s * SECOND_US)
```

An event is made when something happens, and signed when it is delivered, as Stripe does: delivering an event again
is a retry, delivering several in another order is what the network does to them, and handing on the same webhook
twice is a replay of its bytes. Its clock stands until it is moved.
"""

import hashlib
import hmac
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qsl, unquote

import msgspec

from payments.stripe_refusals import Refusal, read_session

SECRET_KEY: Final = "sk_test_stand_in"
WEBHOOK_SECRET: Final = "whsec_stand_in"
API_VERSION: Final = "2026-10-28.endive"
IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 255
IDEMPOTENCY_KEY_KEPT_S: Final = 24 * 3600


class Received(msgspec.Struct, frozen=True):
    """A request as it came; names of headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    form: dict[str, str]


class Answer(msgspec.Struct, frozen=True):
    """What is sent back; no status for a connection that breaks before the answer is sent."""

    status: int | None
    body: bytes = b""
    headers: dict[str, str] = {}


class Webhook(msgspec.Struct, frozen=True):
    """A delivery of an event; names of headers in lower case, as tallyd hands them to plugins."""

    body: bytes
    headers: dict[str, str]


class _Saved(msgspec.Struct, frozen=True):
    """What an idempotency key was used for."""

    at_s: int
    path: str
    form: dict[str, str]
    answer: Answer


class StripeStandIn:
    """Stripe's API, its hosted page and its webhooks, for one account in test mode.

    Args:
        now_s: seconds UTC, by its clock.

    Attributes:
        now_s: as above; `advance` moves it.
        sessions: Checkout Sessions by id, as the API shows them.
        events: everything that happened, oldest first.
        received: every request, oldest first.
        address: of the API; known once it is entered.
    """

    def __init__(self, now_s: int) -> None:
        self.now_s = now_s
        self.sessions: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.received: list[Received] = []
        self.address = ""
        self._numbers = itertools.count(1)
        self._saved: dict[str, _Saved] = {}
        self._mishaps: deque[Callable[[Callable[[], Answer]], Answer]] = deque()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._held: list[threading.Event] = []

    def __enter__(self) -> Self:
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.address = "http://{}:{}".format(*self._server.server_address)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for held in self._held:
            held.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def settings(self) -> dict[str, str]:
        """What the plugin must be given to talk to this one."""
        return {"secret_key": SECRET_KEY, "webhook_secret": WEBHOOK_SECRET, "api_base": self.address}

    # What a customer does on the page, and what a bank does later

    def pay(self, session_id: str) -> dict[str, Any]:
        """Pay at once, by card; return the event."""
        self._finish(session_id, "paid")
        return self._happen("checkout.session.completed", session_id)

    def promise(self, session_id: str) -> dict[str, Any]:
        """Pay by what takes days, such as a bank transfer; return the event: it is completed, and unpaid."""
        self._finish(session_id, "unpaid")
        return self._happen("checkout.session.completed", session_id)

    def money_comes(self, session_id: str) -> dict[str, Any]:
        """Let a promised payment succeed; return the event."""
        self._promised(session_id)["payment_status"] = "paid"
        return self._happen("checkout.session.async_payment_succeeded", session_id)

    def money_fails_to_come(self, session_id: str) -> dict[str, Any]:
        """Let a promised payment fail; return the event."""
        self._promised(session_id)
        return self._happen("checkout.session.async_payment_failed", session_id)

    def advance(self, seconds: int) -> list[dict[str, Any]]:
        """Move the clock; return the events of the pages that closed meanwhile."""
        self.now_s += seconds
        late = [session for session in self.sessions.values() if session["status"] == "open"]
        return [self._expire(session) for session in late if session["expires_at"] <= self.now_s]

    # What comes of it

    def deliver(
        self, event: Mapping[str, Any], *, at_s: int | None = None, secrets: Iterable[str] = (WEBHOOK_SECRET,)
    ) -> Webhook:
        """Sign an event as it stands, as every attempt to deliver it is signed anew.

        Args:
            event: one of `events`, or what a test made of it.
            at_s: when it is signed; now, when not given.
            secrets: of the endpoint; two while one is being replaced.
        """
        body = msgspec.json.format(msgspec.json.encode(event), indent=2)
        headers = {"content-type": "application/json; charset=utf-8", "user-agent": "Stripe/1.0"}
        return Webhook(body, {**headers, "stripe-signature": self.sign(body, at_s=at_s, secrets=secrets)})

    def sign(self, body: bytes, *, at_s: int | None = None, secrets: Iterable[str] = (WEBHOOK_SECRET,)) -> str:
        """Return the `Stripe-Signature` of a body; in test mode one of a scheme to be ignored comes with it."""
        at_s = self.now_s if at_s is None else at_s
        signed = f"{at_s}.".encode() + body
        macs = [hmac.new(key.encode(), signed, hashlib.sha256).hexdigest() for key in secrets]
        return ",".join([f"t={at_s}", *(f"v1={mac}" for mac in macs), f"v0={'0' * 64}"])

    # What goes wrong

    def fail_next(self, status: int, body: object) -> None:
        """Answer the next request with this, and do nothing; bytes are sent as they are."""
        answer = Answer(status, body if isinstance(body, bytes) else msgspec.json.encode(body))
        self._mishaps.append(lambda _work: answer)

    def lose_next_answer(self) -> None:
        """Do what the next request asks, and let the connection break before it is answered."""

        def lose(work: Callable[[], Answer]) -> Answer:
            work()
            return Answer(None)

        self._mishaps.append(lose)

    def hold_next_answer(self) -> threading.Event:
        """Do what the next request asks, and answer it once the event is set."""
        released = threading.Event()
        self._held.append(released)

        def hold(work: Callable[[], Answer]) -> Answer:
            answer = work()
            released.wait()
            return answer

        self._mishaps.append(hold)
        return released

    def hang_next(self) -> None:
        """Leave the next request without an answer until this stand-in ends."""

        def hang(_work: Callable[[], Answer]) -> Answer:
            self._over.wait()
            return Answer(None)

        self._mishaps.append(hang)

    # The API

    def answer(self, received: Received) -> Answer:
        """Answer a request."""
        with self._lock:
            self.received.append(received)
            mishap = self._mishaps.popleft() if self._mishaps else None
        return mishap(lambda: self._work(received)) if mishap else self._work(received)

    def _work(self, received: Received) -> Answer:
        with self._lock:
            try:
                self._authenticate(received.headers.get("authorization", ""))
                return self._once(received)
            except Refusal as refusal:
                return self._json(refusal.status, {"error": refusal.error})

    def _authenticate(self, authorization: str) -> None:
        scheme, _, key = authorization.partition(" ")
        if scheme != "Bearer" or not key:
            raise Refusal("You did not provide an API key.", status=401)
        if key != SECRET_KEY:
            raise Refusal(f"Invalid API Key provided: {key[:8]}****{key[-4:]}", status=401)

    def _once(self, received: Received) -> Answer:
        """Do what a request asks, or repeat what was answered when its key was used first.

        Only what was begun is remembered: a request that is refused may be mended and sent with the same key.
        """
        key = received.headers.get("idempotency-key")
        if received.method != "POST" or not key:
            return self._act(received)
        if len(key) > IDEMPOTENCY_KEY_CHARACTERS_MAX:
            raise Refusal(f"Idempotency keys have at most {IDEMPOTENCY_KEY_CHARACTERS_MAX} characters.")
        saved = self._saved.get(key)
        if saved is None or self.now_s - saved.at_s >= IDEMPOTENCY_KEY_KEPT_S:
            answer = self._act(received)
            self._saved[key] = _Saved(self.now_s, received.path, received.form, answer)
            return answer
        if (saved.path, saved.form) != (received.path, received.form):
            same = "parameters" if saved.path == received.path else "endpoint"
            refusal = Refusal(f"Keys for idempotent requests can only be used with the same {same}: {key}")
            refusal.error["type"] = "idempotency_error"
            raise refusal
        replayed = {**saved.answer.headers, "Idempotent-Replayed": "true"}
        return msgspec.structs.replace(saved.answer, headers=replayed)

    def _act(self, received: Received) -> Answer:
        match [received.method, *received.path.split("/")[1:]]:
            case ["POST", "v1", "checkout", "sessions"]:
                return self._json(200, self._create(received.form))
            case ["GET", "v1", "checkout", "sessions", session_id]:
                return self._json(200, self._find(unquote(session_id)))
            case ["POST", "v1", "checkout", "sessions", session_id, "expire"]:
                return self._json(200, self._expire_by_request(unquote(session_id)))
        raise Refusal(f"Unrecognized request URL ({received.method}: {received.path}).", status=404)

    def _create(self, form: Mapping[str, str]) -> dict[str, Any]:
        decided = read_session(form, self.now_s)
        session_id = f"cs_test_a1{next(self._numbers):056}"
        self.sessions[session_id] = {
            "id": session_id,
            "object": "checkout.session",
            **decided,
            "created": self.now_s,
            "livemode": False,
            "payment_intent": None,
            "payment_status": "unpaid",
            "status": "open",
            "url": f"https://checkout.stripe.com/c/pay/{session_id}",
        }
        return self.sessions[session_id]

    def _find(self, session_id: str) -> dict[str, Any]:
        if session_id not in self.sessions:
            raise Refusal(f"No such checkout.session: {session_id}", "session", "resource_missing", 404)
        return self.sessions[session_id]

    def _expire_by_request(self, session_id: str) -> dict[str, Any]:
        session = self._find(session_id)
        if session["status"] != "open":
            raise Refusal(
                'Only Checkout Sessions with a status in ["open"] can be expired.'
                f" This Checkout Session has a status of `{session['status']}`."
            )
        self._expire(session)
        return session

    def _expire(self, session: dict[str, Any]) -> dict[str, Any]:
        session |= {"status": "expired", "url": None}
        return self._happen("checkout.session.expired", session["id"])

    def _finish(self, session_id: str, payment_status: str) -> None:
        session = self.sessions[session_id]
        assert session["status"] == "open", f"the page is {session['status']}"
        payment = f"pi_{next(self._numbers):024}"
        session |= {
            "status": "complete",
            "url": None,
            "payment_status": payment_status,
            "payment_intent": payment,
        }

    def _promised(self, session_id: str) -> dict[str, Any]:
        session = self.sessions[session_id]
        assert (session["status"], session["payment_status"]) == ("complete", "unpaid"), "nothing was promised"
        return session

    def _happen(self, kind: str, session_id: str) -> dict[str, Any]:
        event = {
            "id": f"evt_{next(self._numbers):024}",
            "object": "event",
            "api_version": API_VERSION,
            "created": self.now_s,
            "data": {"object": dict(self.sessions[session_id])},
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "type": kind,
        }
        self.events.append(event)
        return event

    def _json(self, status: int, value: object) -> Answer:
        headers = {"Content-Type": "application/json", "Request-Id": f"req_{next(self._numbers):014}"}
        return Answer(status, msgspec.json.encode(value), headers)


class _Server(ThreadingHTTPServer):
    """Listens on a free port of this machine."""

    daemon_threads = False  # so that closing it waits for those who are being answered
    request_queue_size = 64  # a connection that finds no place in the queue tries again after a second

    def __init__(self, stand_in: StripeStandIn) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stand_in = stand_in


class _Handler(BaseHTTPRequestHandler):
    """One request a connection."""

    server: _Server

    def do_GET(self) -> None:
        """Answer a GET."""
        self._answer()

    def do_POST(self) -> None:
        """Answer a POST."""
        self._answer()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        path = self.requestline.split()[1].partition("?")[0]  # self.path is mended: it has lost a second slash
        answer = self.server.stand_in.answer(Received(self.command, path, headers, form))
        if answer.status is None:
            return
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)
