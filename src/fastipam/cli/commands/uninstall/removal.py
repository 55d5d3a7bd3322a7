"""Remove fastipam from a node, with one function for each part.

Each function removes files of fastipam, and returns the result for each path. A missing file is not
an error, so an interrupted removal can be run again.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastipam.agent import listening
from fastipam.cli.commands.install import targets
from fastipam.cli.commands.install.targets import DIRECT
from fastipam.cni import configs, conflists
from fastipam.errors import ConfigError, FastipamError
from fastipam.ipam import open_with
from fastipam.storage.directory import DATA_FILE, LOCK_FILE, MAKER_LOCK_FILE, NEW_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

REMOVED = "removed"
ABSENT = "absent"
KEPT = "kept"
FAILED = "failed"
_STORE_FILES = (DATA_FILE, LOCK_FILE, MAKER_LOCK_FILE, NEW_FILE, "cluster.lock")


class Outcome(NamedTuple):
    """The result for a path: REMOVED, ABSENT, KEPT or FAILED; the last two have a reason."""

    what: str
    path: str
    became: str
    reason: str = ""


class Removal:
    """Removes the parts of fastipam, or with ``dry_run`` only reports what it would remove."""

    def __init__(self, *, dry_run: bool) -> None:
        self._dry_run = dry_run

    def conflist(self, path: Path) -> Iterator[Outcome]:
        """Remove the configuration, if it is fastipam's, and temporary files of killed agents.

        Other configurations of fastipam in its directory stay, because no agent has written them.
        """
        what = "network configuration"
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                yield Outcome(
                    what, str(path), KEPT, "this is not a regular file, and no agent wrote it"
                )
            elif not conflists.is_ours(path):
                yield Outcome(
                    what, str(path), KEPT, "the file has no ipam section of type fastipam"
                )
            else:
                yield self._unlink(what, path)
        except FileNotFoundError:
            yield Outcome(what, str(path), ABSENT)
        except OSError as error:
            yield Outcome(what, str(path), FAILED, error.strerror or str(error))
        for left in sorted(path.parent.glob(f".{path.name}.{'[0-9a-f]' * 12}")):
            yield self._unlink(what, left)
        with suppress(OSError):
            for other in configs.files(path.parent):
                if other != path and conflists.is_ours(other):
                    reason = (
                        "the file has the ipam type fastipam, but no agent wrote it: no pod can "
                        "start while the file is there and the plugin is not installed; delete it"
                    )
                    yield Outcome(what, str(other), KEPT, reason)

    def plugin(self, bin_dir: Path, name: str) -> Iterator[Outcome]:
        """Remove the file ``name`` if it is a launcher, then the Python entry point and its bundle.

        Entry point and bundle stay if the file is not a launcher, or if another launcher in the
        directory needs them.
        """
        what, path = "plugin", bin_dir / name
        try:
            is_launcher = targets.is_launcher(path)
        except FileNotFoundError:
            yield Outcome(what, str(path), ABSENT)
        except OSError as error:
            yield Outcome(what, str(path), FAILED, error.strerror or str(error))
            return
        else:
            if not is_launcher:
                yield Outcome(what, str(path), KEPT, "the file is not fastipam's launcher")
                return
            yield self._unlink(what, path)
        needed_by = next(iter(targets.launchers(bin_dir, without=path)), None)
        for one in sorted({bin_dir / DIRECT, *bin_dir.glob(f"{DIRECT}.*")}):
            if needed_by is not None and one.exists():
                yield Outcome(what, str(one), KEPT, f"the launcher {needed_by} needs this file")
            elif one.exists():
                yield self._unlink(what, one)

    def routes(self) -> Iterator[Outcome]:
        """Remove the routes that an agent has set in this network namespace."""
        from fastipam.cluster.routing import kernel

        what = "routes"
        try:
            if self._dry_run:
                with kernel.Kernel() as one:
                    count = len(one.installed())
            else:
                count = kernel.remove_all()
        except OSError as error:
            yield Outcome(what, _PROTOCOL, FAILED, error.strerror or str(error))
            return
        shown = f"{count} of {_PROTOCOL}"
        yield Outcome(what, shown, REMOVED) if count else Outcome(what, _PROTOCOL, ABSENT)

    def masquerading(self) -> Iterator[Outcome]:
        """Remove the tables of nftables that an agent has set in this network namespace.

        Without the program nft there are none: an agent needs it to set them.
        """
        from fastipam.cluster.masquerading import nft, ruleset

        what = "masquerading"
        names = ", ".join(f"table {word} {ruleset.NAME}" for word in ruleset.FAMILIES.values())
        try:
            there = nft.tables() if nft.is_installed() else []
            if there and not self._dry_run:
                nft.replace(dict.fromkeys(there, ""))
        except nft.NftFails as error:
            if error.reason == nft.NOT_PERMITTED:
                reason = "the tables cannot be listed without the capability NET_ADMIN"
                yield Outcome(what, names, KEPT, reason)
            else:
                yield Outcome(what, names, FAILED, str(error))
            return
        shown = ", ".join(f"table {ruleset.FAMILIES[one]} {ruleset.NAME}" for one in there)
        yield Outcome(what, shown, REMOVED) if there else Outcome(what, names, ABSENT)

    def socket(self, path: Path) -> Iterator[Outcome]:
        """Remove the socket and its lock file, unless a process serves the socket."""
        what = "socket"
        if not path.parent.is_dir():
            yield Outcome(what, str(path), ABSENT)
            return
        if self._dry_run:
            if listening.is_served(path):
                yield Outcome(what, str(path), KEPT, "an agent serves the socket")
            else:
                yield Outcome(what, str(path), REMOVED if path.is_socket() else ABSENT)
            return
        try:
            with listening.only_agent(path):
                there = path.exists()
                listening.remove_stale(path)
                os.unlink(f"{path}.lock")
        except ConfigError as error:
            yield Outcome(what, str(path), KEPT, error.message)
        except OSError as error:
            yield Outcome(what, str(path), FAILED, error.strerror or str(error))
        else:
            yield Outcome(what, str(path), REMOVED if there else ABSENT)
            with suppress(OSError):  # the directory is not empty
                path.parent.rmdir()

    def store(self, directory: Path) -> Iterator[Outcome]:
        """Remove the files of a store, and its directory if nothing else is in it."""
        what = "store"
        there = [directory / one for one in _STORE_FILES if os.path.lexists(directory / one)]
        for one in there:
            yield self._unlink(what, one)
        if not there:
            yield Outcome(what, str(directory), ABSENT)
        elif not self._dry_run:
            try:
                directory.rmdir()
            except OSError as error:
                yield Outcome(what, str(directory), KEPT, error.strerror or str(error))

    def _unlink(self, what: str, path: Path) -> Outcome:
        try:
            if not self._dry_run:
                path.unlink(missing_ok=True)
        except OSError as error:
            return Outcome(what, str(path), FAILED, error.strerror or str(error))
        return Outcome(what, str(path), REMOVED)


_PROTOCOL = "protocol 147"


def holders(data_dir: str) -> tuple[int, str]:
    """Return how many containers have addresses, and "" or why that is not known."""
    try:
        with open_with(data_dir, create=False, count_boot=False) as ipam:
            owners = {
                (name, lease.container_id)
                for name in ipam.networks()
                for lease in ipam.network(name).leases()
            }
    except FileNotFoundError:
        return 0, ""
    except (FastipamError, OSError) as error:
        return 0, getattr(error, "message", "") or getattr(error, "strerror", "") or str(error)
    return len(owners), ""
