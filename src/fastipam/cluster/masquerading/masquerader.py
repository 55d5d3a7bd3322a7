"""The thread that keeps the masquerading rules equal to those that the pools need.

The rules stay when the agent stops, because pods go on running. A step that fails is retried, and
no pod waits for a step.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from fastipam.cluster.masquerading import nft, ruleset
from fastipam.cluster.masquerading.nft import NftFails
from fastipam.errors import FastipamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastipam.cluster.masquerading.ruleset import Prefix

log = logging.getLogger("fastipam.masquerading")

COMPARE_S = 600.0  # between two comparisons with what the kernel has
_LOOK_S = 1.0  # the longest sleep: changed pools are noticed after this time without a wake
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.5, 30.0  # the pause doubles with each failure
_END_S = 2.0  # how long a stop waits for the step that is under way


class Status(NamedTuple):
    """Whether the rules are set; if not, why: one word for programs, a text for people.

    ``prefixes`` is how many CIDRs are not masqueraded, ``changes`` how often the rules were
    replaced.
    """

    is_set: bool
    reason: str
    message: str
    prefixes: int
    changes: int


class Masquerader:
    """The keeper of the rules for the pools of the networks that :meth:`use` adds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pools: dict[object, Callable[[], Iterable[Prefix]]] = {}
        self._wake = threading.Event()
        self._is_over = False
        self._wanted: dict[int, str] = {}
        self._set: dict[int, str] = {}  # the tables as nft prints them after they were set
        self._compare_at = 0.0
        self._failures = 0
        self.status = Status(False, "NoPools", "no pool is known yet", 0, 0)
        self._thread = threading.Thread(target=self._run, name="masquerading", daemon=True)

    def use(self, network: object, pools: Callable[[], Iterable[Prefix]]) -> None:
        """Do not masquerade packets to the pools of this network. For any thread."""
        self._pools = {**self._pools, network: pools}
        self.wake()

    def wake(self) -> None:
        """Check soon whether the pools have changed. For any thread; never waits."""
        self._wake.set()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. The rules stay."""
        self._is_over = True
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(_END_S)

    def _run(self) -> None:
        while not self._is_over:
            self._wake.clear()
            self.step()
            self._wake.wait(_LOOK_S)

    def step(self) -> None:
        """Do what is due. Raises nothing."""
        try:
            prefixes = {each for pools in self._pools.values() for each in pools()}
            now = self._clock()
            if not prefixes and not self._wanted:
                return  # no pool is known yet: the rules of an earlier run stay
            cidrs = {one: ruleset.spared(one, prefixes) for one in ruleset.FAMILIES}
            wanted = {
                family: ruleset.table(family, listed) if listed else ""
                for family, listed in cidrs.items()
            }
            is_other = wanted != self._wanted
            if is_other or now >= self._compare_at:
                self._bring_about(wanted, sum(map(len, cidrs.values())), is_other=is_other)
        except NftFails as error:
            self._failed(error.reason, str(error))
        except FastipamError as error:
            self._failed("Failed", f"the pools cannot be read: {error}")
        except Exception as error:
            log.exception("internal error in masquerading")
            self._failed("Failed", f"internal error in masquerading: {error!r}")

    def _bring_about(self, wanted: dict[int, str], count: int, *, is_other: bool) -> None:
        """Replace the tables that differ from the wanted ones."""
        if is_other:
            self._set = {}
        self._wanted = wanted
        have = nft.listed()
        changed = {
            family: text
            for family, text in wanted.items()
            if not self._is_set(family, have.get(family, ""), text)
        }
        changes = self.status.changes
        if changed:
            if not is_other and self.status.is_set:
                log.warning(
                    "another program changed the nftables table %s: it is replaced", ruleset.NAME
                )
            nft.replace(changed)
            have = nft.listed()
            changes += 1
            log.info("masquerading rules set excluded_prefixes=%d", count)
        self._set = have
        if self._failures:
            log.info("the masquerading rules are set again")
        self._failures = 0
        self._compare_at = self._clock() + COMPARE_S
        self.status = Status(True, "Set", "", count, changes)

    def _is_set(self, family: int, have: str, wanted: str) -> bool:
        """Return whether a table is as this agent has set it, or, if it set none, as wanted."""
        before = self._set.get(family)
        return have == before or (before is None and ruleset.plain(have) == ruleset.plain(wanted))

    def _failed(self, reason: str, message: str) -> None:
        text = f"the masquerading rules do not match the pools: {message}"
        if self.status.message != text:
            log.error("%s", text)
        pause_s = min(_FIRST_RETRY_S * 2 ** min(self._failures, 10), _LONGEST_RETRY_S)
        self._failures += 1
        self._compare_at = self._clock() + pause_s
        before = self.status
        self.status = Status(False, reason, text, before.prefixes, before.changes)
