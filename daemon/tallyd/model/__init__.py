"""The nouns of billing: plain values, no I/O, no behaviour beyond their own invariants."""
