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
        self._messages: deque[MessageT] | None = None  # made for the first message: most residents are quiet
        self._receiver: trio.lowlevel.Task | None = None

    def __len__(self) -> int:
        return len(self._messages) if self._messages else 0

    def put(self, message: MessageT) -> None:
        """Add a message.

        Raises:
            ProblemError: full; retry shortly.
        """
        if self._messages is None:
            self._messages = deque()
        if len(self._messages) >= CAPACITY:
            raise overloaded("too many requests wait for this customer; retry shortly")
        self._messages.append(message)
        self.wake()

    def wake(self) -> None:
        """Let the owner go on, message or not."""
        if self._receiver is not None:
            trio.lowlevel.reschedule(self._receiver)
            self._receiver = None

    def put_back(self, message: MessageT) -> None:
        """Return a message to the front, to be handled again."""
        self._messages = deque((message, *(self._messages or ())))

    def take(self) -> MessageT:
        """Take the oldest message; there must be one."""
        assert self._messages, "there is a message"
        return self._messages.popleft()

    async def wait(self) -> None:
        """Wait until there is a message, or `wake`. Only the owner waits."""
        if self._messages:
            await trio.lowlevel.checkpoint()
            return
        self._receiver = trio.lowlevel.current_task()

        def forget(_: object) -> trio.lowlevel.Abort:
            self._receiver = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(forget)
