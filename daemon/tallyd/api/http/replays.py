"""The transport's `Idempotency-Key`: a request sent again within a day gets its first answer (CONTRACTS 1.2).

A space of its own, beside the events' keys. An answer is kept durably before it is given. Should the daemon die
between the two, the request is carried out again, and the events in it are still counted once: those without a key
of their own take theirs from the header.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256
from typing import Final

from quart import Response, request

from tallyd.actors.idempotency import Claims
from tallyd.api.http.family import answer, body_bytes, header_text
from tallyd.core import Core
from tallyd.model.problems import Code, Problem, ProblemError, invalid
from tallyd.store import tables
from tallyd.store.batch import Work
from tallyd.store.replay_rows import Replay, find_replay

HEADER: Final = "Idempotency-Key"
KEY_CHARACTERS_MAX: Final = 255
KEY_SPACE: Final = "transport"
BATCH_KEY_SPACE: Final = "transport.batch"
_SERVER_ERRORS: Final = 500


class Replays:
    """Keeps answers to requests that carry the header."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._claims = Claims()

    async def once(self, handle: Callable[[], Awaitable[Response]]) -> Response:
        """Answer the request at hand: by handling it, or with the answer it got before.

        Raises:
            ProblemError: a key of the wrong length, or one that another body was sent with.
        """
        key = transport_key()
        if key is None:
            return await handle()
        place = f"{request.method} {request.path}"
        while (holder := self._claims.claim((place, key))) is not None:
            await holder.wait()
        try:
            return await self._first_or_again(place, key, handle)
        finally:
            self._claims.release([(place, key)])

    async def _first_or_again(self, place: str, key: str, handle: Callable[[], Awaitable[Response]]) -> Response:
        digest = sha256(await body_bytes()).hexdigest()
        now = self._core.clock.now()
        replay = await self._core.books.read(partial(find_replay, place=place, key=key, now=now))
        if replay is None:
            response = await handle()
            if response.status_code < _SERVER_ERRORS:
                content = (await response.get_data(as_text=False)).decode()
                row = (place, key, digest, response.status_code, content, now)
                await self._core.writer.write(Work(rows=[(tables.REPLAYS, row)]))
        elif replay.body_hash == digest:
            response = _again(replay)
        else:
            text = f"the {HEADER} was used with another body; send a new request with a new key"
            raise ProblemError(Problem(code=Code.IDEMPOTENCY_CONFLICT, message=text))
        response.headers[HEADER] = request.headers[HEADER]
        return response


def transport_key() -> str | None:
    """Return the request's `Idempotency-Key`.

    Raises:
        ProblemError: not 1 to 255 characters.
    """
    key = header_text(HEADER)
    if key is not None and not 1 <= len(key) <= KEY_CHARACTERS_MAX:
        raise invalid(HEADER, f"must have 1 to {KEY_CHARACTERS_MAX} characters")
    return key


def request_key() -> str | None:
    """Return a key for what this request makes, from its `Idempotency-Key` and its path; None without the header.

    So it is made once, even if the daemon dies before the answer is kept for replay.

    Raises:
        ProblemError: not 1 to 255 characters.
    """
    key = transport_key()
    if key is None:
        return None
    return f"{KEY_SPACE}:{sha256(f'{request.method} {request.path} {key}'.encode()).hexdigest()}"


def _again(replay: Replay) -> Response:
    response = answer(None, replay.status)
    response.set_data(replay.content.encode())
    return response
