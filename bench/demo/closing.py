"""Commands to try on the store that the demo leaves, and the command that removes it."""

from __future__ import annotations

import shlex
import socket
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.demo.places import typed

if TYPE_CHECKING:
    from bench.demo.places import Places

_PORT = 9464


class Command(NamedTuple):
    """A command line and its purpose."""

    line: str
    purpose: str


def setting(places: Places) -> list[str]:
    """Return shell lines that make the commands use this installation and this store."""
    return [
        f"PATH={typed(Path(sys.executable).parent)}:$PATH",
        f"export FASTIPAM_DATA_DIR={typed(places.store)}",
        f"export FASTIPAM_SOCKET={typed(places.socket)}",
    ]


def commands(places: Places, pod: tuple[str, str], address: str, gone: str) -> list[Command]:
    """Return the commands to try.

    They are about a running pod, about its ``address``, and about ``gone``, the address of a pod
    that is gone.
    """
    neighbours = ip_network(f"{address}/28", strict=False)
    directories = f"--bin-dir {typed(places.plugins)} --conf-dir {typed(places.configurations)}"
    port = free_port()
    return [
        Command(
            f"fastipam agent --http {port} &",
            f"an agent, with a page at http://127.0.0.1:{port}/ (kill %1 ends it)",
        ),
        Command("fastipam stats", "how full the pool is"),
        Command(f"fastipam list --pod {shlex.quote('/'.join(pod))}", "which address a pod has"),
        Command(f"fastipam list --address {neighbours}", "who has these addresses"),
        Command(f"fastipam history {gone}", "who had this address, and when"),
        Command(
            f"fastipam map --by owner -o {typed(places.top / 'map.png')}",
            "a picture: one pixel an address, coloured by namespace",
        ),
        Command(f"fastipam doctor {directories}", "what is wrong with this node, and what to type"),
    ]


def free_port() -> int:
    """Return the usual port of the page, or another one when that port is in use."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", _PORT))
        except OSError:
            one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def removal(places: Places) -> str:
    """Return the command that removes everything."""
    return f"rm -r {typed(places.top)}"
