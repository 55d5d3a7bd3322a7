"""A lease as a library caller sees it."""

from __future__ import annotations

from fastipam.addresses import V4, format_cidr, format_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

    from fastipam.records import Record


class Lease:
    """An address and who has it. A value: it does not change when the store does.

    ``container_id`` and ``ifname`` are the owner, ``network`` the network's name;
    ``allocated_ns`` wall clock nanoseconds since the epoch; ``netns``, ``inode`` the network
    namespace (empty, 0: not known); ``pod_namespace``, ``pod_name``, ``pod_uid`` the Kubernetes
    names (empty: none); ``generation`` a number that no other assignment in this network has.
    ``siblings`` are the leases that the same call assigned, in the order of the range sets, this
    one among them; a lease that was read back has only itself.
    """

    __slots__ = (
        "allocated_ns",
        "container_id",
        "family",
        "generation",
        "ifname",
        "inode",
        "length",
        "netns",
        "network",
        "pod_name",
        "pod_namespace",
        "pod_uid",
        "router",
        "siblings",
        "value",
    )

    def __init__(
        self,
        network: str,
        family: int,
        value: int,
        router: tuple[int, int] | None,
        record: Record,
    ) -> None:
        self.network = network
        self.family = family
        self.value = value
        self.router = router
        self.length = record.length
        self.container_id = record.container_id
        self.ifname = record.ifname
        self.allocated_ns = record.allocated_ns
        self.generation = record.generation
        self.netns = record.netns
        self.inode = record.inode
        self.pod_namespace = record.pod_namespace
        self.pod_name = record.pod_name
        self.pod_uid = record.pod_uid
        self.siblings: tuple[Lease, ...] = (self,)

    @property
    def address(self) -> IPv4Interface | IPv6Interface:
        """The address with its prefix length, as ``ipaddress`` has it."""
        import ipaddress

        if self.family == V4:
            return ipaddress.IPv4Interface((self.value, self.length))
        return ipaddress.IPv6Interface((self.value, self.length))

    @property
    def addresses(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """Every address that the same call assigned, in the order of the range sets."""
        return tuple(lease.address for lease in self.siblings)

    @property
    def gateway(self) -> IPv4Address | IPv6Address | None:
        """The gateway of the range that holds the address, or None."""
        if self.router is None:
            return None
        return to_ip(*self.router)

    @property
    def cidr(self) -> str:
        """The address with its prefix length, as text."""
        return format_cidr(self.family, self.value, self.length)

    @property
    def router_text(self) -> str | None:
        """The gateway as text, or None."""
        return None if self.router is None else format_ip(*self.router)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Lease):
            return NotImplemented
        return (self.network, self.family, self.value, self.generation) == (
            other.network,
            other.family,
            other.value,
            other.generation,
        )

    def __hash__(self) -> int:
        return hash((self.network, self.family, self.value, self.generation))

    def __repr__(self) -> str:
        return (
            f"<Lease {self.cidr} of {self.container_id!r} {self.ifname!r} in {self.network!r}>"
        )


def to_ip(family: int, value: int) -> IPv4Address | IPv6Address:
    """An integer as ``ipaddress`` has it."""
    import ipaddress

    return ipaddress.IPv4Address(value) if family == V4 else ipaddress.IPv6Address(value)
