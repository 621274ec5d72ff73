"""A clean stop: who has asked on the socket is answered before the daemon goes."""

from pathlib import Path

import trio

from support import NOW, PATIENCE_S, connected, settings
from tallyd.clock import FixedClock
from tallyd.service import Service


async def test_a_request_on_its_way_when_the_daemon_stops_is_answered(tmp_path: Path) -> None:
    """Stopped between taking an event and committing it, the daemon commits, answers, and only then closes."""
    ready = trio.Event()
    config = settings(tmp_path, socket__path=str(tmp_path / "s.sock"))
    service = Service(config, clock=FixedClock(NOW), on_ready=lambda _: ready.set())
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            await ready.wait()
            async with connected(str(tmp_path / "s.sock")) as peer:
                events = [{"eventName": "call", "customerReferenceId": f"c{number % 30}"} for number in range(300)]
                await peer.send({"jsonrpc": "2.0", "id": 1, "method": "ingest", "params": {"events": events}})
                assert service.core is not None
                while service.core.writer._idle.is_set():
                    await trio.lowlevel.checkpoint()
                service.stop()
                answer = await peer.line()
    assert answer is not None, "closed without an answer, though the events are durable"
    assert {each["status"] for each in answer["result"]["results"]} == {"created"}
