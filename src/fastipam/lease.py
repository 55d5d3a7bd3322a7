"""A lease as a library caller sees it, and the owner that asks for one."""

from __future__ import annotations

from fastipam.addressing.addresses import V4, format_cidr, format_ip, to_ip
from fastipam.errors import ConfigError
from fastipam.storage.records import keys
from fastipam.storage.records import lease as lease_record
from fastipam.storage.records.lease import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface


class Owner:
    """Who asks for an address, and what the lease shall remember of it.

    ``name`` is the :func:`records.owner_name`, ``texts`` all that the record says in words.
    ``sticky_s`` counts only for an owner that is a pod with a name.
    """

    __slots__ = (
        "born_ns",
        "container_id",
        "ifname",
        "inode",
        "mount_ns",
        "name",
        "pod",
        "sticky_s",
        "texts",
    )

    def __init__(
        self,
        container_id: str,
        ifname: str,
        netns: str = "",
        inode: int = 0,
        pod_namespace: str = "",
        pod_name: str = "",
        pod_uid: str = "",
        mount_ns: int = 0,
        sticky_s: int = 0,
        born_ns: int = 0,
    ) -> None:
        keys.check_owner(container_id, ifname)
        if not 0 <= inode < 1 << 64:
            raise ConfigError(f"inode {inode!r} has no 64 bits", field="inode", value=inode)
        if not 0 <= born_ns < 1 << 64:
            raise ConfigError(f"born_ns {born_ns!r} has no 64 bits", field="born_ns", value=born_ns)
        if not 0 <= mount_ns < 1 << 32:
            raise ConfigError(
                f"mount_ns {mount_ns!r} has no 32 bits", field="mount_ns", value=mount_ns
            )
        self.container_id = container_id
        self.ifname = ifname
        self.inode = inode
        self.mount_ns = mount_ns
        self.born_ns = born_ns
        self.pod = f"{pod_namespace}/{pod_name}" if pod_namespace and pod_name else ""
        self.sticky_s = sticky_s if self.pod else 0
        rest = "\0".join(("", netns, pod_namespace, pod_name, pod_uid))
        if rest.count("\0") != 4 or not rest.isascii():
            _check_texts(
                netns=netns, pod_namespace=pod_namespace, pod_name=pod_name, pod_uid=pod_uid
            )
        self.name = keys.owner_name(container_id, ifname)
        self.texts = self.name + rest.encode(keys.ENCODING, keys.ERRORS)


def _check_texts(**texts: str) -> None:
    """Refuse what a record cannot hold. Raises ConfigError."""
    for field, text in texts.items():
        if "\0" in text:
            raise ConfigError(f"{field} contains NUL", field=field, value=text)
        keys.encode(field, text)


class Lease:
    """An address and who has it. A value: it does not change when the store does.

    ``network`` is the network's name; ``family`` (4 or 6) and ``value`` are the address as
    integers, ``router`` is the gateway in the same form, or None. ``siblings`` are the leases that
    the same call assigned, in the order of the range sets, this one among them; a lease that was
    read back has only itself.
    """

    __slots__ = ("_record", "_siblings", "family", "network", "router", "value")

    def __init__(
        self,
        network: str,
        family: int,
        value: int,
        router: tuple[int, int] | None,
        record: Record | bytes,
    ) -> None:
        self.network = network
        self.family = family
        self.value = value
        self.router = router
        # A record that was just written is kept as it was written, until somebody looks.
        self._record = record
        # Not (self,): a million leases that hold themselves would be work for the collector.
        self._siblings: tuple[Lease, ...] = ()

    @property
    def record(self) -> Record:
        """All that the store holds of it."""
        if isinstance(self._record, bytes):
            self._record = Record.read(self._record)
        return self._record

    @property
    def siblings(self) -> tuple[Lease, ...]:
        """The leases that the same call assigned, this one among them."""
        return self._siblings or (self,)

    @siblings.setter
    def siblings(self, leases: tuple[Lease, ...]) -> None:
        self._siblings = leases

    @property
    def length(self) -> int:
        """The prefix length."""
        if isinstance(self._record, bytes):
            return lease_record.length_of(self._record)
        return self._record.length

    @property
    def container_id(self) -> str:
        """The owner's container id."""
        return self.record.container_id

    @property
    def ifname(self) -> str:
        """The owner's interface."""
        return self.record.ifname

    @property
    def allocated_ns(self) -> int:
        """When it was assigned: wall clock nanoseconds since the epoch."""
        return self.record.allocated_ns

    @property
    def generation(self) -> int:
        """A number that no other assignment in this network has."""
        return self.record.generation

    @property
    def netns(self) -> str:
        """The path of the network namespace; empty: not known."""
        return self.record.netns

    @property
    def inode(self) -> int:
        """The inode of the network namespace; 0: not known."""
        return self.record.inode

    @property
    def born_ns(self) -> int:
        """What tells its network namespace from others of the same inode; 0: not known."""
        return self.record.born_ns

    @property
    def mount_ns(self) -> int:
        """The inode of the mount namespace in which ``netns`` was looked at; 0: not known."""
        return self.record.mount_ns

    @property
    def sticky_s(self) -> int:
        """For how many seconds the address is kept for its pod after a release; 0: not at all."""
        return self.record.sticky_s

    @property
    def pod_namespace(self) -> str:
        """The Kubernetes namespace; empty: none."""
        return self.record.pod_namespace

    @property
    def pod_name(self) -> str:
        """The pod's name; empty: none."""
        return self.record.pod_name

    @property
    def pod_uid(self) -> str:
        """The pod's UID; empty: none."""
        return self.record.pod_uid

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
        return f"<Lease {self.cidr} of {self.container_id!r} {self.ifname!r} in {self.network!r}>"


def join(leases: Sequence[Lease]) -> Lease:
    """The first of the leases of one owner, each knowing the others."""
    if len(leases) > 1:
        together = tuple(leases)
        for lease in together:
            lease.siblings = together
    return leases[0]
