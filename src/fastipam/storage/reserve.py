"""Disk space for a release in a full store."""

from __future__ import annotations

from fastipam.storage import directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.storage.store import Store


class Reserve:
    """A block in which the store may use the space that it keeps for releases.

    LMDB writes new pages before it frees the old ones, so a release in a full store may find no
    page, however many leases it would remove. The block frees the disk space that is kept in the
    file ``turn.lock``, and enlarges the memory map by as much. Afterwards it takes both back; the
    pages that the release has freed stay free in the data file. Inside a transaction the block does
    nothing, because that transaction has failed as a whole. Raises StoreBusy when another thread
    goes on reading in the smaller map.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._map_size = 0
        self._is_whole = getattr(store.local, "transaction", None) is None

    def __enter__(self) -> None:
        if not self._is_whole:
            return
        try:
            directory.give_room(self._store.path)
        except OSError:
            return  # there is no file, and so no kept space
        try:
            self._map_size = self._store.widen(directory.ROOM_BYTES)
        except BaseException:
            self._close()
            raise

    def __exit__(self, *_: object) -> None:
        if not self._is_whole:
            return
        try:
            if self._map_size:
                self._store.resize(self._map_size)
        finally:
            self._close()

    def _close(self) -> None:
        try:  # noqa: SIM105  # contextlib costs the plugin a tenth of its start
            directory.keep_room(self._store.path)
        except OSError:
            pass  # the file is gone: the next process that opens the store makes it
