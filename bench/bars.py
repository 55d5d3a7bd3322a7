"""The bars: the limits that fastipam promises for its speed. Each number is only in this file."""

from __future__ import annotations

from typing import NamedTuple


class Bar(NamedTuple):
    """A promise: the figure is at most ``limit``, or at least ``limit`` with ``at_least``."""

    name: str
    limit: float
    unit: str
    at_least: bool = False


class Verdict(NamedTuple):
    """A bar and the measured figure."""

    bar: Bar
    figure: float

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        if self.bar.at_least:
            return self.figure >= self.bar.limit
        return self.figure <= self.bar.limit


# In memory. The base is a call of an empty method of the extension type.
ALLOCATE = Bar("allocate / empty method", 2.0, "x")
MANY_NS = 8.0
MANY_OF_BY_CALL = 0.25  # many() uses the larger of these two limits
FILL_FLATNESS = Bar("pair of a /12, 99.99 % full / empty", 1.3, "x")
SIZE_FLATNESS = Bar("pair of a /12 / of a /24, worst fill", 1.5, "x")
MEMORY = Bar("memory of a full /12", 300.0, "KiB")

# In the store. "By hand" means the same gets, puts and deletes with py-lmdb (bench/by_hand.py).
RELAXED_PAIR = Bar("relaxed pair / by hand in py-lmdb", 1.5, "x")
DURABLE_PAIR = Bar("durable pair / by hand in py-lmdb", 1.1, "x")
TOGETHER = Bar("pair inside one transaction / by hand's with its commits", 0.5, "x")
LONG_TRANSACTION = Bar("the 40,000th pair inside one transaction / the 1,000th", 1.1, "x")
# Relative to "by hand", so without what deeper trees of a million leases cost LMDB itself.
LEASES_FLATNESS_TMPFS = Bar("pair on a tmpfs, a million leases / none, / by hand's", 1.1, "x")
LEASES_FLATNESS = Bar("durable pair, a million leases / none, / by hand's", 1.1, "x")
OPEN = Bar("open + first lookup, 1,048,573 leases", 3.0, "ms")
FILL = Bar("fill with 1,048,573 leases, durable", 15.0, "s")
FILL_BY_HAND = Bar("the same / by hand in py-lmdb, in the same commits", 1.6, "x")
RELEASE_MANY = Bar("release_many with cool-down / allocate_many", 1.2, "x")
THREADS = Bar("8 threads that assign durably: rate / of one", 4.0, "x", at_least=True)

# As processes.
PLUGIN_START = Bar("plugin ADD / python -I -S -c pass", 2.0, "x")
PLUGIN_FLATNESS = Bar("plugin ADD, a million leases / none", 1.2, "x")
# Relative to another commit, by python -m bench.instructions and python -m bench.fill.
INSTRUCTIONS = Bar("instructions of a plugin ADD / the other commit's", 0.93, "x")
FILL_AGAINST = Bar("fill with 1,048,573 leases / the other commit's", 0.55, "x")

# The agent with a durable store: whole launcher processes, the slower of ADD and DEL.
LAUNCHER = Bar("launcher / /bin/true", 1.6, "x")
FLOOR = Bar("launcher / /bin/true and one durable commit of one page", 1.2, "x")
PAUSE = Bar("launcher after a second of quiet / its floor", 1.2, "x")
FASTER = {
    leases: Bar(f"host-local, {leases:,} leases / launcher", limit, "x", at_least=True)
    for leases, limit in ((0, 3.5), (250, 6.0), (100_000, 900.0))
}
# "By hand" is /bin/true and the durable puts of an ADD, so the cost of LMDB's deeper trees is left
# out.
LAUNCHER_FLATNESS = {
    place: Bar(f"launcher's ADD, {place}, a million leases / none, / by hand's", 1.1, "x")
    for place in ("disk", "tmpfs")
}
CROWD_RATE = Bar("64 processes at once: rate / host-local's", 4.0, "x", at_least=True)
CROWD_TAIL = Bar("64 processes at once: p99 / host-local's median", 1.0, "x")
# Processor time. "By hand" is the time for the same puts, 64 in a commit.
REQUEST = Bar("a request without a socket / by hand in py-lmdb", 1.5, "x")
SOCKET = Bar("a request of 64 clients that connect for each / by hand in py-lmdb", 5.0, "x")
AGENT_MEMORY = Bar("agent, private memory", 16.0, "MiB")
AGENT_MEMORY_GROWTH = Bar("agent, private memory, a million leases - none", 10.0, "MiB")

# The client of the Kubernetes API, including its first use: python -m bench.kubernetes_client.
KUBERNETES_CPU = Bar("processor time above a bare interpreter", 60.0, "ms")
KUBERNETES_MEMORY = Bar("private memory above a bare interpreter", 6.0, "MiB")
# The routes of an agent: python -m bench.routes.
ROUTES = Bar("an agent's start until 10,000 routes are set", 10.0, "s")
ROUTES_MEMORY = Bar("its memory with 10,000 blocks, at the most", 90.0, "MiB")


def many(by_call_ns: float) -> Bar:
    """Return the bar of ``allocate_many``: 8 ns an address, or a quarter of a single call."""
    limit = max(MANY_NS, MANY_OF_BY_CALL * by_call_ns)
    return Bar("allocate_many(1,000,000), an address", limit, "ns")
