"""Refuse ranges whose gateway is assigned, because two interfaces would have one address.

Imported when the ranges of a network change, and by STATUS.
"""

from __future__ import annotations

from fastipam.addressing.addresses import format_cidr, format_ip
from fastipam.allocation.lookup import read_record
from fastipam.errors import ConfigError
from fastipam.storage.records.lease import ASSIGNED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.addressing.ranges import Pool
    from fastipam.storage.transaction import Snapshot, Transaction


def require_free(txn: Transaction | Snapshot, pool_id: int, pool: Pool) -> None:
    """Raise ConfigError (field ``ranges[i][j].gateway``) when a gateway has a lease.

    A lease of an earlier boot does not count. O(ranges).
    """
    for which, range_set in enumerate(pool.sets):
        for at, each in enumerate(range_set.ranges):
            if each.gateway is None or each.gateway[0] != each.family:
                continue
            record = read_record(txn, pool_id, *each.gateway)
            if record is None or record.state != ASSIGNED or record.boot != txn.store.boot:
                continue
            text = format_ip(*each.gateway)
            subnet = format_cidr(each.family, each.network, each.length)
            owner = f"{record.container_id} {record.ifname}".rstrip()
            raise ConfigError(
                f"the gateway {text} of {subnet} is assigned to {owner}",
                field=f"ranges[{which}][{at}].gateway",
                value=text,
                hint="use another gateway, or release the address first: "
                f"`fastipam release {text}`",
            )
