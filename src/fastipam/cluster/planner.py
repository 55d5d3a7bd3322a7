"""What a node does about its blocks: which to try, how many, when to give back. No I/O, no clock.

A pool of 2**n blocks is a row of numbers; a *run* is an aligned slice of 2**k of them, so that a
run is one route. Everything here is a function of what the caller has seen, so a node and a
simulator of ten thousand of them decide alike. Random choices are hashes of names: repeatable.
"""

from __future__ import annotations

from math import log2

try:
    from _blake2 import blake2b
except ImportError:  # pragma: no cover  # an interpreter that builds it in another way
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from fastipam.configuration.cluster import Geometry, Watermarks

# Windows that are looked at before the whole pool is: a pool that is not nearly full has a free
# block in any of them.
WINDOWS = 4
# Tries that somebody else was faster at. After each the pool was looked at again.
TRIES = 12
# When a node looks at its blocks and at the store; the simulator has the same times.
TICK_S = 0.1  # how soon demand is noticed while addresses are assigned
COLLECT_S = 0.05  # between two looks at what others have handed over, while a mark is up
LOOK_AGAIN_S = 0.5  # at a pool that was used up: a block may become free without any answer
SPREAD_S = 1.0  # donors answer a mark within it
TIDY_S = 5.0  # between two looks for blocks to give back


def digest(*words: str) -> int:
    """64 bits that look random and are always the same for the same words."""
    return int.from_bytes(blake2b("\0".join(words).encode(), digest_size=8).digest(), "big")


def place(node: str, pool: Geometry) -> int:
    """The block where a node begins to look. O(1).

    A hash of its name: nodes that start at the same moment hardly meet.
    """
    return digest("place", node, f"{pool.family} {pool.base}") % pool.count


# How many ------------------------------------------------------------------------------------


class Use:
    """One block that a node owns: how many addresses it can serve, how many are not free.

    A cooling or reserved address is not free. ``claimed_s`` is when it was claimed, on any clock.
    """

    __slots__ = ("claimed_s", "number", "size", "used")

    def __init__(self, number: int, size: int, used: int, claimed_s: float) -> None:
        self.number = number
        self.size = size
        self.used = used
        self.claimed_s = claimed_s


def to_claim(
    policy: Watermarks,
    pool: Geometry,
    free: int,
    *,
    missing: int = 0,
    last_run: int = 0,
    since_last_s: float = 0.0,
    scarce: bool = False,
) -> int:
    """How many blocks to claim now: 0, or a power of two. O(1).

    ``free`` are the free addresses of all owned blocks, ``missing`` the ADDs that wait for one.
    ``last_run`` blocks were claimed ``since_last_s`` ago: growing demand doubles the run, and a run
    is as long as it takes for all who wait. ``scarce``: others have found the pool used up; then
    nothing is claimed ahead.
    """
    if scarce:
        return 1 if missing > free else 0
    if missing <= free and free >= policy.low_water * pool.size:
        return 0
    run = 1
    if last_run and since_last_s <= policy.ramp_s:
        run = 2 * last_run
    needed = max(0, missing - free)
    while run * pool.size < needed:
        run *= 2
    return max(1, min(run, policy.largest_run, 1 << (pool.count.bit_length() - 1)))


def to_give_back(
    policy: Watermarks, pool: Geometry, uses: Iterable[Use], now_s: float
) -> list[int]:
    """The blocks to give back now, most dispensable first. O(blocks log blocks).

    Wholly free ones of the minimum age, while more than the high water is free and more than the
    warm ones are wholly free. Those claimed last go first: the old ones are the longer runs.
    """
    listed = list(uses)
    free = sum(each.size - each.used for each in listed)
    empty = [each for each in listed if not each.used]
    spare = len(empty) - policy.warm
    old = [each for each in empty if now_s - each.claimed_s >= policy.minimum_age_s]
    old.sort(key=lambda each: (each.claimed_s, each.number), reverse=True)
    given = []
    for each in old:
        if spare <= 0 or free <= policy.high_water * pool.size:
            break
        given.append(each.number)
        spare -= 1
        free -= each.size
    return given


def to_donate(uses: Iterable[Use], wanted: int) -> list[int]:
    """The blocks to hand to a node in need that wants so many. O(blocks log blocks).

    At most half of the wholly free ones; of an odd number the larger half, so that the last free
    block of a cluster can move, too. Neither age nor water marks count: somebody's pod waits.
    """
    empty = [each for each in uses if not each.used]
    empty.sort(key=lambda each: (each.claimed_s, each.number), reverse=True)
    return [each.number for each in empty[: min(wanted, (len(empty) + 1) // 2)]]


def donor_delay_s(donor: str, needy: str, mark: int, spread_s: float) -> float:
    """How long a donor waits before it answers a mark, so that a few answer and not all. O(1).

    Exponential timers, as multicast protocols use them against floods of answers: the number of
    donors whose time has come doubles every sixteenth of ``spread_s``. However many there are,
    some answer before it is over, and few within one round trip of the first, which ends the
    matter: the mark is gone.
    """
    share = (digest("donor", donor, needy, str(mark)) + 1) / (1 << 64)
    return spread_s * max(0.0, 1.0 + log2(share) / 16)


def backoff_s(node: str, failures: int, *, first_s: float = 0.1, most_s: float = 10.0) -> float:
    """How long to leave a store alone that did not answer for the ``failures``-th time. O(1).

    Doubled each time; from half of it to all of it, by the node's name: a cluster does not come
    back in step.
    """
    whole = min(most_s, first_s * float(1 << min(failures, 20)))
    return whole * (0.5 + 0.5 * (digest("backoff", node, str(failures)) / (1 << 64)))


# Which ---------------------------------------------------------------------------------------


class Try:
    """Claim these blocks in one transaction: all that are free, or none."""

    __slots__ = ("blocks",)

    def __init__(self, blocks: range) -> None:
        self.blocks = blocks

    def __repr__(self) -> str:
        return f"Try({self.blocks})"


class Look:
    """Read which of these blocks are taken."""

    __slots__ = ("blocks",)

    def __init__(self, blocks: range) -> None:
        self.blocks = blocks

    def __repr__(self) -> str:
        return f"Look({self.blocks})"


class Search:
    """One claim, step by step: what to ask the store next, and what came of it.

    ``step`` is a :class:`Try`, a :class:`Look`, or None: the search is over. Whoever carries it out
    answers a try with :meth:`claimed` or :meth:`conflict`, a look with :meth:`looked`.
    ``exhausted`` then says that the last look at the whole pool found no free block.

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
        """The run at the node's own place."""
        first = place(self._node, self._pool) & -self._run
        return range(first, min(first + self._run, self._pool.count))

    def _beside(self, owned: Collection[int]) -> range | None:
        """The run that makes an owned one twice as long, None when there is none to be made."""
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
        """The next window, from the node's place on; in the end the whole pool."""
        pool = self._pool
        windows = pool.count >> pool.window_bits
        if self._looks < WINDOWS < windows:
            home = place(self._node, pool) >> pool.window_bits
            # An odd stride meets every window once where their number is a power of two.
            stride = digest("stride", self._node) | 1
            window = (home + self._looks * stride) % windows
            self.step = Look(pool.window(window << pool.window_bits))
        else:
            self.step = Look(range(pool.count))
        self._looks += 1

    def claimed(self) -> None:
        """The blocks of the try are this node's."""
        self.step = None

    def conflict(self, taken: Iterable[int]) -> None:
        """Somebody has some blocks of the try: nothing was claimed."""
        assert isinstance(self.step, Try)
        held = frozenset(taken)
        if self._tries == 1 and len(self.step.blocks) > 1:
            self._try_part(self.step.blocks, held)
        else:
            self._look()

    def _try_part(self, blocks: range, taken: Collection[int]) -> None:
        """What is free of a run that was partly taken: an aligned run, the longest there is."""
        found = longest_run(self._pool, blocks, taken, len(blocks) >> 1, blocks.start)
        self._try(found)

    def looked(self, taken: Collection[int]) -> None:
        """The blocks of the look that somebody has. O(blocks looked at)."""
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
    """The first free aligned run at or behind ``start`` (round) of ``most`` blocks, or of half of
    that, and so on. None when nothing is free. O(blocks looked at * log most)."""
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
    """Blocks as the fewest aligned runs, ascending: what a table of routes needs. O(n log n)."""
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
