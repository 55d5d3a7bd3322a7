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
_SHARED_S = 1.0  # how long a report on dead owners serves the requests that follow
LARGEST_KNOWN = 16 << 10  # bytes; a larger one is read at each request


class Services:
    """The cached configurations, and access to the blocks of a cluster's pool.

    ``known`` maps the bytes of a configuration to the configuration: a runtime sends the same bytes
    for every pod of a network. ``waiting`` says that the request that is handled now has asked for
    blocks and may be handled again later.

    This class has no keeper, for a plugin process and for a program that embeds the plugin: a
    request then claims blocks by itself. An agent overrides the methods.
    """

    def __init__(self) -> None:
        self.known: dict[bytes, Any] = {}
        self.waiting = False
        self._last: tuple[bytes, tuple[bytes, dict[str, Any] | None]] = b"", (b"", None)
        self._swept: dict[object, tuple[float, Report]] = {}

    def keep(self, stdin: bytes, known: Any) -> None:
        """Keep a configuration that was read."""
        if len(stdin) <= LARGEST_KNOWN:
            if len(self.known) >= MOST_KNOWN:
                self.known.clear()
            self.known[stdin] = known

    def cut(self, stdin: bytes) -> tuple[bytes, dict[str, Any] | None]:
        """Return a configuration without the pod's annotations, and the annotations, or None.

        An agent asks twice for a request: which store it is of, and to serve it.
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
        """Release leases whose owners are proven dead, of these addresses or of the whole network.

        A report is at most a second old. Returns None when the request has to be handled again
        later.
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
        """Have the request handled again soon, unless it has waited this long already."""

    def note_cluster(self, data_dir: str, network: str, settings: Settings) -> None:
        """Note a network in cluster mode that a request has named."""

    def ask_for_blocks(
        self, store: Store, network: str, settings: Settings, who: str, lines: Lines | None = None
    ) -> str | None:
        """Ask for blocks; return why none is there yet, or None if the request has to claim one.

        ``lines`` are those of the request's pools, if it has chosen some.
        """

    def within_reach(self, store: Store, network: str, settings: Settings, lines: Lines) -> Lines:  # noqa: ARG002
        """Return the pools of ``lines`` that may serve now: up to the first with a free block.

        When it is not known which pools are used up, only the first pool of each family is
        returned.
        """
        return tuple((family, groups[:1]) for family, groups in lines)

    def namespace(self, store: Store, network: str, settings: Settings, name: str) -> Namespace:  # noqa: ARG002
        """Return the annotations of a Kubernetes namespace. Raises NoBlock if unknown."""
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
        """Ask for the blocks of addresses that a request names; return why they are not here yet.

        None: nobody asks for this process.
        """

    def standing(self, store: Store, network: str, settings: Settings) -> tuple[str, bool] | None:
        """Return the state of a node's keeper, without a request to the shared store.

        It is (why the node gets no blocks, or an empty text; whether the cluster does not accept it
        as it is configured), or None when nobody keeps blocks for this process.
        """
