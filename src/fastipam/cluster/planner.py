"""A node's decisions about its blocks: which to claim, how many, when to give back.

No function does I/O or reads a clock. The 2**n blocks of a pool are numbered; a *run* is 2**k
blocks with consecutive numbers that begins at a multiple of 2**k, so that one route leads to it.
Each function depends only on its arguments, so a node and a simulator of ten thousand nodes decide
alike. Random choices are hashes of names, and so repeatable.
"""

from __future__ import annotations

from math import log2

try:
    from _blake2 import blake2b
except ImportError:  # pragma: no cover  # an interpreter without this C module
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from fastipam.configuration.cluster import Geometry, Watermarks

# Windows (of up to 256 blocks) that a search reads before it reads the whole pool: unless the pool
# is nearly full, each window has a free block.
WINDOWS = 4
# Tries of one search before it gives up. The pool is read again after each.
TRIES = 12
# How often a node checks its blocks and the shared store; the simulator uses the same times.
TICK_S = 0.1  # between two checks of demand while addresses are assigned
COLLECT_S = 0.05  # between two checks for granted blocks, while a mark exists
LOOK_AGAIN_S = 0.5  # between two searches of a used up pool, where a block may become free
SPREAD_S = 1.0  # donors answer a mark within this time
TIDY_S = 5.0  # between two checks for blocks to give back
_LONGEST_POSTPONED_S = 5.0  # the longest wait when the shared store asks for a pause


def digest(*words: str) -> int:
    """Return 64 bits that look random and are the same for the same words."""
    return int.from_bytes(blake2b("\0".join(words).encode(), digest_size=8).digest(), "big")


def place(node: str, pool: Geometry) -> int:
    """Return the block at which a node begins its search. O(1).

    It is a hash of the node's name, so nodes that start together rarely try the same block.
    """
    return digest("place", node, f"{pool.family} {pool.base}") % pool.count


# How many blocks -----------------------------------------------------------------------------


class Use:
    """The use of one block that a node owns.

    ``size`` counts the addresses that the block can serve, ``used`` those of them that are
    assigned, cooling or reserved. ``claimed_s`` is when the block was claimed, on any clock.
    """

    __slots__ = ("claimed_s", "number", "size", "used")

    def __init__(self, number: int, size: int, used: int, claimed_s: float) -> None:
        self.number = number
        self.size = size
        self.used = used
        self.claimed_s = claimed_s


class Demand:
    """A node's demand for addresses of one family.

    ``free`` counts the free addresses of all owned blocks, ``missing`` the ADDs that wait for an
    address. The last claim was of ``last_run`` blocks, ``since_last_s`` seconds ago. ``scarce``:
    other nodes have found the pool used up.
    """

    __slots__ = ("free", "last_run", "missing", "scarce", "since_last_s")

    def __init__(
        self,
        free: int,
        *,
        missing: int = 0,
        last_run: int = 0,
        since_last_s: float = 0.0,
        scarce: bool = False,
    ) -> None:
        self.free = free
        self.missing = missing
        self.last_run = last_run
        self.since_last_s = since_last_s
        self.scarce = scarce


def to_claim(watermarks: Watermarks, pool: Geometry, demand: Demand) -> int:
    """Return how many blocks to claim now: 0, or a power of two. O(1).

    While demand grows, each claim is for twice as many blocks as the last one. A claim is large
    enough for all ADDs that wait. When blocks are scarce, none is claimed ahead of demand.
    """
    free, missing = demand.free, demand.missing
    if demand.scarce:
        return 1 if missing > free else 0
    if missing <= free and free >= watermarks.low_water * pool.size:
        return 0
    run = 1
    if demand.last_run and demand.since_last_s <= watermarks.ramp_s:
        run = 2 * demand.last_run
    needed = max(0, missing - free)
    while run * pool.size < needed:
        run *= 2
    return max(1, min(run, watermarks.largest_run, 1 << (pool.count.bit_length() - 1)))


def to_give_back(
    watermarks: Watermarks, pool: Geometry, uses: Iterable[Use], now_s: float
) -> list[int]:
    """Return the blocks to give back now, in the order of their release. O(blocks log blocks).

    They are wholly free and have the minimum age. The node gives back blocks only while it has more
    free addresses than the high water mark, and more wholly free blocks than it keeps warm. The
    block that was claimed last comes first, because older blocks form longer runs. Blocks without
    an address to serve come before all others: their pool is disabled.
    """
    listed = list(uses)
    given = [each.number for each in listed if not each.size]
    listed = [each for each in listed if each.size]
    free = sum(each.size - each.used for each in listed)
    empty = [each for each in listed if not each.used]
    spare = len(empty) - watermarks.warm
    old = [each for each in empty if now_s - each.claimed_s >= watermarks.minimum_age_s]
    old.sort(key=lambda each: (each.claimed_s, each.number), reverse=True)
    for each in old:
        if spare <= 0 or free <= watermarks.high_water * pool.size:
            break
        given.append(each.number)
        spare -= 1
        free -= each.size
    return given


def to_donate(uses: Iterable[Use], wanted: int) -> list[int]:
    """Return the blocks to donate to a node that wants ``wanted`` blocks. O(blocks log blocks).

    A node donates at most half of its wholly free blocks, rounded up, so that the last free block
    of a cluster can move too. Their age and the water marks do not count, because a pod waits. A
    block without an address to serve is not donated, because it would not help that pod.
    """
    empty = [each for each in uses if each.size and not each.used]
    empty.sort(key=lambda each: (each.claimed_s, each.number), reverse=True)
    return [each.number for each in empty[: min(wanted, (len(empty) + 1) // 2)]]


def donor_delay_s(donor: str, needy: str, mark: int, spread_s: float) -> float:
    """Return how long a donor waits before it answers a mark, so that few donors answer. O(1).

    These are the exponential timers of multicast protocols: the number of donors that are due
    doubles every sixteenth of ``spread_s``. However many donors there are, some are due within
    ``spread_s``, and few within one round trip of the first, whose answer deletes the mark.
    """
    share = (digest("donor", donor, needy, str(mark)) + 1) / (1 << 64)
    return spread_s * max(0.0, 1.0 + log2(share) / 16)


def backoff_s(node: str, failures: int, *, first_s: float = 0.1, most_s: float = 10.0) -> float:
    """Return the pause after the ``failures``-th failure of the shared store in a row. O(1).

    The pause doubles each time. A hash of the node's name shortens it by up to half, so that the
    nodes do not retry at the same moment.
    """
    whole = min(most_s, first_s * float(1 << min(failures, 20)))
    return whole * (0.5 + 0.5 * (digest("backoff", node, str(failures)) / (1 << 64)))


def postponed_s(node: str, failures: int, later_s: float) -> float:
    """Return how long a node waits when the shared store asks for a pause. O(1).

    The node waits for that pause, but at most 5 s; a hash of its name shortens the wait by up to
    half. An API server asks for up to 32 s when all nodes start at once, but it can serve again
    long before that. The last of 5,000 nodes had its block after 148 s when nodes waited for the
    whole pause, and after 65 s with this function (docs/performance.md).
    """
    most_s = min(later_s, _LONGEST_POSTPONED_S)
    return most_s * (0.5 + 0.5 * (digest("postponed", node, str(failures)) / (1 << 64)))


# Which blocks --------------------------------------------------------------------------------


class Try:
    """A step of a search: try to claim these blocks together."""

    __slots__ = ("blocks",)

    def __init__(self, blocks: range) -> None:
        self.blocks = blocks

    def __repr__(self) -> str:
        return f"Try({self.blocks})"


class Look:
    """A step of a search: read which of these blocks are taken."""

    __slots__ = ("blocks",)

    def __init__(self, blocks: range) -> None:
        self.blocks = blocks

    def __repr__(self) -> str:
        return f"Look({self.blocks})"


class Search:
    """The search for blocks to claim, step by step: what to ask the shared store next.

    ``step`` is a :class:`Try`, a :class:`Look`, or None when the search is over. The caller does
    the step and reports its result: that of a try with :meth:`claimed` or :meth:`conflict`, that of
    a look with :meth:`looked`. ``exhausted``: the last look at the whole pool found no free block.

        >>> search = Search(Geometry(4, 0, 8, 16), "n1", (), 1)
        >>> search.step
        Try(range(0, 1))
        >>> search.conflict([search.step.blocks.start]); search.step
        Look(range(0, 16))
    """

    __slots__ = ("_looks", "_node", "_pool", "_run", "_tries", "exhausted", "step")

    def __init__(self, pool: Geometry, node: str, owned: Collection[int], run: int) -> None:
        self._pool = pool
        self._node = node
        self._run = 1 << (run.bit_length() - 1)
        self._looks = 0
        self._tries = 0
        self.exhausted = False
        self.step: Try | Look | None = None
        blind = self._beside(owned) if owned else self._at_home()
        self._try(blind)

    def _at_home(self) -> range:
        """Return the run that holds the node's :func:`place`."""
        first = place(self._node, self._pool) & -self._run
        return range(first, min(first + self._run, self._pool.count))

    def _beside(self, owned: Collection[int]) -> range | None:
        """Return a run that forms, with owned blocks, a run of twice its size; or None."""
        run = self._run
        for each in sorted(owned, reverse=True):
            first = (each & -run) ^ run
            beside = range(first, first + run)
            if beside.stop <= self._pool.count and not any(one in owned for one in beside):
                whole = first & ~run
                if all(one in owned or one in beside for one in range(whole, whole + 2 * run)):
                    return beside
        return None

    def _try(self, blocks: range | None) -> None:
        if blocks is None or any(one in self._pool.unusable for one in blocks):
            self._look()
        elif self._tries >= TRIES:
            self.step = None
        else:
            self._tries += 1
            self.step = Try(blocks)

    def _look(self) -> None:
        """Set the step to a look at the next window, or finally at the whole pool.

        The first window is the one that holds the node's :func:`place`.
        """
        pool = self._pool
        windows = pool.count >> pool.window_bits
        if self._looks < WINDOWS < windows:
            home = place(self._node, pool) >> pool.window_bits
            # The number of windows is a power of two: an odd stride visits each window once.
            stride = digest("stride", self._node) | 1
            window = (home + self._looks * stride) % windows
            self.step = Look(pool.window(window << pool.window_bits))
        else:
            self.step = Look(range(pool.count))
        self._looks += 1

    def claimed(self) -> None:
        """End the search: the blocks of the try are this node's."""
        self.step = None

    def conflict(self, taken: Iterable[int]) -> None:
        """Continue after a try that claimed nothing, because these blocks are taken."""
        assert isinstance(self.step, Try)
        held = frozenset(taken)
        if self._tries == 1 and len(self.step.blocks) > 1:
            self._try_part(self.step.blocks, held)
        else:
            self._look()

    def _try_part(self, blocks: range, taken: Collection[int]) -> None:
        """Try the longest aligned free run of a run that is partly taken."""
        found = longest_run(self._pool, blocks, taken, len(blocks) >> 1, blocks.start)
        self._try(found)

    def looked(self, taken: Collection[int]) -> None:
        """Continue after a look that found these blocks taken. O(blocks of the look)."""
        assert isinstance(self.step, Look)
        seen = self.step.blocks
        start = digest("from", self._node, str(self._looks)) % len(seen) + seen.start
        if seen.start <= place(self._node, self._pool) < seen.stop and self._looks == 1:
            start = place(self._node, self._pool)
        found = longest_run(self._pool, seen, taken, self._run, start)
        if found is not None:
            self._try(found)
        elif len(seen) == self._pool.count:
            self.exhausted = True
            self.step = None
        else:
            self._look()


def longest_run(
    pool: Geometry, among: range, taken: Collection[int], most: int, start: int
) -> range | None:
    """Return the longest free aligned run of up to ``most`` blocks, or None if no block is free.

    Of equally long runs, it is the first at or after ``start``; the search wraps around at the end
    of ``among``. O(blocks of ``among`` * log most).
    """
    run = max(1, most)
    while run:
        first = -(-among.start // run)
        places = (among.stop - first * run) // run
        at = max(0, start // run - first)
        for offset in range(places):
            low = (first + (at + offset) % places) * run
            blocks = range(low, low + run)
            if not any(one in taken or one in pool.unusable for one in blocks):
                return blocks
        run >>= 1
    return None


def runs(numbers: Iterable[int]) -> Iterator[range]:
    """Return the blocks as the fewest aligned runs, ascending: one route per run. O(n log n)."""
    left: Sequence[int] = sorted(set(numbers))
    at = 0
    while at < len(left):
        first = left[at]
        size = 1
        while (
            first % (2 * size) == 0
            and at + 2 * size <= len(left)
            and left[at + 2 * size - 1] == first + 2 * size - 1
        ):
            size *= 2
        yield range(first, first + size)
        at += size
