"""Read a resolv.conf file into the ``dns`` object of a result."""

from __future__ import annotations

import os

from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LARGEST = 1 << 20


def read(path: str) -> dict[str, Any]:
    """Return ``nameservers``, ``domain``, ``search`` and ``options``, as far as the file has them.

    Raises ConfigError for a missing or unreadable file, which host-local refuses too.
    """
    try:
        with open(path, encoding="utf-8", errors="replace", opener=_open) as file:
            text = file.read(_LARGEST)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"{path} cannot be read: {reason}", field="ipam.resolvConf", value=path
        ) from None
    return parse(text)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # so that opening a FIFO does not block


def parse(text: str) -> dict[str, Any]:
    """Return the ``dns`` object of a file's content. Lines of fewer than two words are ignored."""
    nameservers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    domain = ""
    for line in text.split("\n"):
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        keyword, values = words[0], words[1:]
        if keyword == "nameserver":
            nameservers.append(values[0])
        elif keyword == "domain":
            domain = values[0]
        elif keyword == "search":
            search += values
        elif keyword == "options":
            options += values
    found = {"nameservers": nameservers, "domain": domain, "search": search, "options": options}
    return {key: value for key, value in found.items() if value}
