"""The environment in which the tests run: nothing in it that the caller has set for something else.

What stays is what programs need to be found and to start (``PATH``, ``HOME``), and what those set
who run the tests in another way: coverage, sanitizers, mutation testing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_PREFIXES = ("FASTIPAM_", "CNI_", "ETCD_", "LC_", "XDG_")
_NAMES = frozenset(
    (
        *("LANG", "LANGUAGE", "TZ", "TERM", "COLUMNS", "LINES", "SHELL", "USER", "LOGNAME"),
        *("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"),
        *("PYTHONUNBUFFERED", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONWARNINGS"),
        *("PYTHONDONTWRITEBYTECODE", "PYTHONSAFEPATH", "PYTHONNOUSERSITE", "PYTHONHASHSEED"),
    )
)


def clean(environ: MutableMapping[str, str]) -> None:
    """Remove what would change what the tested programs do."""
    for name in list(environ):
        if name in _NAMES or name.startswith(_PREFIXES):
            del environ[name]
