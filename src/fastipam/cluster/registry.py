"""The interface of a cluster's shared store, as a node uses it: who owns which block.

``registries/`` holds what implements it: ``keyvalue`` on an :class:`Engine` (etcd), with
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
    # Whether it is so; the cause as one word, and for people.
    Condition: TypeAlias = tuple[bool, str, str]
else:
    Protocol = object


class Unsettled(Exception):
    """A change was requested, and its outcome is unknown because of ``error``."""

    def __init__(self, error: FastipamError) -> None:
        super().__init__(str(error))
        self.error = error


class Counts:
    """Counters of a node since the object was made; all but two count blocks.

    ``transactions`` were sent for claims, at ``conflicts`` of them another node was faster.
    """

    __slots__ = ("claims", "conflicts", "donated", "granted", "released", "transactions")

    def __init__(self) -> None:
        self.claims = self.conflicts = self.donated = 0
        self.granted = self.released = self.transactions = 0


class Claimed:
    """The answer to a claim.

    ``won`` has the revision of each block that is this node's now, ``taken`` the blocks that other
    nodes own. A key-value store gives all blocks of a claim or none.
    """

    __slots__ = ("taken", "won")

    def __init__(self, won: dict[BlockId, int], taken: Sequence[BlockId] = ()) -> None:
        self.won = won
        self.taken = taken


class Request:
    """The request of a node in need, as another node has read it.

    ``revision`` is that of the request in the shared store, ``uid`` the store's own name for it, if
    it has one: who answers names both, so that one request is answered once.
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
    """A node as the shared store lists it; ``alive``: its sign of life is there."""

    __slots__ = ("alive", "entry", "name", "needy")

    def __init__(self, name: str, entry: NodeEntry, *, alive: bool, needy: bool) -> None:
        self.name = name
        self.entry = entry
        self.alive = alive
        self.needy = needy


class Layout:
    """Who owns which block, and the nodes' addresses: the input for routes.

    ``addresses`` are those of each node. ``blocks`` names the owner of each block, and
    ``revision`` is where :meth:`Registry.changes` goes on.
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
    """Receives the requests of other nodes. ``wake`` is called when the keeper has to act."""

    wake: Callable[[], object]

    def see(self, request: Request) -> None:
        """A request waits for an answer."""

    def forget(self, needy: str) -> None:
        """The request of that node is gone, or answered."""

    def replace(self, listed: Sequence[Request]) -> None:
        """These are all requests that there are."""


class Owners(Protocol):
    """Receives the owners of all blocks, and the addresses of these nodes."""

    def see(self, pair: BlockId, length: int, entry: BlockEntry) -> None:
        """A block with this prefix length has this owner, perhaps with addresses in the entry."""

    def see_node(self, name: str, addresses: Sequence[str]) -> None:
        """A node has these addresses. They count for blocks that say none themselves."""

    def forget(self, pair: BlockId, *, certain: bool) -> None:
        """A block has no owner. Not ``certain``: it is missing in a list, but no event said so."""

    def complete(self) -> None:
        """The whole state has been reported, and the shared store is reached."""

    def reached(self) -> None:
        """The shared store is reached, and reports every change from now on."""

    def lost(self) -> None:
        """The shared store is not reached; the reported state may be out of date."""


class Registry(Protocol):
    """A cluster's shared store, for one node. Use it only while :class:`NodeLock` is held.

    What only reads, the methods that follow, and :meth:`threads` need no lock, and may run in other
    threads.
    """

    history: History
    counts: Counts
    store_name: str  # "etcd" or "the Kubernetes API", for messages
    keep_every_s: float  # how often :meth:`keep` is due
    most_given: int  # blocks with which one request can be answered
    operation_s: float  # for what a keeper does in one step
    call_s: float  # for one call of it
    has_signs: bool  # whether agents give a sign of life
    alive_text: str  # how a node shows that it is alive, as the end of a sentence
    alive_hint: str  # what ends that, for messages

    # This node ------------------------------------------------------------------------------

    def remember(self) -> None:
        """Compare each later answer with the state that this node knew earlier. No request."""

    def register(self, member: Member, deadline: Deadline, *, agent: bool, sign: bool) -> bool:
        """Write this node's entry; set the member's epoch and revision; return whether it is new.

        With ``sign`` a new node gives its sign of life with it. A new node owns nothing.
        Idempotent. Raises ClusterRefused: other settings, or another live node of this name.
        """

    def addresses(self) -> tuple[str, ...]:
        """Return the addresses at which other nodes reach this one; may ask a name server."""

    def pools(self, deadline: Deadline) -> list[AddressPool] | None:
        """Return the pools that are in force, None when the node's own settings have them."""

    def namespace(self, name: str, deadline: Deadline) -> Namespace:
        """Return the labels and annotations of a namespace; empty without Kubernetes."""

    def check_settings(self, deadline: Deadline) -> None:
        """Raise ClusterRefused unless this node's settings equal the cluster's."""

    def read_era(self, is_new: bool, deadline: Deadline) -> tuple[str | None, bool]:
        """Return the era (None: not read), and whether other nodes have noticed lost changes since.

        ``is_new``: this node has just registered for the first time, and has nothing to lose.
        """

    def heard(self, era: str | None) -> Heard:
        """Return the state of the shared store that this node knows, to be stored."""

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
        """When the sign of life was last known to exist: a time of this boot."""

    def let_go(self, deadline: Deadline) -> None:
        """Forget that the sign of life is kept, because it may not be this node's any more."""

    # Lost changes ---------------------------------------------------------------------------

    def look(self, deadline: Deadline) -> None:
        """Check whether changes were lost, if there is a reason to suspect it."""

    def hold_back(self, deadline: Deadline) -> None:
        """Accept a store that has lost changes, and tell other nodes. Idempotent."""

    def learn_history(self, deadline: Deadline) -> None:
        """Read whether other nodes have noticed a loss, unless this node knows it already."""

    @property
    def has_lost_changes(self) -> bool:
        """Whether a loss was noticed that :meth:`hold_back` has not accepted yet."""

    def note(self) -> None:
        """Store the latest revision of the shared store in the node's own store."""

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
        """Return who owns a block now, None when nobody does. One read."""

    def assigned(self, deadline: Deadline) -> frozenset[BlockId]:
        """Return the blocks that somebody else chooses for this node, such as its podCIDRs."""

    def release(self, block: Block, deadline: Deadline) -> None:
        """Make a block free if it is this node's. Asks until the outcome is known."""

    def report(
        self,
        uses: Sequence[tuple[Geometry, Use]],
        deadline: Deadline,
        routes: Condition | None = None,
    ) -> None:
        """Report how full this node's blocks are, and whether its routes are set, for people.

        ``routes`` is None when fastipam sets none. Raises nothing; may do nothing.
        """

    # Need -----------------------------------------------------------------------------------

    def ask(self, member: Member, mark: Mark, deadline: Deadline, *, brief: bool = False) -> bool:
        """Ask the other nodes for blocks; return False if this node was removed meanwhile.

        ``brief``: the request ends by itself soon, because no agent stands behind it.
        """

    @property
    def awaits(self) -> bool:
        """Whether :meth:`granted` must be called although this process needs no block any more.

        A request may be answered in the instant in which it is withdrawn, or be an earlier
        process's. Always false where donors answer and hand over in one transaction.
        """

    def unask(self, deadline: Deadline) -> None:
        """Withdraw the request. Idempotent."""

    def is_asked(self, deadline: Deadline) -> bool:
        """Return whether the request still waits for an answer."""

    def granted(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return this node's blocks in the shared store, with those that a donor has just given."""

    def collected(self, ids: Sequence[BlockId], deadline: Deadline) -> None:
        """End the request that these blocks have answered, after they are in use."""

    def hand_over(
        self,
        request: Request,
        blocks: Sequence[Block],
        claimed_ns: int,
        deadline: Deadline,
    ) -> bool:
        """Answer a request with these blocks; return False, and change nothing, if it is answered.

        Raises Unsettled.
        """

    def follow_requests(self, requests: Requests, is_over: Callable[[], bool]) -> None:
        """Report the requests of all nodes until ``is_over``; for a thread of its own.

        Raises nothing: an exception would end the thread unnoticed, and this node would answer no
        request.
        """

    def threads(self, wake: Callable[[], object]) -> list[tuple[str, Follow]]:
        """Return (name, function) of the threads that a keeper needs, until ``is_over``.

        ``wake`` is called when the keeper has to look at something.
        """

    def follow_blocks(self, owners: Owners, is_over: Callable[[], bool]) -> None:
        """Report the owners of all blocks until ``is_over``; for a thread of its own.

        Raises nothing: an exception would end the thread unnoticed.
        """

    # Everybody ------------------------------------------------------------------------------

    def blocks(self, deadline: Deadline) -> dict[BlockId, BlockEntry]:
        """Return every owned block, in address order. O(blocks of all)."""

    def nodes(self, deadline: Deadline) -> list[NodeRow]:
        """Return every node that ever registered."""

    def contradictions(
        self, entries: Mapping[BlockId, BlockEntry], deadline: Deadline
    ) -> list[tuple[str, BlockId, str]]:
        """Return (node, block, what is wrong) for each contradiction inside the store."""

    def layout(self, deadline_s: float) -> Layout:
        """Return the current input for the routes."""

    def changes(self, revision: int, wait_s: float) -> Iterator[tuple[bool, int]]:
        """Yield whether the layout may have changed, with the revision so far.

        Yields (False, revision) when nothing has changed for ``wait_s`` seconds.
        """

    def settings_text(self, deadline: Deadline) -> str | None:
        """Return the cluster's pools as the shared store has them, None before there are any."""

    def found_cluster(self, deadline: Deadline) -> str | None:
        """Write the cluster's pools if there are none; return what was there before, or None."""

    def is_alive(self, name: str, deadline: Deadline) -> bool:
        """Return whether a node's sign of life exists."""

    def end(self, name: str, deadline: Deadline, *, force: bool) -> int | None:
        """Mark a node as removed; return its new epoch, or None when there is no such node.

        The node can claim nothing more, and notices this when it comes back. Idempotent. Raises
        ClusterRefused for a node that is alive, unless ``force``; NoBlock.
        """

    def take_back(self, name: str, deadline: Deadline) -> int:
        """Make some blocks of a removed node free; return how many, 0 when none are left."""

    def problem(self, *, deadline_s: float) -> str:
        """Return what is wrong with a store that answers reads, or an empty text."""

    def close(self) -> None:
        """Close all connections. Idempotent."""
