"""Speak systemd's protocols: sd_notify(3) and socket activation (sd_listen_fds(3)).

Without systemd both functions do nothing.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

_FIRST_DESCRIPTOR = 3


def notify(state: str) -> None:
    """Send ``state`` ("READY=1", "STOPPING=1") to the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with channel, suppress(OSError):  # no service manager listens, and nothing depends on it
        channel.sendto(state.encode(), address)


def inherited_socket() -> socket.socket | None:
    """Return the listening socket that systemd has opened for this process, or None."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    if os.environ.get("LISTEN_FDS") != "1":
        raise OSError(
            "socket activation: systemd must pass exactly one socket (LISTEN_FDS=1), not "
            f"LISTEN_FDS={os.environ.get('LISTEN_FDS', '')}"
        )
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    os.set_inheritable(_FIRST_DESCRIPTOR, False)
    return socket.socket(fileno=_FIRST_DESCRIPTOR)
