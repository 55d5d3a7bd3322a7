"""Send STATUS and VERSION requests to the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam.agent import protocol

if TYPE_CHECKING:
    import socket

TIMEOUT_S = 5.0


def variables(command: str) -> dict[str, str]:
    """Return the variables that a runtime sets for STATUS or VERSION."""
    return {"CNI_COMMAND": command, "CNI_PATH": "/opt/cni/bin"}


def ask(connection: socket.socket, command: str, stdin: bytes = b"{}") -> tuple[int, bytes]:
    """Send a STATUS or VERSION; return (exit status, standard output). Raises OSError."""
    return protocol.ask(connection, variables(command), stdin)
