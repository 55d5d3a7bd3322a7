"""A node as a process of its own: ``python chaos_node.py STORE NODE HISTORY STOP ADD_S SETTINGS``.

It keeps its share as an agent does, starts and stops pods at random, and writes a history: one line
an answer, with the moment (CLOCK_MONOTONIC, one for all processes of the machine). It may be killed
at any instruction, and ends when the file STOP is there. An ADD that finds no address asks again
for ADD_S seconds. Where a pool has blocks of one address, some ADDs request one of them, which all
nodes want. What is written, and when:

``has A``   after the assignment is committed; after a start for all that the store has
``gone A``  before the release is begun
``none``    an ADD found no address in time
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import time
from typing import TYPE_CHECKING

from fastipam.addressing.addresses import format_ip, parse_ip
from fastipam.cluster.keeper.keeper import Keeper
from fastipam.cluster.node.share import Share
from fastipam.cluster.registries.connect import open_registry
from fastipam.cni.founding import complete
from fastipam.configuration.cluster import Settings
from fastipam.configuration.policy import Policy
from fastipam.errors import AddressInUse, AddressNotInRange, PoolExhausted
from fastipam.network import Network
from fastipam.storage import open_stores

if TYPE_CHECKING:
    from typing import Any

    from fastipam.storage.store import Store

PODS = 40  # at most at a time
FOR_A_NAME_S = 1.0  # how long an ADD asks for an address that somebody has


class History:
    """Lines of a file that survive SIGKILL: each is one write."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(self, what: str, address: str = "-", more: str = "") -> None:
        """One line, now."""
        line = f"{time.monotonic_ns()} {what} {address} {more}\n"
        os.write(self._file, line.encode())


def network_of(store: Store, settings: Settings) -> Network:
    """The network with the pools of these settings; addresses are free at once."""
    return Network(store, "podnet", settings.pool, policy=Policy(cooldown_s=0))


def by_name(settings: Settings, chance: random.Random) -> list[str]:
    """Now and then one of the addresses that are blocks, which all nodes want; else none."""
    single = [one for one in settings.geometries if one.is_single]
    if not single or chance.random() > 0.2:
        return []
    (pool,) = single
    numbers = [one for one in range(pool.count) if one not in pool.unusable]
    return [format_ip(pool.family, pool.address(chance.choice(numbers[:6])))]


def main(
    path: str, name: str, history_path: str, stop: str, add_s: float, document: dict[str, Any]
) -> None:
    """Live until the end."""
    settings = Settings({key.casefold(): value for key, value in document.items()} | {"node": name})
    store = open_stores.get(path, "relaxed")
    if settings.is_founded_by_agent:
        settings = complete(settings, "podnet", path, is_named=True)
    network = network_of(store, settings)
    history = History(history_path)
    running: dict[str, str] = {}
    for lease in network.leases():
        running[lease.container_id] = lease.cidr.partition("/")[0]
        history.say("has", lease.cidr.partition("/")[0], "kept")
    share = Share(store, network, settings)
    keeper = Keeper(share, open_registry, directories=())
    keeper.start()
    chance = random.Random(f"{name} {os.getpid()}")
    numbers = itertools.count()
    while not os.path.exists(stop):
        if len(running) < PODS and chance.random() < 0.6:
            container = f"{os.getpid()}-{next(numbers)}"
            begin = time.monotonic()
            wanted = by_name(settings, chance)
            while True:
                if share.settings is not settings:  # other pools are in force
                    settings = share.settings
                    network = network_of(store, settings)
                try:
                    if not settings.pool.sets:  # no pool is known yet
                        raise PoolExhausted("no pool")
                    lease = network.allocate(container, addresses=wanted)
                    address = lease.cidr.partition("/")[0]
                except (AddressInUse, AddressNotInRange):  # a pod here has it, or another node
                    keeper.want(container, [parse_ip(one) for one in wanted])
                    if time.monotonic() - begin > FOR_A_NAME_S:
                        break
                    time.sleep(0.02)
                except PoolExhausted:
                    keeper.need(container)
                    if time.monotonic() - begin > add_s:
                        history.say("none", more=keeper.status.reason.replace(" ", "_"))
                        break
                    time.sleep(0.02)
                else:
                    waited_ms = 1000 * (time.monotonic() - begin)
                    history.say("has", address, f"{waited_ms:.1f}")
                    running[container] = address
                    break
        elif running:
            # Now and then all at once, so that blocks become free and move.
            count = len(running) if chance.random() < 0.02 else 1
            for container in chance.sample(sorted(running), count):
                history.say("gone", running.pop(container))
                network.release(container)
        time.sleep(0.005)
    counts = keeper.status.counts
    keeper.stop()
    more = f"claims={counts.claims},donated={counts.donated},released={counts.released}"
    history.say("end", more=more)
    store.close()


if __name__ == "__main__":
    store_path, node_name, history_file, stop_file, patience_s, text = sys.argv[1:]
    main(store_path, node_name, history_file, stop_file, float(patience_s), json.loads(text))
