"""The yardstick of the socket: the puts and deletes of the agent, in a Python loop on py-lmdb.

A durable commit has 64 assignments, the next one 64 releases, with keys and values of the sizes
that ``storage/records`` makes, in the same databases. There are no reads, no search, no checks and
no protocol, so no program in Python on py-lmdb can be faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lmdb

from bench.agent.clients import NETNS, POD
from bench.stores import IFNAME, NETWORK, SUBNET
from fastipam.storage.records import event as event_record
from fastipam.storage.records import keys as records_keys
from fastipam.storage.records import lease as lease_record
from fastipam.storage.records.network_state import NetworkState

if TYPE_CHECKING:
    from pathlib import Path

TOGETHER = 64
_DATABASES = ("networks", "states", "pages", "leases", "owners", "events")
_FIRST = 0x0A200001
_NETWORK_ID = 1
_PAGE = bytes(512)


class Yardstick:
    """A store in ``path`` with the layout of fastipam. A run makes ``batches`` pairs of commits.

    A commit has ``together`` assignments or releases.
    """

    def __init__(self, path: Path, batches: int, together: int = TOGETHER) -> None:
        path.mkdir()
        self._env = lmdb.open(str(path), map_size=64 << 30, max_dbs=32, max_readers=1022)
        self._db = {name: self._env.open_db(name.encode()) for name in _DATABASES}
        self._batches = batches
        self._number = 0
        self._event = 0
        self._prefix = records_keys.network_prefix(_NETWORK_ID)
        self._owners = []
        for place in range(together):
            container = f"c{place:063x}"
            name = records_keys.owner_name(container, IFNAME)
            lease = lease_record.Record(
                *(lease_record.ASSIGNED, 12, 0, 1, 1, 1, 0, 1, 1, 0, 1),
                *(container, IFNAME, NETNS, *POD),
            )
            event = event_record.pack_event(
                1, event_record.ASSIGNED, 1, (4, _FIRST), lease_record.texts_of(lease.pack())
            )
            self._owners.append((records_keys.owner_key(self._prefix, name), lease.pack(), event))
        state = NetworkState(_NETWORK_ID, None)
        state.move_cursor(0, 4, _FIRST)
        self._state = state.pack()
        with self._env.begin(write=True) as txn:
            pool = self._prefix + f"{SUBNET} 10.32.0.1 10.47.255.254 10.32.0.1".encode()
            txn.put(NETWORK.encode(), pool, db=self._db["networks"])

    @property
    def requests(self) -> int:
        """The number of assignments and releases of a run."""
        return 2 * len(self._owners) * self._batches

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def run(self) -> None:
        """Assign and release, ``together`` at a time."""
        pages, leases, owners, states, events = (
            self._db[name] for name in ("pages", "leases", "owners", "states", "events")
        )
        for _ in range(self._batches):
            keys = []
            with self._env.begin(write=True) as txn:
                for owner, lease, event in self._owners:
                    address = _FIRST + (self._number & 0xFFFFF)
                    self._number += 1
                    lease_key = records_keys.address_key(_NETWORK_ID, 4, address)
                    page_key = self._page_key(address)
                    keys.append((owner, lease_key, page_key, event))
                    txn.put(self._event_key(), event, db=events)
                    txn.put(page_key, _PAGE, db=pages)
                    txn.put(lease_key, lease, db=leases)
                    txn.put(owner, lease_key[4:], db=owners)
                    txn.put(self._prefix, self._state, db=states)
            with self._env.begin(write=True) as txn:
                for owner, lease_key, page_key, event in keys:
                    txn.put(self._event_key(), event, db=events)
                    txn.delete(lease_key, db=leases)
                    txn.put(page_key, _PAGE, db=pages)
                    txn.delete(owner, db=owners)
                    txn.put(self._prefix, self._state, db=states)

    def _event_key(self) -> bytes:
        self._event += 1
        return event_record.event_key(_NETWORK_ID, self._event)

    def _page_key(self, address: int) -> bytes:
        prefix = records_keys.family_prefix(_NETWORK_ID, 4)
        return prefix + b"\0" + (address >> 12).to_bytes(records_keys.page_index_bytes(4), "big")
