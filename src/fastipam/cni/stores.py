"""The stores that this process's requests name, each opened once and kept open.

A plugin process serves one request; an agent or an embedding program serves many, and a store that
was removed, or replaced under the same path, must not be served from the old file.
"""

from __future__ import annotations

import os
from _thread import allocate_lock

from fastipam.store import Store, close_shared, open_shared

_lock = allocate_lock()
_open: dict[str, Store] = {}
_process = os.getpid()


def get(data_dir: str, durability: str | None, *, create: bool = True) -> Store:
    """The store of a data directory. FileNotFoundError when there is none and ``create`` is false.

    Raises StoreError; ConfigError when another durability is asked for than the store has.
    """
    global _process
    path = os.path.abspath(data_dir)
    with _lock:
        if _process != os.getpid():
            _open.clear()
            _process = os.getpid()
        store = _open.get(path)
        if store is not None:
            if store.is_current():
                if durability in (None, store.durability):
                    return store
            else:
                del _open[path]
                close_shared(store)
        store = open_shared(path, durability, create=create)
        _open[path] = store
        return store


def close_all() -> None:
    """Close every store that ``get`` opened."""
    with _lock:
        while _open:
            _, store = _open.popitem()
            close_shared(store)
