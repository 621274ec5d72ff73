"""A line stream: what is sent arrives whole and in order, and whoever waits for room is let on."""

import socket

import trio
import trio.testing

from tallyd.api.socket.stream import LineStream

PART = 400_000


async def test_everybody_who_waits_for_room_is_let_on(autojump_clock: trio.testing.MockClock) -> None:  # noqa: ARG001
    """Four senders into a peer that reads late: none is left behind, and nothing is mixed."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    stream = LineStream(ours, waiting_bytes_max=1, send_timeout_s=1_000)
    done: list[bytes] = []

    async def send(letter: bytes) -> None:
        await stream.send(letter * PART)
        done.append(letter)

    received = bytearray()
    with trio.move_on_after(500):
        async with trio.open_nursery() as nursery:
            for letter in (b"a", b"b", b"c", b"d"):
                nursery.start_soon(send, letter)
            await trio.testing.wait_all_tasks_blocked()
            while len(received) < 4 * PART:
                await trio.lowlevel.wait_readable(theirs)
                received += theirs.recv(65_536)
    assert sorted(done) == [b"a", b"b", b"c", b"d"]
    runs = [received[index : index + PART] for index in range(0, 4 * PART, PART)]
    assert all(len(set(run)) == 1 for run in runs)
    stream.close()
    theirs.close()
