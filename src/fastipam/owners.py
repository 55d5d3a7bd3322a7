"""The owners and pods of the library's API, checked when they are made."""

from __future__ import annotations

from fastipam.configuration.reader import LONGEST_IFNAME, fault_of_ifname
from fastipam.errors import ConfigError, shown


class Owner(tuple[str, str]):
    """The owner of addresses in a network: a container and one of its interfaces. Immutable.

    It is the pair (container id, interface), and compares equal to it. Raises ConfigError unless
    the container id is a text that is not empty, and the interface's name has 1 to 15 bytes, none
    of them "/", ":" or white space.

    >>> Owner("4f1c"), Owner("4f1c", "net1").ifname
    (Owner(container_id='4f1c', ifname='eth0'), 'net1')
    """

    __slots__ = ()

    def __new__(cls, container_id: str, ifname: str = "eth0") -> Owner:
        """Check the two texts and return the pair. O(1)."""
        check_names(container_id, ifname)
        return tuple.__new__(cls, (container_id, ifname))

    def __getnewargs__(self) -> tuple[str, str]:
        return self[0], self[1]

    @property
    def container_id(self) -> str:
        """The container's id."""
        return self[0]

    @property
    def ifname(self) -> str:
        """The interface's name in the container.

        It is empty in one case: a lease that was imported from an old host-local tree names none.
        """
        return self[1]

    def __repr__(self) -> str:
        return f"Owner(container_id={self[0]!r}, ifname={self[1]!r})"


class Pod(tuple[str, str, str]):
    """A pod of Kubernetes as a lease records it: namespace, name and UID. Immutable.

    Only the UID may be empty. Raises ConfigError for a value that is not a text, has NUL, or is
    empty.
    """

    __slots__ = ()

    def __new__(cls, namespace: str, name: str, uid: str = "") -> Pod:
        """Check the texts and return the triple. O(1)."""
        for field, text in (("namespace", namespace), ("name", name), ("uid", uid)):
            if not is_text(text) or "\0" in text or not (text or field == "uid"):
                raise ConfigError(
                    f"the pod's {field} must be a string without NUL, not {shown(text)}",
                    field=f"pod.{field}",
                    value=text,
                    hint='write fastipam.Pod("namespace", "name", "uid")',
                )
        return tuple.__new__(cls, (namespace, name, uid))

    def __getnewargs__(self) -> tuple[str, str, str]:
        return self[0], self[1], self[2]

    @property
    def namespace(self) -> str:
        """The pod's namespace in Kubernetes; it is not a namespace of the kernel."""
        return self[0]

    @property
    def name(self) -> str:
        """The pod's name."""
        return self[1]

    @property
    def uid(self) -> str:
        """The pod's UID, or empty."""
        return self[2]

    def __repr__(self) -> str:
        return f"Pod(namespace={self[0]!r}, name={self[1]!r}, uid={self[2]!r})"


def known(container_id: str, ifname: str) -> Owner:
    """Return the owner of a lease in the store, whose interface may be empty."""
    return tuple.__new__(Owner, (container_id, ifname))


def is_text(value: object) -> bool:
    """Return whether this is a string, or an object of a class derived from str."""
    return isinstance(value, str)


def check_names(container_id: object, ifname: object) -> None:
    """Raise ConfigError unless these are a container id and an interface's name. O(1)."""
    if not isinstance(container_id, str):
        raise ConfigError(
            f"container_id must be a string, not {shown(container_id)}",
            field="container_id",
            value=container_id,
        )
    if not container_id or "\0" in container_id:
        fault = "contains NUL" if container_id else "is empty"
        raise ConfigError(
            f"container_id {container_id!r} {fault}", field="container_id", value=container_id
        )
    check_ifname(ifname)


def check_ifname(ifname: object) -> None:
    """Raise ConfigError unless this is an interface's name."""
    fault = fault_of(ifname)
    if fault:
        raise ConfigError(
            f"ifname: {fault}",
            field="ifname",
            value=ifname,
            hint="the name of the interface in the container, such as 'eth0'",
        )


def fault_of(ifname: object) -> str:
    """Return why this is not a valid name of an interface, or an empty text."""
    if not isinstance(ifname, str):
        return f"{shown(ifname)} is not a string"
    if ifname.isalnum() and ifname.isascii() and len(ifname) <= LONGEST_IFNAME:
        return ""  # the usual case
    return f"{ifname!r} has NUL" if "\0" in ifname else fault_of_ifname(ifname)
