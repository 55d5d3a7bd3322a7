"""The state that a process shares between the requests that it serves."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastipam.cluster.keeper.named import Told
    from fastipam.cluster.registry import Namespace
    from fastipam.configuration.cluster import Settings
    from fastipam.configuration.pool_lines import Lines
    from fastipam.network import Network
    from fastipam.storage.store import Store
    from fastipam.sweep import Report

MOST_KNOWN = 128  # configurations
_SHARED_S = 1.0  # how long a report on dead leases is reused for later requests
LARGEST_KNOWN = 16 << 10  # bytes; a larger configuration is decoded at each request


class Services:
    """The cached configurations, and access to the blocks of a cluster's pool.

    ``known`` maps the bytes of a configuration to the decoded one, because a runtime sends the same
    bytes for every pod of a network. ``waiting`` says that the current request has asked for blocks
    and may be handled again later.

    This class is for a plugin process, or a program that embeds the plugin. They have no keeper, so
    each request claims blocks by itself. An agent overrides the methods.
    """

    def __init__(self) -> None:
        self.known: dict[bytes, Any] = {}
        self.waiting = False
        self._last: tuple[bytes, tuple[bytes, dict[str, Any] | None]] = b"", (b"", None)
        self._swept: dict[object, tuple[float, Report]] = {}

    def keep(self, stdin: bytes, known: Any) -> None:
        """Cache a decoded configuration, unless it is large."""
        if len(stdin) <= LARGEST_KNOWN:
            if len(self.known) >= MOST_KNOWN:
                self.known.clear()
            self.known[stdin] = known

    def cut(self, stdin: bytes) -> tuple[bytes, dict[str, Any] | None]:
        """Return a configuration without the pod's annotations, and the annotations, or None.

        The last result is cached, because an agent calls this twice for each request: to find its
        store, and to serve it.
        """
        whole, parts = self._last
        if whole != stdin:
            from fastipam.cni.pod_annotations import cut

            parts = cut(stdin)
            self._last = stdin, parts
        return parts

    def release_dead(
        self, network: Network, only: tuple[tuple[int, int], ...] | None
    ) -> Report | None:
        """Release leases whose containers are proven dead, and return the report.

        ``only`` limits this to the leases of these addresses. The report may be up to a second old.
        Return None when the request has to be handled again later.
        """
        from time import monotonic

        from fastipam.sweep import release_dead

        key = network.store.path, network.name, only
        now = monotonic()
        self._swept = {one: had for one, had in self._swept.items() if now < had[0] + _SHARED_S}
        if key not in self._swept:
            self._swept[key] = now, release_dead(network, only)
        return self._swept[key][1]

    def wait(self, seconds: float) -> None:
        """Have the request handled again soon, unless it has waited ``seconds`` already."""

    def note_cluster(self, data_dir: str, network: str, settings: Settings) -> None:
        """Take notice of a network in cluster mode that a request has named."""

    def ask_for_blocks(
        self, store: Store, network: str, settings: Settings, who: str, lines: Lines | None = None
    ) -> str | None:
        """Ask for a block and return why there is none yet, or None to have the request claim one.

        ``lines`` are the request's pools, if it has chosen some.
        """

    def within_reach(self, store: Store, network: str, settings: Settings, lines: Lines) -> Lines:  # noqa: ARG002
        """Return the pools of ``lines`` up to and including the first group with a free block.

        This class does not know which pools are used up, and returns only the first group of each
        family.
        """
        return tuple((family, groups[:1]) for family, groups in lines)

    def namespace(self, store: Store, network: str, settings: Settings, name: str) -> Namespace:  # noqa: ARG002
        """Return labels and annotations of a Kubernetes namespace. Raises NoBlock if unknown."""
        from fastipam.cluster.errors import NoBlock

        raise NoBlock(
            f"the annotations of namespace {name} are not known: only the agent asks the "
            "Kubernetes API",
            hint=(
                "start the agent: a pool with a namespaceSelector, and the annotations of "
                "namespaces, need it"
            ),
        )

    def ask_for_addresses(
        self,
        store: Store,
        network: str,
        settings: Settings,
        who: str,
        addresses: Sequence[tuple[int, int]],
    ) -> Told | None:
        """Ask for the blocks of requested addresses, and return why this node has them not yet.

        Return None when there is no keeper to ask.
        """

    def standing(self, store: Store, network: str, settings: Settings) -> tuple[str, bool] | None:
        """Return the state of the network's keeper, without a request to the engine.

        It is (why the node gets no blocks, or ""; whether the cluster refuses the node's
        configuration), or None when there is no keeper.
        """
