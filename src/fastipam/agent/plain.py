"""Prepare a configuration for native code, after Python has served its first request.

Native code serves the plain case: an ADD or a DEL that asks for nothing but an address of each
range set (``src/_serve.pxi``). Whatever is the same for every call is computed once for each
configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam import _ledger, takeover
from fastipam._ledger import Plain, Results, without_result
from fastipam.agent.requests import Answer
from fastipam.cni.environment import ADD, DEL
from fastipam.cni.error_codes import clean
from fastipam.cni.handler import Known, is_of_cluster
from fastipam.storage import open_stores

if TYPE_CHECKING:
    from fastipam._ledger import Accounts
    from fastipam.addressing.ranges import Pool
    from fastipam.cni.results import Answers
    from fastipam.cni.services import Services
    from fastipam.configuration.network import Version

    Reach = tuple[int, int, int, bytes]

# Configurations with more sets or ranges are left to Python.
_MOST_SETS = 8
_MOST_RANGES = 64  # of all sets together: a text is prepared for each range
_OLD = (0, 3, 0)  # results of CNI versions before this one have the IPv4 address first


def learn(services: Services, stdin: bytes, command: str) -> None:
    """Prepare a configuration for the command of the request just served.

    O(ranges) once for each configuration, then O(1).
    """
    if command == DEL:
        stdin = without_result(stdin)
    known: Known | None = services.known.get(stdin)
    if known is None:
        return
    if command == ADD:
        kept = known.networks.get(True)
        if kept is not None and (known.adds is None or known.adds.network is not kept[1]):
            known.adds = _additions(known)
    elif command == DEL and False in known.networks:
        known.deletes = _deletions(known)


def _additions(known: Known) -> Plain | None:
    config, answers = known.config, known.answers
    network = known.networks[True][1]
    if config is None or answers is None:  # the request was refused
        return None
    where = config.data_dir, config.durability, True
    sets = config.pool.sets
    if (
        config.cluster is not None
        or config.resolv_conf
        or config.policy.sticky_s
        or not config.remember
        or not known.asks_nothing
        or len(sets) > _MOST_SETS
        or sum(len(each.ranges) for each in sets) > _MOST_RANGES
    ):
        return Plain(network, where, is_plain=False)
    messages = "".join(f"fastipam: {clean(note)}\n" for note in config.notes)
    return Plain(
        network,
        where,
        results=results_of(config.version, config.pool, answers),
        messages=messages.encode("utf-8", "backslashreplace"),
    )


def results_of(version: Version, pool: Pool, answers: Answers) -> Results:
    """Return the prepared results of a configuration: the JSON texts around the addresses."""
    sets = pool.sets
    order = list(range(len(sets)))
    if version < _OLD:
        order.sort(key=lambda at: sets[at].family)
    usual = [(each.family, each.ranges[0].gateway) for each in sets]
    head = answers.around(usual)[0].encode()
    listed: list[tuple[int, int, list[Reach]]] = []
    for at, each in enumerate(sets):
        place = order.index(at)
        reaches: list[Reach] = []
        for one in each.ranges:
            gateways = [*usual[:at], (each.family, one.gateway), *usual[at + 1 :]]
            behind = answers.around(gateways)[place + 1].encode()
            reaches.append((one.start, one.end, one.length, behind))
        listed.append((each.family, place, reaches))
    return Results(head, listed)


def _deletions(known: Known) -> Plain | None:
    location = known.location
    network = known.networks[False][1]
    if location is None or DEL not in known.versions:
        return None
    if is_of_cluster(known.document) and takeover.has_leases(location.name, location.data_dir):
        return None  # Python has to delete the container's file of host-local too
    where = location.data_dir, location.durability, False
    return Plain(network, where, released=Answer(0, b"", b""))


def enter(plain: Plain) -> Accounts | None:
    """Have the store of a configuration join the batch, and return its network's records.

    Return None when native code cannot serve a call in this store. Raises the store's errors.
    """
    data_dir, durability, create = plain.where
    store = open_stores.get(data_dir, durability, create=create)
    network = plain.network
    if store is not network.store:  # the store was replaced since
        return None
    txn = store.local.transaction
    enter_network = _ledger.enter_to_assign if create else _ledger.enter
    return enter_network(txn, network)
