"""API keys: SHA-256 at rest, plaintext shown once, scopes `ingest`, `read`, `admin` (admin may do all)."""

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from tallyd.clock import Clock, new_secret
from tallyd.engine.events import check_identifier
from tallyd.model.access import SCOPES
from tallyd.model.problems import Code, Problem, ProblemError, invalid
from tallyd.store import tables
from tallyd.store.batch import Work
from tallyd.store.catalog_rows import StoredKey
from tallyd.store.writer import Writer

PREFIX: Final = "sk_live_"
_HINT_CHARACTERS: Final = 4


class KeyRing:
    """The API keys there are."""

    def __init__(self, keys: Iterable[StoredKey], clock: Clock) -> None:
        self._clock = clock
        self._keys = {key.hash: key for key in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def scopes_of(self, secret: str | None) -> frozenset[str]:
        """Return what the bearer of a key may do.

        Raises:
            ProblemError: no key, or not one of ours.
        """
        if not secret:
            raise ProblemError(Problem(code=Code.UNAUTHORIZED, message="Authentication required"))
        key = self._keys.get(_hash(secret))
        if key is None:
            raise ProblemError(Problem(code=Code.UNAUTHORIZED, message="Invalid API key"))
        return key.scopes

    async def create(self, name: str, scopes: Iterable[str], writer: Writer) -> str:
        """Make a key, keep its hash, and return it: the only time it is seen.

        Raises:
            ProblemError: no name, or an unknown scope.
        """
        check_identifier("name", name)
        wanted = frozenset(scopes)
        if not wanted or not wanted <= SCOPES:
            raise invalid("scopes", f"must be some of {', '.join(sorted(SCOPES))}")
        secret = PREFIX + new_secret()
        hint = f"{PREFIX}…{secret[-_HINT_CHARACTERS:]}"
        key = StoredKey(_hash(secret), name, hint, wanted, self._clock.now())
        row = (key.hash, key.name, key.hint, " ".join(sorted(wanted)), key.created_at)
        await writer.write(Work(rows=[(tables.API_KEYS, row)]))
        self._keys[key.hash] = key
        return secret


def require(scopes: frozenset[str], wanted: str) -> None:
    """Refuse a caller that may not do this.

    Raises:
        ProblemError: names the scope that is missing.
    """
    if wanted not in scopes and "admin" not in scopes:
        text = f"this needs the scope {wanted!r}; the key has {', '.join(sorted(scopes)) or 'none'}"
        raise ProblemError(Problem(code=Code.FORBIDDEN, message=text))


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
