"""A bounded mailbox: what waits for one customer's actor (P11)."""

from collections import deque
from typing import Final, Generic, TypeVar

import trio

from tallyd.model.problems import overloaded

MessageT = TypeVar("MessageT")

CAPACITY: Final = 1_000


class Mailbox(Generic[MessageT]):
    """First in, first out; a full one refuses at once instead of making the sender wait."""

    __slots__ = ("_messages", "_receiver")

    def __init__(self) -> None:
        self._messages: deque[MessageT] = deque()
        self._receiver: trio.lowlevel.Task | None = None

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: MessageT) -> None:
        """Add a message.

        Raises:
            ProblemError: full; retry shortly.
        """
        if len(self._messages) >= CAPACITY:
            raise overloaded("too many requests wait for this customer; retry shortly")
        self._messages.append(message)
        if self._receiver is not None:
            trio.lowlevel.reschedule(self._receiver)
            self._receiver = None

    def put_back(self, message: MessageT) -> None:
        """Return a message to the front, to be handled again."""
        self._messages.appendleft(message)

    def take(self) -> MessageT:
        """Take the oldest message; there must be one."""
        return self._messages.popleft()

    async def wait(self) -> None:
        """Wait until there is a message. Only the owner waits."""
        if self._messages:
            await trio.lowlevel.checkpoint()
            return
        self._receiver = trio.lowlevel.current_task()

        def forget(_: object) -> trio.lowlevel.Abort:
            self._receiver = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(forget)
