"""Changes that the shared store has lost: how a node notices them, and tells the other nodes.

A shared store that was restored from an older copy lists blocks as free that nodes are using. A
node that has received later answers notices this by the store's next answer (``engine.History``).
The node then writes the key ``restored``: while that key exists, no node claims a block that it did
not have before. In the same transaction the node writes the key ``history``, whose value is the
*era*. Every claim names the era that its node knows. So the claim of a node that has noticed
nothing fails, and this node compares its blocks, too, before it claims another one.
"""

from __future__ import annotations

import os

from fastipam.cluster import schema
from fastipam.cluster.engine import Compare, Put
from fastipam.cluster.errors import store_restored
from fastipam.storage.records.block import Heard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastipam.cluster.deadline import Deadline
    from fastipam.cluster.engine import Engine, KeyValue
    from fastipam.cluster.node.share import Share
    from fastipam.storage.records.block import Block

# After a loss no node claims new blocks for a session's length and these seconds: an agent that was
# cut off tries again after ten seconds at most.
_NOTICED_S = 10


class Losses:
    """What this node knows of the shared store's history."""

    __slots__ = ("_engine", "_keys", "_share")

    def __init__(self, share: Share, engine: Engine, keys: schema.Keys) -> None:
        self._share = share
        self._engine = engine
        self._keys = keys

    def remember(self) -> None:
        """Compare each later answer with the state that this node has stored. No request."""
        if not self._engine.history.revision:
            heard = self._share.heard()
            self._engine.history.expect(heard.identity, heard.revision)

    def heard(self, era: str | None) -> Heard:
        """Return the state of the shared store that the node knows now, to be stored."""
        history = self._engine.history
        return Heard(history.identity, history.revision, era)

    def note(self) -> None:
        """Record in the node's store the latest revision that was seen of the shared store."""
        history = self._engine.history
        self._share.note_heard(history.identity, history.revision)

    def knows_era(self) -> bool:
        """Return whether this node has read the era; a new node claims a block before that."""
        return self._share.heard().era is not None

    def read_era(self, deadline: Deadline) -> str:
        """Return the era, "" before the first loss. One read."""
        stored = self._engine.get(self._keys.history, deadline_s=deadline.call_s())
        return "" if stored is None else stored.value.decode("utf-8", "replace")

    def learn_era(self, deadline: Deadline) -> None:
        """Read the era, and store it in the node's own store. One read."""
        self._share.note_era(self.read_era(deadline))

    def hold_back(self, deadline: Deadline) -> None:
        """Stop all nodes from claiming new blocks for a while, because changes were lost.

        Meanwhile every node notices the loss, and claims its blocks again. Idempotent.
        """
        self._engine.history.accept()
        seconds = self._share.settings.session_s + _NOTICED_S
        session = self._engine.open_session(seconds, deadline_s=deadline.call_s())
        self._engine.transact(
            [self.nobody_holds_back()],
            [
                Put(self._keys.restored, schema.pack(node=self._share.settings.node), session),
                Put(self._keys.history, os.urandom(8).hex().encode()),
            ],
            deadline_s=deadline.call_s(),
        )

    def nobody_holds_back(self) -> Compare:
        """Return the transaction's condition under which new blocks may be claimed."""
        return Compare(self._keys.restored, "absent")

    def conditions(self, newest: Block | None) -> list[Compare]:
        """Return the conditions of a claim; ``newest`` is the block that the node claimed last."""
        found = [self.nobody_holds_back()]
        era = self._share.heard().era
        if era:
            found.append(Compare(self._keys.history, "value", era.encode()))
        elif era is not None:
            found.append(Compare(self._keys.history, "absent"))
        if newest is not None and newest.revision:
            key = self._keys.block(newest.family, newest.base)
            found.append(Compare(key, "mod_revision", newest.revision))
        return found

    def check(self, existing: Mapping[bytes, KeyValue], newest: Block | None) -> None:
        """Raise NoBlock or HistoryLost if one of the :meth:`conditions` made a claim fail."""
        if self._keys.restored in existing:
            raise store_restored()
        era = self._share.heard().era
        stored = existing.get(self._keys.history)
        if era is not None and (b"" if stored is None else stored.value) != era.encode():
            self._engine.history.lose(
                "the cluster's store has lost changes: another node reported it"
            )
        if newest is not None and newest.revision:
            claimed = existing.get(self._keys.block(newest.family, newest.base))
            if claimed is None or claimed.mod_revision != newest.revision:
                self._engine.history.lose("the store does not have this node's last claim")
