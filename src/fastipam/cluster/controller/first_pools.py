"""The first pools of a cluster: the controller creates the pools of a file that do not exist.

A pool that exists is not changed, whatever the file says: people change pools with kubectl.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastipam.cluster.controller import overlap, pool_rules
from fastipam.cluster.registries.kubernetes import objects
from fastipam.cluster.registries.kubernetes.client import AlreadyExists
from fastipam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fastipam.cluster.controller.guard import Guard
    from fastipam.cluster.controller.view import View
    from fastipam.cluster.registries.kubernetes.client import Client

_FIELD = "--pools"
_CALL_S = 5.0


class FirstPools:
    """Creates each pool once per process, unless a pool of that name exists."""

    def __init__(
        self,
        client: Client,
        view: View,
        guard: Guard,
        pools: Sequence[dict[str, Any]],
        *,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._view = view
        self._guard = guard
        self._step = step
        self._left = {objects.name_of(one): one for one in pools}

    def work(self) -> None:
        """Create the pools that are absent; one request each. Raises ApiFails."""
        known = self._view.pools() if self._left else {}
        for name in list(self._left):
            if name in known or self._guard.run(f"pool {name}", self._make, name):
                del self._left[name]

    def _make(self, name: str) -> None:
        with suppress(AlreadyExists):
            self._client.create(objects.POOLS, self._left[name], deadline_s=_CALL_S)
            self._step("made")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the AddressPools in a JSON file, which is a List as kubectl writes it.

    Raises ConfigError for the first pool that the API server or this controller would refuse. The
    pools that the cluster already has are not considered.
    """
    try:
        items = json.loads(path.read_bytes())["items"]
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise _wrong(path, 'is not a JSON object with "items"') from None
    pools: list[dict[str, Any]] = []
    for at, item in enumerate(items if isinstance(items, list) else [items]):
        try:
            name, spec = item["metadata"]["name"], item["spec"]
        except (KeyError, TypeError):
            name = spec = None
        if not (name and isinstance(spec, dict)):
            raise _wrong(path, f"has no metadata.name or no spec in items[{at}]")
        where = f"{_FIELD} {path}: items[{at}]"
        pool_rules.check(name, spec, where)
        body = {"apiVersion": objects.VERSION, "kind": "AddressPool"}
        one = {**body, "metadata": {"name": name}, "spec": spec}
        _check_beside(one, pools, where)
        pools.append(one)
    return pools


def _check_beside(pool: dict[str, Any], before: list[dict[str, Any]], where: str) -> None:
    """Raise ConfigError when a pool cannot be in force by itself or beside those before it."""
    name = objects.name_of(pool)
    if any(objects.name_of(other) == name for other in before):
        raise ConfigError(
            f"two pools have the name {name}",
            field=f"{where}.metadata.name",
            value=name,
            hint="give each pool a name of its own",
        )
    refusal = overlap.own_fault(pool)
    for other in before:
        refusal = refusal or overlap.conflict(overlap.wanted(pool), other, other["spec"])
    if refusal is not None:
        raise ConfigError(f"the pool {name}: {refusal.message}", field=where, value=name)


def _wrong(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"the file of pools {path} {what}",
        field=_FIELD,
        value=str(path),
        hint="write it as `kubectl get addresspools -o json` prints pools",
    )
