"""The stores for which this process uses a test's clock and boot, whichever code opens them."""

from __future__ import annotations

import os
import uuid

from fastipam.storage import open_stores
from fastipam.storage.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from fastipam.testing.clock import Clock


class Place:
    """A data directory with a clock and a boot of its own."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        # The boot id is in a file beside the directory, where other processes find it. Without the
        # file the boot is the machine's.
        self._boot = path.with_name(f"{path.name}.boot")

    def reboot(self) -> None:
        """Write a new boot id, which the next opening of the store reads."""
        self._boot.write_text(uuid.uuid4().hex)

    def options(self) -> dict[str, Any]:
        """Return the options with which to open a :class:`Store` of this directory."""
        options: dict[str, Any] = {"clock": self.clock.tick}
        if self._boot.exists():
            options["boot_id"] = self._boot.read_text
        return options


_places: dict[str, Place] = {}  # by real path


def _open(path: str | os.PathLike[str], durability: str | None = None, **options: Any) -> Store:
    place = _places.get(os.path.realpath(path))
    return Store(path, durability, **(options if place is None else place.options() | options))


def register(place: Place) -> None:
    """Open this store with the test's clock and boot from now on."""
    _places[os.path.realpath(place.path)] = place
    vars(open_stores)["Store"] = _open


def unregister(place: Place) -> None:
    """Open this store with the machine's clock and boot from now on."""
    del _places[os.path.realpath(place.path)]
    if not _places:
        vars(open_stores)["Store"] = Store
