"""What the launcher and the agent say to each other; src/launcher.c is the other end.

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

from fastipam.configuration.reader import LARGEST

MAGIC = b"FIP1"
REQUEST = Struct("!4sII")
ANSWER = Struct("!4sIII")
STARTED = "FASTIPAM_STARTED"
NETNS = "FASTIPAM_NETNS"
LARGEST_VARIABLES = 256 << 10
LARGEST_INPUT = LARGEST + 1  # one byte too many is sent on, so that the answer can say so
_LARGEST_ANSWER = 1 << 20  # that a client takes; VERSION's and STATUS' have some hundred bytes
_CREDENTIALS = Struct("3i")  # struct ucred of the kernel: pid, uid, gid
DEFAULT_SOCKET = "/run/fastipam/agent.sock"


class ProtocolError(Exception):
    """What came is no request; the connection is of no use any more."""


def request_size(header: bytes | bytearray) -> tuple[int, int]:
    """(bytes of variables, bytes of input) of a request whose header this is."""
    magic, variables, size = REQUEST.unpack(header)
    if magic != MAGIC:
        raise ProtocolError(f"a request begins with {MAGIC!r}, not {bytes(magic)!r}")
    if variables > LARGEST_VARIABLES:
        raise ProtocolError(f"{variables} bytes of variables are more than {LARGEST_VARIABLES}")
    if size > LARGEST_INPUT:
        raise ProtocolError(f"{size} bytes of input are more than {LARGEST_INPUT}")
    return variables, size


def read_variables(raw: bytes) -> dict[str, str]:
    """The variables of a request, decoded as ``os.environ`` is; of a name's values the first."""
    items = os.fsdecode(raw).split("\0")
    items.reverse()  # of a name's values the one that is entered last stays
    return dict([item.split("=", 1) for item in items if "=" in item])


def pack_request(variables: dict[str, str], stdin: bytes) -> bytes:
    """A request as the launcher sends it."""
    raw = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in variables.items())
    return REQUEST.pack(MAGIC, len(raw), len(stdin)) + raw + stdin


def pack_answer(status: int, output: bytes, messages: bytes = b"") -> bytes:
    """An answer as the launcher expects it."""
    return ANSWER.pack(MAGIC, status, len(output), len(messages)) + output + messages


def ask(
    connection: socket.socket, variables: dict[str, str], stdin: bytes = b"{}"
) -> tuple[int, bytes]:
    """Send a request and return (exit status, output) of its answer.

    Raises OSError, also when what answers is no fastipam agent.
    """
    connection.sendall(pack_request(variables, stdin))
    try:
        status, output, messages = read_answer(_receive(connection, ANSWER.size))
    except ProtocolError as error:
        raise OSError(f"what answers is no fastipam agent: {error}") from error
    if output + messages > _LARGEST_ANSWER:
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


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return (process id, uid) of the other end of a Unix socket's connection."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, uid, _ = _CREDENTIALS.unpack(raw)
    return process, uid


def read_answer(header: bytes) -> tuple[int, int, int]:
    """(exit status, bytes of output, bytes of messages) of an answer's header."""
    magic, status, output, messages = ANSWER.unpack(header)
    if magic != MAGIC:
        raise ProtocolError(f"an answer begins with {MAGIC!r}, not {magic!r}")
    return status, output, messages
