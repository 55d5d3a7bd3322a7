"""The interface of a cluster's shared store, as a node uses it: who owns which block.

``registries/`` has the two implementations: ``keyvalue`` on an :class:`Engine` (etcd), with
transactions over several keys, and ``kubernetes`` on the Kubernetes API, which changes one object
at a time. A *block* is named by (family, first address).

A call that changes something has one of three outcomes. It returns: the change was made, or was
refused. It raises an EngineError, NoBlock or ClusterRefused: nothing was changed. It raises
:class:`Unsettled`: the change may have been made, or may be made later, and the next
:meth:`Registry.owned` or :meth:`Registry.release` finds out.

Every call that asks the shared store takes the :class:`Deadline` of the operation.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Protocol, TypeAlias

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.engine import History
    from fastipam.cluster.planner import Use
    from fastipam.cluster.schema import BlockEntry, BlockId, Mark, NodeEntry
    from fastipam.configuration.address_pools import AddressPool
    from fastipam.configuration.cluster import Geometry
    from fastipam.errors import FastipamError
    from fastipam.storage.records.block import Block, Heard, Member

    Follow: TypeAlias = Callable[[Callable[[], bool]], None]
    # Whether it holds; if not, the cause as one word for programs, and as a text for people.
    Condition: TypeAlias = tuple[bool, str, str]
else:
    Protocol = object


class Unsettled(Exception):
    """A change was requested, and its outcome is unknown because of ``error``."""

    def __init__(self, error: FastipamError) -> None:
        super().__init__(str(error))
        self.error = error


class Counts:
    """Counters of a node since this object was made; all but two count blocks.

    ``transactions`` counts the requests that were sent for claims, ``conflicts`` the claims for
    which another node was faster.
    """

    __slots__ = ("claims", "conflicts", "donated", "granted", "released", "transactions")

    def __init__(self) -> None:
        self.claims = self.conflicts = self.donated = 0
        self.granted = self.released = self.transactions = 0


class Claimed:
    """The answer to a claim.

    ``won`` has the revision of each block that this node owns now, ``taken`` the blocks that other
    nodes own. With a key-value store a claim wins all of its blocks or none.
    """

    __slots__ = ("taken", "won")

    def __init__(self, won: dict[BlockId, int], taken: Sequence[BlockId] = ()) -> None:
        self.won = won
        self.taken = taken


class Request:
    """The request of a node in need, as another node has read it.

    ``revision`` is the revision of the request in the shared store, ``uid`` the id that the store
    gave it, or "". A donor names both in its answer, so that a request is answered only once.
    """

    __slots__ = ("mark", "needy", "revision", "uid")

    def __init__(self, needy: str, mark: Mark, revision: int, uid: str = "") -> None:
        self.needy = needy
        self.mark = mark
        self.revision = revision
        self.uid = uid


class Namespace:
    """The labels and annotations of a Kubernetes namespace that choose pools."""

    __slots__ = ("annotations", "labels")

    def __init__(self, labels: Mapping[str, str], annotations: Mapping[str, str]) -> None:
        self.labels = labels
        self.annotations = annotations


class NodeRow:
    """A node as the shared store lists it.

    ``alive``: its sign of life exists. ``needy``: it has a request for blocks.
    """

    __slots__ = ("alive", "entry", "name", "needy")

    def __init__(self, name: str, entry: NodeEntry, *, alive: bool, needy: bool) -> None:
        self.name = name
        self.entry = entry
        self.alive = alive
        self.needy = needy


class Layout:
    """The owner of each block, and the nodes' addresses: the input for routes.

    ``blocks`` has the entry of each owned block, ``addresses`` the addresses of each node.
    :meth:`Registry.changes` continues from ``revision``.
    """

    __slots__ = ("addresses", "blocks", "revision")

    def __init__(
        self,
        blocks: Mapping[BlockId, BlockEntry],
        addresses: Mapping[str, Sequence[str]],
        revision: int,
    ) -> None:
        self.blocks = blocks
        self.addresses = addresses
        self.revision = revision


class Requests(Protocol):
    """The receiver of other nodes' requests. ``wake`` is called when the keeper has to act."""

    wake: Callable[[], object]

    def see(self, request: Request) -> None:
        """Add a request that waits for an answer."""

    def forget(self, needy: str) -> None:
        """Remove the request of a node: it was withdrawn or answered."""

    def replace(self, listed: Sequence[Request]) -> None:
        """Replace all known requests by these."""


class Owners(Protocol):
    """The receiver of the owners of all blocks, and of the owning nodes' addresses."""

    def see(self, pair: BlockId, length: int, entry: BlockEntry) -> None:
        """Record the entry of a block; ``length`` is the block's prefix length."""

    def see_node(self, name: str, addresses: Sequence[str]) -> None:
        """Record the addresses of a node, for its blocks whose entries have none."""

    def forget(self, pair: BlockId, *, certain: bool) -> None:
        """Record that a block has no owner.

        Not ``certain``: a list lacks the block, but no event has reported its deletion.
        """

    def complete(self) -> None:
        """Record that the whole state was reported, and that the shared store is reached."""

    def reached(self) -> None:
        """Record that the shared store is reached, and reports every change from now on."""

    def lost(self) -> None:
        """Record that the shared store is not reached: the reported state may be out of date."""


class Registry(Protocol):
    """A cluster's shared store, as one node uses it.

    Call a method that changes something only while :class:`NodeLock` is held. Methods that only
    read, the ``follow_`` methods and :meth:`threads` need no lock, and may run in other threads.
    """

    history: History
    counts: Counts
    store_name: str  # "etcd" or "the Kubernetes API", for messages
    keep_every_s: float  # the time from one :meth:`keep` to the next
    most_given: int  # the most blocks in the answer to one request
    operation_s: float  # the time limit of one step of a keeper
    call_s: float  # the time limit of one call in such a step
    has_signs: bool  # whether agents keep a sign of life
    alive_text: str  # how a node shows that it is alive, as the end of a sentence
    alive_hint: str  # how to end its sign of life, for messages

    # This node ------------------------------------------------------------------------------

    def remember(self) -> None:
        """Compare each later answer with the state in this node's own store. Sends nothing."""

    def register(self, member: Member, deadline: Deadline, *, agent: bool, sign: bool) -> bool:
        """Write this node's entry; set the member's epoch and revision; return whether it is new.

        With ``sign`` a new node also creates its sign of life. A new node owns nothing. Idempotent.
        Raises ClusterRefused if the settings differ from the cluster's, or if another node with
        this name is alive.
        """

    def addresses(self) -> tuple[str, ...]:
        """Return the addresses at which other nodes reach this one; may query a name server."""

    def pools(self, deadline: Deadline) -> list[AddressPool] | None:
        """Return the pools that are in force, or None when the node's settings define them."""

    def namespace(self, name: str, deadline: Deadline) -> Namespace:
        """Return the labels and annotations of a namespace; empty without Kubernetes."""

    def check_settings(self, deadline: Deadline) -> None:
        """Raise ClusterRefused unless this node's settings equal the cluster's."""

    def read_era(self, is_new: bool, deadline: Deadline) -> tuple[str | None, bool]:
        """Return the era, and whether it shows that other nodes have noticed lost changes.

        The *era* is a random number that changes when a node notices that the shared store has lost
        changes. It is None when it was not read. ``is_new``: this node has just registered for the
        first time, and has nothing to lose.
        """

    def heard(self, era: str | None) -> Heard:
        """Return the last known state of the shared store, for a record in the node's own store."""

    def owned(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return the blocks that this node owns in the shared store, in its current epoch."""

    def hold(self, deadline: Deadline) -> None:
        """Create this node's sign of life, unless it exists. Raises ClusterRefused, NoBlock."""

    def keep(self, deadline: Deadline) -> bool:
        """Renew the sign of life; return False if it has ended or this node's entry was changed."""

    @property
    def is_held(self) -> bool:
        """Whether this process keeps the node's sign of life."""

    @property
    def proven_ns(self) -> int:
        """When the sign of life was last known to exist, on the clock of this boot."""

    def let_go(self, deadline: Deadline) -> None:
        """Stop keeping the sign of life, because it may not be this node's any more."""

    # Lost changes ---------------------------------------------------------------------------

    def look(self, deadline: Deadline) -> None:
        """Check whether changes were lost, if there is a reason to suspect it."""

    def hold_back(self, deadline: Deadline) -> None:
        """Accept a store that has lost changes, and report the loss to other nodes. Idempotent."""

    def learn_history(self, deadline: Deadline) -> None:
        """Read whether other nodes have noticed a loss, unless this node knows it already."""

    @property
    def has_lost_changes(self) -> bool:
        """Whether a loss was noticed that :meth:`hold_back` has not accepted yet."""

    def note(self) -> None:
        """Record in the node's store the latest revision that was seen of the shared store."""

    # Blocks ---------------------------------------------------------------------------------

    def claim(
        self,
        member: Member,
        ids: Sequence[BlockId],
        claimed_ns: int,
        newest: Block | None,
        deadline: Deadline,
    ) -> Claimed:
        """Claim blocks that nobody owns. ``newest`` is the block that this node claimed last.

        Raises ClusterRefused when this node was removed meanwhile, and Unsettled.
        """

    def claim_again(self, member: Member, block: Block, deadline: Deadline) -> int:
        """Claim a lost block; return its revision, or 0 when another node owns it."""

    def taken(self, pool: Geometry, numbers: range, deadline: Deadline) -> frozenset[int]:
        """Return the blocks among these that some node owns. One read."""

    def owner(self, pair: BlockId, deadline: Deadline) -> BlockEntry | None:
        """Return the entry of a block's owner, or None when nobody owns the block. One read."""

    def assigned(self, deadline: Deadline) -> frozenset[BlockId]:
        """Return the blocks that were chosen for this node by others, such as its podCIDRs."""

    def release(self, block: Block, deadline: Deadline) -> None:
        """Make a block free if it is this node's. Retries until the outcome is known."""

    def report(
        self,
        uses: Sequence[tuple[Geometry, Use]],
        deadline: Deadline,
        routes: Condition | None = None,
    ) -> None:
        """Show operators how full this node's blocks are, and whether its routes are set.

        ``routes`` is None when fastipam sets no routes. Raises nothing; may do nothing.
        """

    # Need -----------------------------------------------------------------------------------

    def ask(self, member: Member, mark: Mark, deadline: Deadline, *, brief: bool = False) -> bool:
        """Ask the other nodes for blocks; return False if this node was removed meanwhile.

        ``brief``: the request expires soon, because without an agent it may never be withdrawn.
        """

    @property
    def awaits(self) -> bool:
        """Whether :meth:`granted` must be called although this process needs no block any more.

        The request may have been answered just before it was withdrawn, or an earlier process may
        have made it. Always false where donors answer and hand over in one transaction.
        """

    def unask(self, deadline: Deadline) -> None:
        """Withdraw the request. Idempotent."""

    def is_asked(self, deadline: Deadline) -> bool:
        """Return whether the request still waits for an answer."""

    def granted(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return the blocks that donors have handed to this node.

        The result may include other blocks that this node owns.
        """

    def collected(self, ids: Sequence[BlockId], deadline: Deadline) -> None:
        """End the request that was answered with these blocks, after they were activated."""

    def hand_over(
        self,
        request: Request,
        blocks: Sequence[Block],
        claimed_ns: int,
        deadline: Deadline,
    ) -> bool:
        """Answer a request with these blocks; return False if it was answered already.

        False means that nothing was changed. Raises Unsettled.
        """

    def follow_requests(self, requests: Requests, is_over: Callable[[], bool]) -> None:
        """Report the requests of all nodes until ``is_over``; for a thread of its own.

        Raises nothing: an exception would end the thread unnoticed, and this node would answer no
        request.
        """

    def threads(self, wake: Callable[[], object]) -> list[tuple[str, Follow]]:
        """Return (name, function) of each further thread that a keeper needs.

        A thread calls its function with ``is_over``, and ends when that returns true. It calls
        ``wake`` when the keeper has something to do.
        """

    def follow_blocks(self, owners: Owners, is_over: Callable[[], bool]) -> None:
        """Report the owners of all blocks until ``is_over``; for a thread of its own.

        Raises nothing: an exception would end the thread unnoticed.
        """

    # The whole cluster ----------------------------------------------------------------------

    def blocks(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return every owned block, in address order. O(blocks of all nodes)."""

    def nodes(self, deadline: Deadline) -> list[NodeRow]:
        """Return every node that ever registered."""

    def contradictions(
        self, entries: Mapping[BlockId, BlockEntry], deadline: Deadline
    ) -> list[tuple[str, BlockId, str]]:
        """Return (node, block, what is wrong) for each contradiction inside the store."""

    def layout(self, deadline_s: float) -> Layout:
        """Return the current input for the routes."""

    def changes(self, revision: int, wait_s: float) -> Iterator[tuple[bool, int]]:
        """Yield (whether the layout may have changed, the revision up to which that is known).

        Yields (False, revision) when nothing has changed for ``wait_s`` seconds.
        """

    def settings_text(self, deadline: Deadline) -> str | None:
        """Return the cluster's pools as the shared store has them, or None before they exist."""

    def found_cluster(self, deadline: Deadline) -> str | None:
        """Write the cluster's pools unless it has pools; return the earlier ones, or None."""

    def is_alive(self, name: str, deadline: Deadline) -> bool:
        """Return whether a node's sign of life exists."""

    def end(self, name: str, deadline: Deadline, *, force: bool) -> int | None:
        """Mark a node as removed; return its new epoch, or None when there is no such node.

        The node can claim nothing more, and notices this when it comes back. Idempotent. Raises
        ClusterRefused for a node that is alive, unless ``force``, and NoBlock.
        """

    def take_back(self, name: str, deadline: Deadline) -> int:
        """Make some blocks of a removed node free; return how many, 0 when none are left."""

    def problem(self, *, deadline_s: float) -> str:
        """Return a problem of the shared store that reads do not show, or ""."""

    def close(self) -> None:
        """Close all connections. Idempotent."""
