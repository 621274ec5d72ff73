"""tallyd as a process of its own, ended while it waits for the payment provider; and refused with bad settings."""

import signal
import sqlite3
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from payments.stripe_stand_in import SECRET_KEY, WEBHOOK_SECRET, StripeStandIn, Webhook
from process.test_process import START_S, Process, process, ready
from support import connected

pytestmark = pytest.mark.process

PRICE = 'name = "Pro"\nprice_amount = 10'
CATALOG = f'[[features]]\nkey = "api"\n[[plans]]\nkey = "pro"\n{PRICE}\n[[plans.features]]\nfeature = "api"\n'
CLIENT = "/api/v1/client"


@pytest.fixture
def stripe_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StripeStandIn]:
    """Run a Stripe on this machine, at this machine's time."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with StripeStandIn(int(time.time())) as stand_in:
        yield stand_in


def options(directory: Path, stripe_api: StripeStandIn, **table: str) -> list[str]:
    """Write settings and catalog; return the options that name them."""
    (directory / "catalog.toml").write_text(CATALOG, encoding="utf-8")
    (directory / "stripe_key").write_text(f"{SECRET_KEY}\n", encoding="utf-8")
    given = {
        "secret_key_file": str(directory / "stripe_key"),
        "webhook_secret": WEBHOOK_SECRET,
        "api_base": stripe_api.address,
        **table,
    }
    lines = "\n".join(f'{key} = "{value}"' for key, value in given.items())
    payments = (
        f'[payments]\nprovider = "stripe"\nsuccess_url = "https://app.example.com"\n[payments.stripe]\n{lines}\n'
    )
    (directory / "tallyd.toml").write_text(payments, encoding="utf-8")
    return ["--http", "127.0.0.1:0", "--config", str(directory / "tallyd.toml")]


async def client(daemon: Process) -> httpx.AsyncClient:
    """Return a client with a key that may do everything."""
    serving = daemon.wait_for("ready")["serving"]
    address = serving.split("http=")[1].split()[0]
    async with connected(daemon.socket) as peer:
        made = await peer.result("keys.create", name="test")
    headers = {"Authorization": f"Bearer {made['key']}"}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.AsyncClient(base_url=address, headers=headers, timeout=60, trust_env=False, verify=context)


async def post(http: httpx.AsyncClient, path: str, **body: Any) -> Any:
    """Post to the client API; return what the envelope holds."""
    reply = await http.post(CLIENT + path, json=body)
    assert reply.is_success, reply.text
    return reply.json()["data"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_ended_between_the_row_and_the_answer(
    tmp_path: Path, stripe_api: StripeStandIn, end: signal.Signals
) -> None:
    """The session is in the books before Stripe hears of it; after a restart another page is made, and paid."""
    started = options(tmp_path, stripe_api)
    daemon = await ready(tmp_path, *started)
    try:
        async with await client(daemon) as http:
            stripe_api.fail_next(500, {})
            made = await post(http, "/subscriptions", customerReferenceId="acme", planKey="pro")
            path = f"/billing/invoices/{made['invoice']['id']}/checkout"
            stripe_api.hang_next()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cut_short, http, path)
                with trio.fail_after(START_S):
                    while len(stripe_api.received) < 2:  # noqa: ASYNC110 - a stranger's thread sets no event
                        await trio.sleep(0.01)
                daemon.popen.send_signal(end)
                await trio.to_thread.run_sync(daemon.popen.wait, START_S)
        words = daemon.words()
    finally:
        await trio.to_thread.run_sync(daemon.end)
    assert pending(tmp_path) == 1

    daemon = await ready(tmp_path, *started)
    try:
        async with await client(daemon) as http:
            page = await post(http, path)
            (session,) = stripe_api.sessions
            webhook = stripe_api.deliver(stripe_api.pay(session))
            for _ in range(2):
                assert (await taken(http, webhook)).status_code == 200
            looked = await http.get(f"{CLIENT}/checkout-sessions/{page['checkoutSessionId']}")
            assert looked.json()["data"]["status"] == "COMPLETED"
            allowed = await http.get(f"{CLIENT}/entitlements/acme/api")
            assert allowed.json()["data"]["allowed"] is True
        words += daemon.words()
    finally:
        await trio.to_thread.run_sync(daemon.end)
    assert pending(tmp_path) == 0
    assert SECRET_KEY not in words
    assert WEBHOOK_SECRET not in words


def pending(directory: Path) -> int:
    """How many sessions are PENDING, once the daemon has ended."""
    books = sqlite3.connect(f"file:{directory / 'data' / 'tallyd.db'}?mode=ro", uri=True)
    try:
        return int(books.execute("SELECT count(*) FROM checkouts WHERE status = 'PENDING'").fetchone()[0])
    finally:
        books.close()


async def taken(http: httpx.AsyncClient, webhook: Webhook) -> httpx.Response:
    """Deliver a webhook."""
    return await http.post("/webhooks/stripe", content=webhook.body, headers=webhook.headers)


async def _cut_short(http: httpx.AsyncClient, path: str) -> None:
    """Ask for a page that the daemon never gives."""
    try:
        reply = await http.post(CLIENT + path)
    except httpx.TransportError:
        return
    assert reply.status_code >= 500


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"secret_key_file": "/absent/key"}, "payments.stripe.secret_key_file: /absent/key: No such file"),
        ({"api_base": "stripe"}, "payment plugin stripe: api_base: must be an address"),
    ],
)
async def test_settings_that_cannot_work_are_refused_in_words(
    tmp_path: Path, stripe_api: StripeStandIn, table: dict[str, str], said: str
) -> None:
    """The process ends with 78 (do not start it again) and names the setting, without a traceback or a secret."""
    with process(tmp_path, *options(tmp_path, stripe_api, **table)) as daemon:
        assert await trio.to_thread.run_sync(daemon.popen.wait, START_S) == 78
        words = daemon.words()
    assert said in words
    assert "Traceback" not in words
    assert WEBHOOK_SECRET not in words
