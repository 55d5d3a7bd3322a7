"""One request to the agent, as the launcher sends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam.agent.protocol import ANSWER, ProtocolError, pack_request, read_answer

if TYPE_CHECKING:
    import socket

TIMEOUT_S = 5.0
_LARGEST = 1 << 20  # of an answer; VERSION's and STATUS' have some hundred bytes


def variables(command: str) -> dict[str, str]:
    """What a runtime sets for a command that is about no container: STATUS, VERSION."""
    return {"CNI_COMMAND": command, "CNI_PATH": "/opt/cni/bin"}


def ask(connection: socket.socket, command: str, stdin: bytes = b"{}") -> tuple[int, bytes]:
    """(exit status, standard output) of such a command. Raises OSError."""
    connection.sendall(pack_request(variables(command), stdin))
    try:
        status, output, messages = read_answer(_receive(connection, ANSWER.size))
    except ProtocolError as error:
        raise OSError(f"what answers is no fastipam agent: {error}") from error
    if output + messages > _LARGEST:
        raise OSError("what answers is no fastipam agent")
    return status, _receive(connection, output + messages)[:output]


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise OSError("the connection was closed without an answer")
        data += part
    return data
