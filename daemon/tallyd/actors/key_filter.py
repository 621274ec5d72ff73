"""Keys that are certainly new: what spares most events the look-up of their key.

A Bloom filter over every key in the books. "Not in the filter" is certain; "perhaps in it" is looked up, as is
everything until the filter has been filled. It lives in memory only, and is never asked whether a key *is* known.
"""

from mmap import mmap
from typing import Final

from tallyd.store.event_rows import KeyPair

BITS: Final = 1 << 27
"""16 MiB: at ten million keys about one new key in a hundred is looked up in vain."""
PROBES: Final = 3
_HALF: Final = 32


class KeyFilter:
    """Add every key before it can reach the books; ask `certainly_new` of keys that come."""

    def __init__(self, bits: int = BITS) -> None:
        self._bits = mmap(-1, bits >> 3)  # the kernel's zeros: what no key has touched takes no memory
        self._mask = bits - 1
        self.filled = False

    def add(self, pair: KeyPair) -> None:
        """Note a key."""
        bits, mask = self._bits, self._mask
        place = hash(pair)
        stride = (place >> _HALF) | 1
        for _ in range(PROBES):
            bit = place & mask
            bits[bit >> 3] |= 1 << (bit & 7)
            place += stride

    def certainly_new(self, pair: KeyPair) -> bool:
        """Whether the key was never added; False also when that is not certain."""
        if not self.filled:
            return False
        bits, mask = self._bits, self._mask
        place = hash(pair)
        stride = (place >> _HALF) | 1
        for _ in range(PROBES):
            bit = place & mask
            if not bits[bit >> 3] & 1 << (bit & 7):
                return True
            place += stride
        return False
