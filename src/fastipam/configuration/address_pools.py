"""The AddressPools of a cluster on the Kubernetes API, as a node uses them.

An AddressPool is in force once the controller has accepted it. The agent writes the pools in force
into the node's own store, and plugins read them there.
"""

from __future__ import annotations

import json

from fastipam.addressing.addresses import BITS, format_cidr, prefix_bounds
from fastipam.addressing.parsing import parse_exclusion
from fastipam.addressing.ranges import Range
from fastipam.configuration.selectors import Selector
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from typing import Any

    Hole = tuple[int, int, int]  # family, first, last address

NODE_CIDRS = "NodeCIDRs"  # a value of ``claims``: kube-controller-manager gives blocks to nodes
# The keys "gone", "elsewhere" and "deleting" are added to a pool's spec by fastipam, and no user
# can write them; see the fields of AddressPool.
_GONE = "gone"
MANUAL = "Manual"  # a value of ``assignment``: a pod gets an address only by naming the pool
_ELSEWHERE = "elsewhere"
DELETING = "deleting"
_KEPT = (
    "cidr", "blockSize", "gateway", "exclude", "disabled", "priority", "nodeSelector",
    "namespaceSelector", _ELSEWHERE, _GONE, DELETING,
)  # fmt: skip


class AddressPool:
    """A pool that is in force. Pools with the same name and spec compare equal.

    ``block_length`` is the prefix length of its blocks. The pool with the highest ``priority``
    comes first. The flags mean:

    - ``disabled``: no new address is assigned from the pool.
    - ``deleting``: it is disabled because it is being deleted.
    - ``claims_any``: nodes claim blocks; otherwise each uses the block that is its Node's podCIDR.
    - ``is_gone``: the pool is not in force any more, but this node still has blocks of it.
    - ``manual``: a pod gets an address of the pool only by naming it.
    - ``elsewhere``: ``node_selector`` does not select this node.
    """

    __slots__ = (
        "block_length", "claims_any", "deleting", "disabled", "elsewhere", "holes", "is_gone",
        "manual",
        "name", "namespace_selector", "node_selector", "priority", "range", "spec",
    )  # fmt: skip

    def __init__(self, name: str, spec: dict[str, Any]) -> None:
        """Read a pool; ``spec`` has the keys of AddressPool.spec. Raises ConfigError."""
        path = f"addresspool {name}: spec"
        self.name = name
        try:
            cidr, gateway = _text(spec, "cidr", path) or "", _text(spec, "gateway", path)
            self.range = Range.parse(cidr, None, None, gateway, field=path)
        except ConfigError as error:
            error.field = error.field.replace(f"{path}.subnet", f"{path}.cidr")
            raise
        length = spec.get("blockSize")
        if isinstance(length, bool) or not isinstance(length, int):
            raise ConfigError(
                f"{length!r} is not a prefix length", field=f"{path}.blockSize", value=length
            )
        self.block_length = length
        exclude = spec.get("exclude") or []
        if not isinstance(exclude, list):
            raise ConfigError(
                f"{exclude!r:.80} is not a list", field=f"{path}.exclude", value=exclude
            )
        self.holes: list[Hole] = [
            parse_exclusion(str(one), field=f"{path}.exclude[{at}]")
            for at, one in enumerate(exclude)
        ]
        self.disabled = bool(spec.get("disabled") or spec.get(DELETING))
        self.claims_any = spec.get("claims") != NODE_CIDRS
        self.is_gone = spec.get(_GONE) is True
        self.manual = spec.get("assignment") == MANUAL
        priority = spec.get("priority") or 0
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise ConfigError(
                f"{priority!r:.80} is not a number", field=f"{path}.priority", value=priority
            )
        self.priority = priority
        self.node_selector = Selector(spec.get("nodeSelector"), f"{path}.nodeSelector")
        self.namespace_selector = Selector(
            spec.get("namespaceSelector"), f"{path}.namespaceSelector"
        )
        self.elsewhere = bool(spec.get(_ELSEWHERE))
        self.deleting = bool(spec.get(DELETING))
        self.spec = {key: spec[key] for key in _KEPT if spec.get(key)}
        if not self.claims_any:
            self.spec["claims"] = NODE_CIDRS
        if self.manual:
            self.spec["assignment"] = MANUAL

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AddressPool) and (self.name, self.spec) == (other.name, other.spec)

    def __hash__(self) -> int:
        return hash(self.name)

    def overlaps(self, other: AddressPool) -> bool:
        """Return whether the two pools have an address in common."""
        (family, first, last), (theirs, low, high) = self.whole(), other.whole()
        return family == theirs and first <= high and low <= last

    def gone(self) -> AddressPool:
        """Return a copy that is marked as gone: nothing is assigned or claimed from it."""
        return AddressPool(self.name, {**self.spec, "disabled": True, _GONE: True})

    @property
    def family(self) -> int:
        """The address family: 4 or 6."""
        return self.range.family

    @property
    def is_single(self) -> bool:
        """Whether each address is a block of its own, assigned only on request, on any node."""
        return self.block_length == BITS[self.range.family]

    @property
    def is_closed(self) -> bool:
        """Whether no new address of the pool is assigned on this node."""
        return self.disabled or self.elsewhere

    def for_node(self, labels: Mapping[str, str]) -> AddressPool:
        """Return the pool with ``elsewhere`` set for a node with these labels."""
        if self.elsewhere is not self.node_selector.matches(labels):
            return self
        spec = {key: value for key, value in self.spec.items() if key != _ELSEWHERE}
        return AddressPool(self.name, spec if self.elsewhere else spec | {_ELSEWHERE: True})

    @property
    def cidr(self) -> str:
        """The pool's addresses as a CIDR."""
        return format_cidr(self.range.family, self.range.network, self.range.length)

    def whole(self) -> Hole:
        """Return the pool's addresses as (family, first, last)."""
        family, network, length = self.range.family, self.range.network, self.range.length
        return (family, *prefix_bounds(family, network, length))


def pack(pools: Iterable[AddressPool]) -> str:
    """Return the pools as a text for :func:`read`. The text does not depend on their order."""
    listed: Any = sorted(([one.name, one.spec] for one in pools), key=repr)
    by_name = dict(listed)
    if len(by_name) == len(listed):  # otherwise a pool that is gone has the name of another one
        listed = by_name
    return json.dumps(listed, sort_keys=True, separators=(",", ":"))


def read(text: str) -> list[AddressPool]:
    """Return the pools that :func:`pack` has written. Raises ConfigError, ValueError."""
    found = json.loads(text)
    pairs = found.items() if isinstance(found, dict) else found
    return [AddressPool(name, spec) for name, spec in pairs]


def gone(
    noted: Sequence[AddressPool], mine: Collection[tuple[int, int]], pools: Sequence[AddressPool]
) -> list[AddressPool]:
    """Return the pools that are not in force any more, but of which this node has blocks.

    ``noted`` are the pools that the node has stored, ``mine`` its blocks (family, first address),
    and ``pools`` the pools in force.
    """
    wholes = [(one.block_length, *one.whole()) for one in pools]
    found = []
    for one in noted:
        length, (family, first, last) = one.block_length, one.whole()
        if not any(
            (length, family) == (theirs, its_family) and low <= first and last <= high
            for theirs, its_family, low, high in wholes
        ) and any(family == theirs and first <= base <= last for theirs, base in mine):
            found.append(one.gone())
    return found


def beside(
    gone: Sequence[AddressPool], noted: Sequence[AddressPool], pools: Sequence[AddressPool]
) -> list[AddressPool]:
    """Return the pools that do not overlap those that are gone.

    A pool that does overlap one is replaced by its stored version, or left out if that overlaps
    too.
    """
    before = {one.name: one for one in noted if not one.is_gone}
    found = []
    for one in pools:
        for each in (one, before.get(one.name)):
            if each is not None and not any(map(each.overlaps, gone)):
                found.append(each)
                break
    return found


def _text(spec: dict[str, Any], key: str, path: str) -> str | None:
    value = spec.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{value!r:.80} is not a string", field=f"{path}.{key}", value=value)
    return value
