"""Import every module that a request can need, before the agent reports that it is ready.

The plugin imports some modules late, because every call is a new process and most calls do not need
them. An agent runs for months, and its package may be upgraded or removed meanwhile: a module that
is imported after that would be missing or of another version.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

import fastipam

if TYPE_CHECKING:
    from collections.abc import Iterable

# Modules that no request needs: those of other commands, the controller of a Kubernetes cluster,
# those for programs with an event loop, and the page, which is imported when the agent sets it up.
_LEFT_OUT = (
    "agent.web", "backup", "cli", "cluster.admin", "cluster.controller", "files", "picture",
    "repair", "tasks", "testing", "verify",
)  # fmt: skip
# The modules that draw the page's picture. An agent without a page saves numpy's 20 MB.
_PAGE = ("fastipam.picture.cells", "fastipam.picture.colours")
# Modules that functions of Python's library or of a package import only when they are called.
_OTHERS = (
    "encodings.ascii", "encodings.idna",  # the name of a host: socket.getaddrinfo
    "json.decoder",  # the error about an invalid document
    "linecache", "traceback",  # the log of an error
    "lmdb._envid",  # when a store is opened
)  # fmt: skip


def import_all(*, page: bool) -> None:
    """Import every module that a request can need; with ``page``, also those that the page needs.

    A second call does nothing.
    """
    _import_below(fastipam.__path__, "")
    for name in (*_OTHERS, *(_PAGE if page else ())):
        with suppress(ImportError):  # another version of Python or lmdb may not have it
            import_module(name)


def _import_below(path: Iterable[str], prefix: str) -> None:
    for module in iter_modules(path, prefix):
        if module.name in _LEFT_OUT:
            continue
        found = import_module(f"fastipam.{module.name}")
        if module.ispkg:
            _import_below(found.__path__, f"{module.name}.")
