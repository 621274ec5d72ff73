"""How requests get in: HTTP and the Unix socket. Translators only; every rule is in the engine."""
