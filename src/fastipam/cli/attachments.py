"""Read a list of the containers that exist, for ``fastipam gc``."""

from __future__ import annotations

import os
import stat
import sys
import time
from io import UnsupportedOperation
from typing import IO, Any, NamedTuple

from fastipam.cli.click_base import Failure
from fastipam.configuration.reader import is_id
from fastipam.errors import ConfigError

_KEY = "cni.dev/valid-attachments"
STANDARD_INPUT = "-"


class Listed(NamedTuple):
    """The content of a list, and the latest time at which it can have been made.

    ``valid`` has (container id, interface) pairs; an empty interface means every interface of the
    container. ``made_ns`` is wall clock time.
    """

    valid: set[tuple[str, str]]
    made_ns: int

    @property
    def containers(self) -> set[str]:
        """The ids of the containers."""
        return {container_id for container_id, _ in self.valid}


def read(path: str, now_ns: int | None = None) -> Listed:
    """Read a list from a file, or from standard input when the path is "-".

    ``now_ns`` is the time when the command was started, by default now. A list in a file counts as
    made at the file's last change, also if the file is standard input; a list from a pipe counts
    as made at ``now_ns``. Raises Failure, ConfigError, OSError.
    """
    now_ns = time.time_ns() if now_ns is None else now_ns
    if path != STANDARD_INPUT:
        with open(path, "rb") as file:
            content, changed_ns = file.read(), _changed_ns(file)
    else:
        try:
            content, changed_ns = sys.stdin.buffer.read(), _changed_ns(sys.stdin)
        except OSError as error:
            raise Failure(
                f"standard input cannot be read: {error.strerror or error}",
                "pipe one into it: crictl pods -q | fastipam gc --network NAME -",
            ) from error
    text = content.decode("utf-8", "surrogateescape")
    return Listed(_parse(text, name_of(path)), min(now_ns, changed_ns or now_ns))


def name_of(path: str) -> str:
    """Return the name of the list for an error."""
    return "standard input" if path == STANDARD_INPUT else path


def _changed_ns(file: IO[Any]) -> int:
    """Return the time of an open file's last change, or 0 if it is not a regular file."""
    try:
        status = os.fstat(file.fileno())
    except UnsupportedOperation:  # standard input is an object in memory
        return 0
    return status.st_mtime_ns if stat.S_ISREG(status.st_mode) else 0


def _parse(text: str, name: str) -> set[tuple[str, str]]:
    """Return (container id, interface) pairs; an empty interface means every interface."""
    if text.lstrip()[:1] in ("[", "{"):
        return _parse_json(text, name)
    valid = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        # Refuse a line that no runtime would write: if it were skipped, leases would be released.
        if len(words) > 2 or not is_id(words[0]):
            raise ConfigError(
                f"{line.strip()!r} is not a container id and an interface",
                field=f"{name}, line {number}",
                value=line,
            )
        valid.add((words[0], words[1] if len(words) == 2 else ""))
    return valid


def _parse_json(text: str, name: str) -> set[tuple[str, str]]:
    import json

    from fastipam.configuration.attachments import valid_attachments
    from fastipam.configuration.reader import fold

    try:
        document: Any = json.loads(text, object_pairs_hook=fold)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"the list is not valid JSON: {error}", field=name, value=text[:32]
        ) from error
    return valid_attachments({_KEY: document} if isinstance(document, list) else document)
