"""The pools of a cluster whose store is the Kubernetes API, as a node uses them.

An AddressPool is in force once the controller has accepted it. The agent notes what is in force in
the node's own store, and plugins read it there.
"""

from __future__ import annotations

import json

from fastipam.addressing.addresses import BITS, format_cidr, prefix_bounds
from fastipam.addressing.parsing import parse_exclusion
from fastipam.addressing.ranges import Range
from fastipam.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Hole = tuple[int, int, int]  # family, first, last address

NODE_CIDRS = "NodeCIDRs"  # of ``claims``: kube-controller-manager gives the blocks to nodes


class AddressPool:
    """A pool that is in force; a value.

    ``block_length`` is the prefix length of its blocks. ``disabled``: no new address comes from it.
    ``claims_any``: nodes claim blocks; else each uses the block that is its Node's podCIDR.
    """

    __slots__ = ("block_length", "claims_any", "disabled", "holes", "name", "range", "spec")

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
        self.disabled = bool(spec.get("disabled"))
        self.claims_any = spec.get("claims") != NODE_CIDRS
        self.spec = {
            key: spec[key]
            for key in ("cidr", "blockSize", "gateway", "exclude", "disabled")
            if spec.get(key)
        }
        if not self.claims_any:
            self.spec["claims"] = NODE_CIDRS

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AddressPool) and (self.name, self.spec) == (other.name, other.spec)

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.range.family

    @property
    def is_single(self) -> bool:
        """Whether each address is a block of its own: it is assigned on request, on any node."""
        return self.block_length == BITS[self.range.family]

    @property
    def cidr(self) -> str:
        """The pool's addresses."""
        return format_cidr(self.range.family, self.range.network, self.range.length)

    def whole(self) -> Hole:
        """Return all of its addresses."""
        family, network, length = self.range.family, self.range.network, self.range.length
        return (family, *prefix_bounds(family, network, length))


def pack(pools: Iterable[AddressPool]) -> str:
    """Return the pools as a text that :func:`read` reads; equal for equal pools in any order."""
    listed = sorted(pools, key=lambda one: one.name)
    return json.dumps({one.name: one.spec for one in listed}, sort_keys=True, separators=(",", ":"))


def read(text: str) -> list[AddressPool]:
    """Return the pools that :func:`pack` has written. Raises ConfigError, ValueError."""
    return [AddressPool(name, spec) for name, spec in json.loads(text).items()]


def _text(spec: dict[str, Any], key: str, path: str) -> str | None:
    value = spec.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{value!r:.80} is not a text", field=f"{path}.{key}", value=value)
    return value
