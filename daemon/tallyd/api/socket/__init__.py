"""The Unix socket: JSON-RPC 2.0, one message a line, same bodies as HTTP."""
