"""The books on disk: one SQLite file, one connection that writes, readers that cannot.

The only room that knows SQL, and the only one that knows asyncio (aiosqlite needs it).
"""
