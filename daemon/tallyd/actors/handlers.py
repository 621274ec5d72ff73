"""Who handles which message."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from tallyd.actors import changing, messages, recording

HANDLERS: Final[dict[type[messages.Message], Callable[..., Awaitable[Any]]]] = {
    messages.Record: recording.record,
    messages.Reserve: recording.reserve,
    messages.Change: changing.change,
    messages.Subscribe: changing.subscribe,
    messages.Introduce: changing.introduce,
    messages.ChangeProfile: changing.change_profile,
    messages.Void: changing.void,
    messages.Rerate: changing.rerate,
}
"""Called with the actor, the message and the account; settles the message, or raises what is wrong."""
