"""What a key or a peer may do."""

from typing import Final, Literal, get_args

Scope = Literal["ingest", "read", "admin"]
"""`ingest` reports usage and consumes, `read` asks, `admin` may do all."""

SCOPES: Final = frozenset(get_args(Scope))
