"""The blocks of a node on the Kubernetes API: claim, compare, release; one write per block."""

from __future__ import annotations

from contextlib import suppress

from fastipam.addressing.addresses import BITS, parse_cidr
from fastipam.cluster.engine import EngineError, EngineTimeout
from fastipam.cluster.errors import ClusterRefused, NoBlock, not_written, store_restored
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.api import TRIES, list_s
from fastipam.cluster.registries.kubernetes.client import AlreadyExists, Conflict, NotFound
from fastipam.cluster.registries.kubernetes.entry import is_of
from fastipam.cluster.registries.kubernetes.losses import HELD_BACK_S
from fastipam.cluster.registry import Claimed, Counts, Unsettled
from fastipam.errors import FastipamError
from fastipam.storage.records.block import ACTIVE, CLAIMING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.registries.kubernetes.api import Api
    from fastipam.cluster.registries.kubernetes.entry import Entry
    from fastipam.cluster.registries.kubernetes.losses import Losses
    from fastipam.cluster.registries.kubernetes.pools import Pools
    from fastipam.cluster.schema import BlockEntry, BlockId
    from fastipam.configuration.cluster import Geometry
    from fastipam.storage.records.block import Block, Member


_MOST_READS = 16  # of single blocks, before one list costs less


class _NotInForce(NoBlock):
    """A block was claimed from a pool that is not in force any more."""


class Blocks:
    """A node's operations on block objects; ``counts`` counts them."""

    def __init__(self, api: Api, losses: Losses, entry: Entry, pools: Pools) -> None:
        self._api = api
        self._losses = losses
        self._entry = entry
        self._pools = pools
        self.counts = Counts()

    def owned(self, member: Member, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return this node's blocks, each stamped with its current epoch (I7). One list request.

        One write for each block that another epoch of the node has left, and then one read of the
        node's entry: the blocks count only if the node was not removed meanwhile (I6).
        """
        listed, version = self._list(deadline)
        found = {objects.read_block(one)[0]: one for one in listed}
        self._losses.hear_list(version)
        self._leave_out(found, deadline)
        if self._losses.suspicion:
            self._losses.suspicion = ""
            mine = self._api.share.blocks()
            if any(one.state == ACTIVE and (one.family, one.base) not in found for one in mine):
                self._losses.free_at = (
                    self._api.clock() + HELD_BACK_S
                )  # other nodes may miss theirs, too
        stamped: dict[BlockId, BlockEntry] = {}
        for pair, one in found.items():
            kept = self.stamp(one, member, deadline)
            if kept is not None:
                stamped[pair] = kept
        if stamped:
            self._entry.confirm(member, deadline)
        self._losses.begins_anew = False
        return stamped

    def _leave_out(self, found: dict[BlockId, dict[str, Any]], deadline: Deadline) -> None:
        """Drop the listed blocks that are not blocks of a pool in force (I9).

        A claim may reach the API long after it was sent: by then its pool was deleted, and another
        pool has its addresses in blocks of another size. A block that this node was claiming is
        then deleted. No request if this node knows all the blocks.
        """
        states = {(one.family, one.base): one.state for one in self._api.share.blocks()}
        for pair in list(found):
            state = states.get(pair)
            if state not in (None, CLAIMING):
                continue
            cidr = found[pair]["spec"]["cidr"]
            if self._pools.have([cidr], deadline, deleting=state is None):
                continue
            one = found.pop(pair)
            if state == CLAIMING:  # no address of it was ever assigned
                self._delete_named(objects.name_of(one), objects.version_of(one), deadline)

    def look(self, deadline: Deadline) -> None:
        """Compare this node's objects if that is due; a difference means that changes were lost.

        One read of each block and of the entry; one list instead of many reads.
        """
        if self._losses.is_look_due and not self._losses.history.is_lost:
            self._losses.looked(is_as_known=self._is_as_known(deadline))

    def _is_as_known(self, deadline: Deadline) -> bool:
        """Return whether this node's blocks and entry are as the node has written them."""
        mine = self._api.share.blocks()
        places = [self._api.place(one.family, one.base) for one in mine]
        if None in places or any(one.state != ACTIVE for one in mine):
            return False
        there: dict[str, int] = {}
        if len(places) > _MOST_READS:
            listed, _ = self._list(deadline)
            there = {objects.name_of(one): objects.version_of(one) for one in listed}
        for place, one in zip(places, mine, strict=True):
            assert place is not None
            if len(places) <= _MOST_READS:
                found = self._api.get(objects.BLOCKS, place.name, deadline)
                there[place.name] = 0 if found is None else objects.version_of(found)
            if there.get(place.name) != one.revision:
                return False
        found = self._api.get(objects.NODES, self._api.name, deadline)
        member = self._entry.known()
        if found is None or member is None or not is_of(found, member):
            return False
        return self._losses.written in (("", 0), objects.identity_of(found))

    def stamp(self, found: dict[str, Any], member: Member, deadline: Deadline) -> BlockEntry | None:
        """Write the current epoch and address into a block; return it, or None if it is gone (I7).

        None also if another node owns the block. A deletion under way by the earlier version then
        fails.
        """
        for tries in range(TRIES):
            (family, _), entry = objects.read_block(found)
            via = objects.own_address(self._api.addresses(), family)
            if entry.node != self._api.name:
                return None
            if entry.epoch > member.epoch:
                self._outgrow(member, entry.epoch)
            if entry.epoch == member.epoch and (list(entry.via) == via or not via):
                return entry
            body = objects.stamped(found, member.epoch, via)
            with suppress(Conflict, EngineTimeout):
                try:
                    made = self._api.client.replace(
                        objects.BLOCKS, body, deadline_s=deadline.call_s()
                    )
                except NotFound:
                    return None
                self._losses.hear(made, changed=True)
                self._api.step("stamped")
                return objects.read_block(made)[1]
            self._api.pause(tries, deadline)
            there = self._api.get(objects.BLOCKS, objects.name_of(found), deadline)
            if there is None:
                return None
            found = there
        raise not_written(f"the block {objects.name_of(found)}")

    def _outgrow(self, member: Member, epoch: int) -> None:
        """Set this node's epoch to one more than ``epoch``, and raise NoBlock.

        ``epoch`` is the epoch of a block that this node owns.
        The node's entry was deleted and created again, so its epochs began again.
        """
        member.epoch, member.revision = epoch + 1, 0
        self._api.share.put_member(member)
        raise NoBlock(
            f"a block of node {self._api.name} is of epoch {epoch}: this node takes the epoch "
            "after it"
        )

    def claim(
        self,
        member: Member,
        ids: Sequence[BlockId],
        claimed_ns: int,
        deadline: Deadline,
    ) -> Claimed:
        """Create the blocks' objects, then read this node's entry (I6). One write per block.

        Blocks that other nodes own are left out: the claim may succeed for a part of a run.
        """
        self.look(deadline)
        if self._losses.suspect_at:  # no watch has resumed yet: compare all blocks first
            self._losses.notice()
        self._losses.history.begin()
        self._losses.hear_followers()
        if self._api.clock() < self._losses.free_at:
            raise store_restored()
        won: dict[BlockId, int] = {}
        taken: list[BlockId] = []
        for pair in ids:
            try:
                revision = self._create(pair, member, claimed_ns, deadline)
            except Unsettled:
                raise
            except FastipamError as error:
                if won:
                    raise Unsettled(error) from None  # the comparison finds what was won
                raise
            if revision:
                won[pair] = revision
            else:
                taken.append(pair)
        if won:
            try:
                self._entry.confirm(member, deadline)
                self._require_pools(won, deadline)
            except ClusterRefused:
                self._withdraw(won, deadline)
                raise
            except _NotInForce as error:
                if not self._withdraw(won, deadline):
                    raise Unsettled(error) from None  # the next comparison deletes them
                raise
            except FastipamError as error:
                raise Unsettled(error) from None
        return Claimed(won, taken)

    def _require_pools(self, won: Iterable[BlockId], deadline: Deadline) -> None:
        """Raise _NotInForce unless the blocks belong to pools that are in force (I9)."""
        places = (self._api.place(*pair) for pair in won)
        cidrs = [one.cidr for one in places if one is not None]
        if not self._pools.have(cidrs, deadline):
            raise _NotInForce(
                f"the pool of {', '.join(cidrs)} has been deleted or has blocks of another size: "
                "this node reads the pools again"
            )

    def claim_again(self, member: Member, block: Block, deadline: Deadline) -> int:
        """Create a lost block's object; return its version, 0 when another node owns it."""
        pair = block.family, block.base
        place = self._api.place(*pair)
        if place is None or place.is_gone:
            return 0
        try:
            revision = self._create(pair, member, block.claimed_ns, deadline)
        except Unsettled as error:
            raise error.error from None  # it stays lost, and is found by the next comparison
        if revision:
            try:
                self._entry.confirm(member, deadline)
            except ClusterRefused:
                self._withdraw({pair: revision}, deadline)
                raise
            if not self._pools.have([place.cidr], deadline):
                self._withdraw({pair: revision}, deadline)
                return 0
        return revision

    def _withdraw(self, won: Mapping[BlockId, int], deadline: Deadline) -> bool:
        """Delete blocks that were claimed in vain; return whether all of them are gone.

        A removed node that comes back finds the rest.
        """
        with suppress(FastipamError):
            for pair, revision in won.items():
                self._delete(pair, revision, deadline)
            return True
        return False

    def _create(self, pair: BlockId, member: Member, claimed_ns: int, deadline: Deadline) -> int:
        """Create a block's object; return its version, or 0 when another node owns the block.

        Repeats until the outcome is known. Raises Unsettled when the object may have been created,
        or may be created later.
        """
        place = self._api.place(*pair)
        if place is None or place.is_gone:  # others may have its addresses in blocks of other sizes
            raise NoBlock("the pool of this block is not in force any more")
        via = objects.own_address(self._api.addresses(), place.family)
        body = objects.block(place, self._api.name, member.epoch, claimed_ns, via=via)
        is_uncertain = False
        for tries in range(TRIES):
            try:
                self.counts.transactions += 1
                made = self._api.client.create(objects.BLOCKS, body, deadline_s=deadline.call_s())
            except AlreadyExists:
                try:
                    found = self._api.get(objects.BLOCKS, place.name, deadline)
                except FastipamError as error:
                    raise Unsettled(error) from None
                if found is None:
                    self._api.pause(tries, deadline)
                    continue
                entry = objects.read_block(found)[1]
                mine = (self._api.name, member.epoch, claimed_ns)
                is_mine = (entry.node, entry.epoch, entry.claimed_ns) == mine
                return entry.revision if is_mine else 0
            except (EngineError, NoBlock) as error:
                if isinstance(error, EngineTimeout) and error.ambiguous:
                    is_uncertain = True
                    self._api.pause(tries, deadline)
                    continue
                if is_uncertain:
                    raise Unsettled(error) from None
                raise
            self._api.step("created")
            try:
                self._losses.hear(made, changed=True)
            except EngineError as error:
                raise Unsettled(error) from None  # the comparison settles the claim
            return objects.version_of(made)
        raise Unsettled(NoBlock(f"the result of the claim of {place.cidr} is unknown"))

    def taken(self, pool: Geometry, numbers: range, deadline: Deadline) -> frozenset[int]:
        """Return the blocks among these that some node owns. One list request."""
        place = self._api.place(pool.family, pool.address(numbers.start))
        if place is None:
            return frozenset(numbers)
        selectors = [f"spec.pool={place.pool}"]
        windows = self._windows(pool, numbers)
        if len(windows) == 1:
            selectors.append(f"spec.window={windows[0]}")
        listed, version = self._api.client.list(
            objects.BLOCKS, ",".join(selectors), deadline_s=list_s(deadline)
        )
        found = (pool.number(objects.read_block(one)[0][1]) for one in listed)
        taken = frozenset(one for one in found if one is not None)
        self._losses.hear_list(version)
        return taken

    def _windows(self, pool: Geometry, numbers: range) -> list[str]:
        length = BITS[pool.family] - pool.host_bits
        ends = {
            objects.window_of(pool.family, pool.address(number), length)
            for number in (numbers.start, numbers.stop - 1)
        }
        return sorted(ends)

    def owner(self, pair: BlockId, deadline: Deadline) -> BlockEntry | None:
        """Return the owner of a block, or None when nobody owns it. One read."""
        place = self._api.place(*pair)
        found = place and self._api.get(objects.BLOCKS, place.name, deadline)
        return objects.read_block(found)[1] if found else None

    def assigned(self, deadline: Deadline) -> frozenset[BlockId]:
        """Return the podCIDRs of this node's Node object. One read."""
        found = self._api.get(objects.MACHINES, self._api.name, deadline)
        return frozenset(parse_cidr(one)[:2] for one in objects.pod_cidrs(found or {}))

    def release(self, block: Block, deadline: Deadline) -> None:
        """Delete a block's object if it is this node's. Repeats until the outcome is known."""
        pair = block.family, block.base
        self._delete(pair, block.revision, deadline)

    def _delete(self, pair: BlockId, revision: int, deadline: Deadline) -> None:
        """Delete a block's object by its version, unless it is of a later epoch than this node.

        With a later epoch it belongs to another machine, which has this node's name now.
        """
        name = self._name_of(pair, deadline)
        if name:
            self._delete_named(name, revision, deadline)

    def _delete_named(self, name: str, revision: int, deadline: Deadline) -> None:
        """Delete an object by its name and version, as :meth:`_delete` does."""

        def delete(version: int) -> None:
            self._api.client.delete(
                objects.BLOCKS, name, version=str(version), deadline_s=deadline.call_s()
            )

        self.write_own(name, revision, delete, "released", deadline)

    def write_own(
        self,
        name: str,
        version: int,
        write: Callable[[int], object],
        done: str,
        deadline: Deadline,
    ) -> None:
        """Write to a block of this node by its version, until the outcome is known.

        Stops without an error when the block is no longer this node's. With ``version`` 0 the block
        is read first. ``done`` says in the error what could not be done: "released".
        """
        for tries in range(TRIES):
            try:
                if version:
                    write(version)
                    return
            except NotFound:
                return
            except Conflict:
                pass
            except EngineTimeout as error:
                if not error.ambiguous:
                    raise
                self._api.pause(tries, deadline)
                continue
            found = self._api.get(objects.BLOCKS, name, deadline)
            if found is None or not self._is_mine(found):
                return
            version = objects.version_of(found)
        raise not_written(f"the block {name}", done)

    def _name_of(self, pair: BlockId, deadline: Deadline) -> str:
        """Return the name of the object of this node's block, or "" when there is none.

        If the block lies in no pool, because the pool was deleted, the list of this node's blocks
        is read.
        """
        place = self._api.place(*pair)
        if place is not None:
            return place.name
        listed, _ = self._list(deadline)
        return next(
            (objects.name_of(one) for one in listed if objects.read_block(one)[0] == pair), ""
        )

    def _is_mine(self, found: dict[str, Any]) -> bool:
        entry = objects.read_block(found)[1]
        member = self._entry.known()
        return entry.node == self._api.name and member is not None and entry.epoch <= member.epoch

    def _list(self, deadline: Deadline) -> tuple[Iterator[dict[str, Any]], str]:
        """Return the objects that have this node's name, and the version of the list."""
        return self._api.client.list(
            objects.BLOCKS, f"spec.node={self._api.name}", deadline_s=deadline.call_s()
        )
