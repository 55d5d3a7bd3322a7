"""The lease that a library caller sees, and the owner that requests one."""

from __future__ import annotations

from fastipam import _ledger
from fastipam.addressing.addresses import V4, format_cidr, format_ip, to_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

    from fastipam.owners import Owner, Pod
    from fastipam.storage.records.lease import Record


Requester = _ledger.Requester
join = _ledger.join
NO_POD = ("", "", "")
FOUND = "found-"  # prefix of the id of a container whose real id is not known


class Lease(_ledger.LeaseFields):
    """An address and its owner, as of one moment: a later change of the store does not show here.

    ``network`` is the network's name. ``family`` (4 or 6) and ``value`` are the address as
    integers. ``siblings`` are the leases that the same call assigned, in the order of the range
    sets, including this one; a lease that was read by its address has only itself. ``created`` says
    whether the call that returned the lease has assigned the address; it is False for a lease that
    existed before.
    """

    __slots__ = ()
    if TYPE_CHECKING:
        network: str
        family: int
        value: int
        created: bool
        _record: Record | bytes  # packed bytes until a text of it is read
        _siblings: tuple[Lease, ...]

    @property
    def record(self) -> Record:
        """The lease's record in the store."""
        if isinstance(self._record, bytes):
            from fastipam.storage.records.lease import Record

            self._record = Record.read(self._record)
        return self._record

    @property
    def siblings(self) -> tuple[Lease, ...]:
        """The leases that the same call assigned, including this one."""
        return self._siblings or (self,)

    @siblings.setter
    def siblings(self, leases: tuple[Lease, ...]) -> None:
        self._siblings = leases

    @property
    def length(self) -> int:
        """The prefix length."""
        if isinstance(self._record, bytes):
            return self._record[1]
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
    def owner(self) -> Owner:
        """The owner."""
        from fastipam import owners

        return owners.known(self.record.container_id, self.record.ifname)

    @property
    def pod(self) -> Pod | None:
        """The pod, or None if the lease does not name one."""
        from fastipam import owners

        namespace, name, uid = self.pod_namespace, self.pod_name, self.pod_uid
        return owners.Pod(namespace, name, uid) if namespace and name else None

    @property
    def allocated_ns(self) -> int:
        """The time of the assignment: wall clock, nanoseconds since the epoch."""
        return self.record.allocated_ns

    @property
    def generation(self) -> int:
        """The number of this assignment, unique in the network's pool."""
        packed = self._record
        if type(packed) is bytes:  # so an ADD need not import the module of lease records
            return _ledger.generation_of(packed)
        return self.record.generation

    @property
    def netns(self) -> str:
        """The path of the network namespace, or empty if it is not known."""
        return self.record.netns

    @property
    def inode(self) -> int:
        """The inode of the network namespace, or 0 if it is not known."""
        return self.record.inode

    @property
    def born_ns(self) -> int:
        """The time at which the namespace's file was made, or 0 if it is not known.

        The kernel reuses inodes; this tells two namespaces with the same inode apart.
        """
        return self.record.born_ns

    @property
    def mount_ns(self) -> int:
        """The inode of the mount namespace in which ``netns`` is a path, or 0 if not known."""
        return self.record.mount_ns

    @property
    def sticky_s(self) -> int:
        """The seconds for which the address stays reserved for its pod after a release, or 0."""
        return self.record.sticky_s

    @property
    def pod_namespace(self) -> str:
        """The pod's Kubernetes namespace, or empty."""
        return self.record.pod_namespace

    @property
    def pod_name(self) -> str:
        """The pod's name, or empty."""
        return self.record.pod_name

    @property
    def pod_uid(self) -> str:
        """The pod's UID, or empty."""
        return self.record.pod_uid

    @property
    def address(self) -> IPv4Interface | IPv6Interface:
        """The address with its prefix length, as an object of ``ipaddress``."""
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
        if self._router is None:
            return None
        return to_ip(*self._router)

    @property
    def cidr(self) -> str:
        """The address with its prefix length, as text."""
        return format_cidr(self.family, self.value, self.length)

    @property
    def router_text(self) -> str | None:
        """The gateway as text, or None."""
        return None if self._router is None else format_ip(*self._router)

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
