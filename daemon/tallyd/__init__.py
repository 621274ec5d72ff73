"""tallyd: a billing sidecar. One process, one SQLite file."""

__version__ = "0.1.0"
