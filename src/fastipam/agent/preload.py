"""Import all that a request can need, before the agent says that it is ready.

The plugin imports late what most calls do not need, because every call of it is a new process. An
agent runs for months, and its package may be upgraded or removed meanwhile: a module that it
imported then would be another version's, or missing.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

import fastipam

if TYPE_CHECKING:
    from collections.abc import Iterable

# What only other commands use, or programs with an event loop, or only the page: making that has
# imported it.
_LEFT_OUT = (
    "agent.web", "backup", "cli", "cluster.admin", "files", "picture", "repair", "tasks",
    "testing", "verify",
)  # fmt: skip
# What the page draws pictures with; numpy takes 20 MB, which an agent without a page does not need.
_PAGE = ("fastipam.picture.cells", "fastipam.picture.colours")
# Modules of Python that are imported by a function of Python, or of a package, when it is called.
_OTHERS = (
    "encodings.ascii", "encodings.idna",  # the name of a host: socket.getaddrinfo
    "json.decoder",  # what is wrong with a document
    "linecache", "traceback",  # the log of an error
    "lmdb._envid",  # when a store is opened
)  # fmt: skip


def import_all(*, page: bool) -> None:
    """Import every module that a request can need, with or without one for the page.

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
