"""Write the network configuration of the runtime, once this node has a block of every family.

Until then the kubelet reports NetworkReady=false, so no pod is scheduled to a node that could not
give it an address. The agent never removes the file, because it cannot tell an upgrade from an
uninstallation, and the node keeps its network during an upgrade. `fastipam uninstall` removes it.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from typing import TYPE_CHECKING, NamedTuple

from fastipam import files, rtnetlink
from fastipam.addressing.addresses import parse_ip
from fastipam.cni import configs, conflist_rules, conflists, more_blocks
from fastipam.cni.conflists import FAILED, REMOVED, WAITING, WRITTEN, Standing
from fastipam.errors import ConfigError, FastipamError
from fastipam.storage.records.block import ACTIVE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fastipam.cluster.keeper.keeper import Keeper

log = logging.getLogger("fastipam.conflist")

_WAIT_S = 0.5  # between two checks of the blocks, until the node has them
_AGAIN_S = 5.0  # before a retry after a failure
_LOOK_S = 10.0  # between two checks of template, file and directory


class Request(NamedTuple):
    """Which template to write to which file. Without ``mtu`` pods get the node interface's MTU."""

    template: str
    target: Path
    mtu: int | None = None


class Writer:
    """Writes one network configuration in a thread of its own. :meth:`step` does what is due.

    ``keeper`` returns the keeper of the template's network, or None before there is one.
    ``written`` is called once, when the file first has the right content. A file that is removed
    while this process runs is not written again until the template changes: an operator has taken
    the node out of use.
    """

    def __init__(
        self,
        request: Request,
        network: str,
        keeper: Callable[[], Keeper | None],
        written: Callable[[], object] = lambda: None,
    ) -> None:
        self.request = request
        self.target = request.target
        self._state, self._reason = WAITING, ""
        self._before: tuple[str, ...] = ()
        self._failures = 0
        self._network = network
        self._keeper = keeper
        self._written = written
        self._done: bytes | None = None  # the right content, once the file has had it
        self._mtu_told = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="conflist", daemon=True)

    @property
    def standing(self) -> Standing:
        """The state of the file now."""
        return Standing(self._state, self._reason, self._before, self._failures)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. The file stays."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stopping.wait(self.step()):
            pass

    def step(self) -> float:
        """Do the work that is due and return the seconds until the next step. Raises nothing."""
        try:
            keeper = self._keeper()
            families = set() if keeper is None else _families(keeper)
            reason = _lacking(keeper, families)
            if reason and self._done is None:
                self._set(WAITING, f"is not written yet: {reason}")
                return _WAIT_S
            if keeper is not None and not reason:
                self._update(self._content(keeper, families))
            self._look_around()
        except ConfigError as error:
            field = f"{error.field}: " if error.field else ""
            return self._failed(f"{field}{error.message}")
        except FastipamError as error:
            return self._failed(error.message)
        except OSError as error:
            return self._failed(f"the file cannot be written: {error.strerror or error}")
        except Exception:
            log.exception("conflist=%s internal error while the file was written", self.target)
            return self._failed("internal error while the file was written")
        return _LOOK_S

    def _content(self, keeper: Keeper, families: set[int]) -> bytes:
        """Return the content that the file needs on this node. Raises ConfigError."""
        path = self.request.template
        network = more_blocks.read_any(path)[1]
        if network != self._network:
            raise ConfigError(
                f"the template now names network {network}, but this agent writes the "
                f"configuration of network {self._network}: restart the agent",
                field=f"{path}: name",
                value=network,
            )
        return conflist_rules.completed(path, families, self.request.mtu or self._link_mtu(keeper))

    def _link_mtu(self, keeper: Keeper) -> int | None:
        """Return the MTU of the interface that has the node's address.

        Log a warning once, and return None, when no interface has it.
        """
        addresses = keeper.registry.addresses()
        found = next((mtu for one in addresses if (mtu := rtnetlink.mtu(*parse_ip(one)))), None)
        if found is None and not self._mtu_told:
            why = "no address of this node is known"
            if addresses:
                why = f"no interface has the node's address {', '.join(addresses)}"
            log.warning("conflist=%s no MTU: %s; set an MTU with --mtu", self.target, why)
        self._mtu_told = found is None
        return found

    def _update(self, content: bytes) -> None:
        """Write ``content`` to the file, unless an operator has removed it. Raises OSError."""
        there = _read(self.target)
        if there is None and content == self._done:
            self._set(
                REMOVED,
                "was removed; it is written again when the agent restarts or its template changes",
            )
            return
        if there != content:
            self._write(content)
            self._set(WRITTEN, "written" if there is None else "replaced: its template has changed")
        else:
            if stat.S_IMODE(os.lstat(self.target).st_mode) != _MODE:
                os.chmod(self.target, _MODE)
            self._set(WRITTEN, "is up to date" if self._done is None else "")
        if self._done is None:
            self._written()
        self._done = content

    def _write(self, content: bytes) -> None:
        for left in self.target.parent.glob(f".{self.target.name}.{'[0-9a-f]' * 12}"):
            left.unlink(missing_ok=True)  # the temporary file of an agent that was killed
        with files.replacing(self.target, _MODE) as descriptor:
            os.fchmod(descriptor, _MODE)
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(content)

    def _look_around(self) -> None:
        """Find the configurations that a runtime reads before this one. Raises OSError."""
        before = tuple(one.name for one in conflists.sorted_before(self.target))
        if before and before != self._before:
            log.warning(
                "conflist=%s is not the runtime's default network: %s sorts before it in %s",
                self.target,
                ", ".join(before),
                self.target.parent,
            )
        self._before = before

    def _failed(self, reason: str) -> float:
        self._failures += 1
        self._set(FAILED, reason)
        return _AGAIN_S

    def _set(self, state: str, reason: str) -> None:
        """Set the state, and log it if it is new."""
        if reason and (state, reason) != (self._state, self._reason):
            level = logging.WARNING if state in (FAILED, REMOVED) else logging.INFO
            log.log(level, "conflist=%s %s", self.target, reason)
        self._state, self._reason = state, reason


_MODE = 0o644


def check(request: Request) -> None:
    """Raise ConfigError when the template or the target cannot be used.

    Faults that an operator can correct while the agent runs are not checked: a directory that is
    missing or read-only, and missing blocks of this node.
    """
    target = request.target
    if not configs.is_read(target):
        raise ConfigError(
            f"container runtimes do not read a file named {target.name}, only names that end in "
            f"{', '.join(configs.ENDINGS)}",
            field="--write-conflist",
            value=str(target),
            hint="type a name such as /etc/cni/net.d/10-fastipam.conflist",
        )
    if os.path.realpath(request.template) == os.path.realpath(target):
        raise ConfigError(
            f"{target} is the template itself: it would be overwritten",
            field="--write-conflist",
            value=str(target),
            hint="type --cluster with a file in another directory",
        )
    try:
        if target.parent.is_dir():
            _read(target)
    except OSError as error:
        raise ConfigError(
            f"{target} cannot be written: {error.strerror}",
            field="--write-conflist",
            value=str(target),
            hint=f"type `ls -ld {target}`",
        ) from None
    conflist_rules.require_list(request.template, "--cluster")
    conflist_rules.completed(request.template, (), request.mtu)


def _families(keeper: Keeper) -> set[int]:
    """Return the address families of the pools: 4, 6 or both."""
    settings = keeper.settings
    if settings.is_founded_by_agent:
        return {one.family for one in settings.pools if not one.is_closed}
    return {one.family for one in settings.pool.sets}


def _lacking(keeper: Keeper | None, families: set[int]) -> str:
    """Return why no pod can get an address yet, or "". Raises StoreError."""
    if keeper is None:
        return "the agent has not opened the store"
    reason = keeper.status.reason
    if not families:
        return reason or "no AddressPool is accepted"
    share = keeper.share
    doubt = share.doubt()
    if doubt:
        return reason or doubt
    # A pod that chooses no pool gets addresses of these families only.
    needed = families & {family for family, _ in share.settings.lines}
    missing = needed - {one.family for one in share.blocks() if one.state == ACTIVE}
    if missing:
        which = " and ".join(f"IPv{one}" for one in sorted(missing))
        return f"this node has no {which} block" + (f": {reason}" if reason else "")
    return ""


def _read(path: Path) -> bytes | None:
    """Return the content of the file, or None when there is no file.

    Raises OSError, also when the path is a symbolic link or a directory: these are not replaced.
    """
    try:
        kind = stat.S_IFMT(os.lstat(path).st_mode)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise OSError(0, f"{path.parent} does not exist") from None
        return None
    if kind != stat.S_IFREG:
        what = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a directory"}.get(
            kind, "a special file"
        )
        raise OSError(0, f"{what} of this name exists and is not replaced: remove it")
    return path.read_bytes()
