"""Credits: pools that are drawn down by usage, the grants in them, holds on them. README.md beside it explains."""
