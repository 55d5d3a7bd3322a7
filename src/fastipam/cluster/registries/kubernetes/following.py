"""The watches of a node on the Kubernetes API: pools, other nodes' requests, and all blocks."""

from __future__ import annotations

from fastipam.cluster.engine import Compacted, EngineError
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.losses import SPREAD_S
from fastipam.cluster.registries.lost_watch import log_lost_watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastipam.cluster.registries.kubernetes.api import Api
    from fastipam.cluster.registries.kubernetes.calls import Kind
    from fastipam.cluster.registries.kubernetes.losses import Losses
    from fastipam.cluster.registries.kubernetes.pools import Pools
    from fastipam.cluster.registry import Follow, Owners, Request, Requests
    from fastipam.cluster.schema import BlockId


class Following:
    """The watches, with a long connection each: pools, requests and, if they are followed, blocks.

    ``read`` returns a request that waits for an answer, or None.
    """

    def __init__(
        self,
        api: Api,
        losses: Losses,
        pools: Pools,
        read: Callable[[dict[str, Any]], Request | None],
    ) -> None:
        self._api = api
        self._losses = losses
        self._pools = pools
        self._read = read

    def follow_requests(self, requests: Requests, is_over: Callable[[], bool]) -> None:
        """Report the requests of other nodes. One long connection; raises nothing."""

        def see(kind: str, found: dict[str, Any]) -> None:
            request = None if kind == "DELETED" else self._read(found)
            if request is None:
                requests.forget(objects.name_of(found))
            else:
                requests.see(request)

        self._follow(objects.REQUESTS, see, is_over)

    def follow_blocks(self, owners: Owners, is_over: Callable[[], bool]) -> None:
        """Report all blocks; each block object has the address of its owner.

        One long connection; raises nothing. Memory: 200 bytes per block, besides that of
        ``owners``.
        """
        pairs: dict[str, BlockId] = {}

        def see(kind: str, found: dict[str, Any]) -> None:
            name = objects.name_of(found)
            if kind != "DELETED":
                pair, entry = objects.read_block(found)
                pairs[name] = pair
                owners.see(pair, objects.length_of(found), entry)
            elif (gone := pairs.pop(name, None)) is not None:
                owners.forget(gone, certain="spec" in found)  # else only a list lacks it

        self._follow(
            objects.BLOCKS,
            see,
            is_over,
            owners.complete,
            opened=owners.reached,
            failed=owners.lost,
        )

    def threads(self, wake: Callable[[], object]) -> list[tuple[str, Follow]]:
        """Return the name and the function of a thread that follows the pools."""
        known: dict[str, dict[str, Any]] = {}
        is_whole = False

        def see(kind: str, found: dict[str, Any]) -> None:
            if kind == "DELETED":
                known.pop(objects.name_of(found), None)
            else:
                known[objects.name_of(found)] = found
            if is_whole:
                tell()

        def tell() -> None:
            nonlocal is_whole
            is_whole = True
            self._pools.told(known.values())
            wake()

        return [("cluster-pools", lambda is_over: self._follow(objects.POOLS, see, is_over, tell))]

    def _follow(
        self,
        kind: Kind,
        see: Callable[[str, dict[str, Any]], object],
        is_over: Callable[[], bool],
        synced: Callable[[], object] = lambda: None,
        *,
        opened: Callable[[], object] = lambda: None,
        failed: Callable[[], object] = lambda: None,
    ) -> None:
        """Follow a kind until ``is_over``.

        If the API's history was cut off, this node's objects are compared: see
        :meth:`Losses.suspect`.
        """
        from fastipam.cluster.registries.kubernetes.watch import Follower

        def note(error: Exception) -> None:
            if isinstance(error, Compacted):
                self._losses.suspect(
                    "the API's history no longer has the events after this node's last one"
                )
            if isinstance(error, EngineError):
                failed()
            log_lost_watch(self._api.share.network.name, f"watch of {kind.plural}", error)

        def told() -> None:
            self._losses.resynced()
            synced()

        follower = Follower(
            self._api.client,
            kind,
            see,
            on_synced=told,
            on_open=opened,
            on_error=note,
            spread_s=SPREAD_S,
            sleep=self._api.client.pause,
            clock=self._api.clock,
        )
        self._losses.followers[follower] = ""
        if kind is objects.POOLS:
            self._pools.follower = follower
        follower.run(is_over)
