"""The protocol between the launcher and the agent; src/launcher.c is the other end.

Integers are in network byte order. A connection carries any number of requests in a row::

    request    magic, length of the variables, length of the input, variables, input
    answer     magic, exit status, length of the output, length of the messages, output, messages

The variables are texts ``NAME=value``, each ended by NUL: ``CNI_*``, ``FASTIPAM_STARTED`` and
``FASTIPAM_NETNS``.
"""

from __future__ import annotations

import os
import socket
from struct import Struct

from fastipam import _ledger
from fastipam.configuration.reader import LARGEST

MAGIC = b"FIP1"
REQUEST = Struct("!4sII")
ANSWER = Struct("!4sIII")
STARTED = "FASTIPAM_STARTED"
NETNS = "FASTIPAM_NETNS"
LARGEST_VARIABLES = 256 << 10
LARGEST_INPUT = LARGEST + 1  # one byte over the limit, so that the answer can report the error
_LARGEST_ANSWER = 1 << 20  # bytes that a client accepts; VERSION and STATUS need some hundreds
_CREDENTIALS = Struct("3i")  # struct ucred of the kernel: pid, uid, gid
DEFAULT_SOCKET = "/run/fastipam/agent.sock"


class ProtocolError(Exception):
    """The bytes are not a request or an answer: the connection cannot be used any longer."""


def request_size(header: bytes | bytearray) -> tuple[int, int]:
    """Return (bytes of variables, bytes of input) from the header of a request.

    Raises ProtocolError.
    """
    magic, variables, size = REQUEST.unpack(header)
    if magic != MAGIC:
        raise ProtocolError(f"a request must begin with {MAGIC!r}, not {bytes(magic)!r}")
    if variables > LARGEST_VARIABLES:
        raise ProtocolError(
            f"the variables of a request have {variables} bytes, more than {LARGEST_VARIABLES}"
        )
    if size > LARGEST_INPUT:
        raise ProtocolError(f"the input of a request has {size} bytes, more than {LARGEST_INPUT}")
    return variables, size


def read_variables(raw: bytes) -> dict[str, str]:
    """Return the variables of a request, decoded as ``os.environ`` is.

    If a name occurs several times, the first value counts.
    """
    items = os.fsdecode(raw).split("\0")
    items.reverse()  # dict() keeps the last value of a name
    return dict([item.split("=", 1) for item in items if "=" in item])


def pack_request(variables: dict[str, str], stdin: bytes) -> bytes:
    """Return a request as the launcher sends it."""
    raw = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in variables.items())
    return REQUEST.pack(MAGIC, len(raw), len(stdin)) + raw + stdin


pack_answer = _ledger.pack_answer


def ask(
    connection: socket.socket, variables: dict[str, str], stdin: bytes = b"{}"
) -> tuple[int, bytes]:
    """Send a request and return (exit status, output) of its answer.

    Raises OSError, also when the program that answers is not a fastipam agent.
    """
    return converse(connection, variables, stdin)[:2]


def converse(
    connection: socket.socket, variables: dict[str, str], stdin: bytes = b"{}"
) -> tuple[int, bytes, bytes]:
    """Send a request as :func:`ask` does, and return the text for standard error as well."""
    connection.sendall(pack_request(variables, stdin))
    try:
        status, output, messages = read_answer(_receive(connection, ANSWER.size))
    except ProtocolError as error:
        raise OSError(f"the program that answers is not a fastipam agent: {error}") from error
    if output + messages > _LARGEST_ANSWER:
        raise OSError("the program that answers is not a fastipam agent")
    answer = _receive(connection, output + messages)
    return status, answer[:output], answer[output:]


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise OSError("the connection was closed without an answer")
        data += part
    return data


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return (process id, uid) of the other end of a Unix socket's connection."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, uid, _ = _CREDENTIALS.unpack(raw)
    return process, uid


def read_answer(header: bytes) -> tuple[int, int, int]:
    """Return (exit status, bytes of output, bytes of messages) from the header of an answer.

    Raises ProtocolError.
    """
    magic, status, output, messages = ANSWER.unpack(header)
    if magic != MAGIC:
        raise ProtocolError(f"an answer must begin with {MAGIC!r}, not {magic!r}")
    return status, output, messages
