"""The environment variables of a CNI request, checked in the order of libcni's skeleton."""

from __future__ import annotations

from fastipam import late_errors as errors
from fastipam.cni.error_codes import BAD_ENVIRONMENT, OWN_NETNS
from fastipam.configuration.reader import LONGEST_IFNAME, address, fault_of_ifname, is_id
from fastipam.namespaces import identity, look, mount_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Identity = tuple[int, int]  # device, inode
    Seen = tuple[Identity | None, Identity | None, int, int]

ADD = "ADD"
CHECK = "CHECK"
DEL = "DEL"
GC = "GC"
STATUS = "STATUS"
VERSION = "VERSION"

# The variables that each command needs (CNI 1.1.0, "Parameters"), in the order of the checks.
NEEDED = {
    ADD: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    CHECK: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    DEL: ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    GC: ("CNI_PATH",),
    STATUS: ("CNI_PATH",),
}
_LONGEST_NUMBER = 20  # digits
_NO_NUMBER = 1 << 64


class Variables:
    """The variables of one call. A variable that is not set is an empty text."""

    __slots__ = ("args", "command", "container_id", "ifname", "netns", "netns_override")

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Raises CniError 4 for a missing variable or a value that is not allowed."""
        get = environ.get
        self.command = get("CNI_COMMAND", "")
        self.container_id = get("CNI_CONTAINERID", "")
        self.netns = get("CNI_NETNS", "")
        self.ifname = get("CNI_IFNAME", "")
        missing = [] if self.command else ["CNI_COMMAND"]
        for name in NEEDED.get(self.command, ()):
            value = get(name)
            if not value:
                missing.append(name)
            elif name == "CNI_CONTAINERID":
                _check_container_id(value)
            elif name == "CNI_IFNAME":
                _check_ifname(value)
        if missing:
            raise errors.CniError(
                f"required environment variables are missing: {', '.join(missing)}", BAD_ENVIRONMENT
            )
        self.args = get("CNI_ARGS", "")
        self.netns_override = get("CNI_NETNS_OVERRIDE", "").lower() in ("1", "true")


def _check_container_id(value: str) -> None:
    if not is_id(value):
        raise errors.CniError(
            f"CNI_CONTAINERID: {value!r} is not a valid container id",
            BAD_ENVIRONMENT,
            hint="begin with a letter or digit, then use letters, digits, '_', '.' and '-'",
        )


def _check_ifname(value: str) -> None:
    if value.isalnum() and value.isascii() and len(value) <= LONGEST_IFNAME:  # the usual case
        return
    fault = fault_of_ifname(value)
    if fault:
        hint = f"at most {LONGEST_IFNAME} bytes" if fault.endswith("too long") else ""
        raise errors.CniError(f"CNI_IFNAME: {fault}", BAD_ENVIRONMENT, hint=hint)


def pairs(text: str) -> dict[str, str]:
    """Return the pairs KEY=VALUE of ``CNI_ARGS``. Raises CniError 4 for a malformed pair."""
    values: dict[str, str] = {}
    for pair in text.split(";") if text else ():
        key, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise errors.CniError(f"CNI_ARGS: {pair!r} is not a pair KEY=VALUE", BAD_ENVIRONMENT)
        values[key] = value
    return values


class Arguments:
    """``CNI_ARGS``: the requested address and the names that Kubernetes' runtimes add."""

    __slots__ = ("address", "pod_name", "pod_namespace", "pod_uid")

    def __init__(self, text: str) -> None:
        """Raises CniError 4 for a malformed pair, or an unknown key without IgnoreUnknown."""
        values = pairs(text)
        ignore = values.pop("IgnoreUnknown", "0").lower()
        if ignore not in ("0", "1", "false", "true"):
            raise errors.CniError(
                f"CNI_ARGS: IgnoreUnknown={ignore!r} is not 1, 0, true or false", BAD_ENVIRONMENT
            )
        # Parsed by `requested`, later: that is the order in which libcni's checks come.
        self.address = values.pop("IP", "")
        if values and ignore in ("0", "false"):
            raise errors.CniError(
                f"CNI_ARGS: unknown arguments {', '.join(sorted(values))}",
                BAD_ENVIRONMENT,
                hint="IgnoreUnknown=1 ignores them",
            )
        self.pod_namespace = values.get("K8S_POD_NAMESPACE", "")
        self.pod_name = values.get("K8S_POD_NAME", "")
        self.pod_uid = values.get("K8S_POD_UID", "")

    def requested(self) -> tuple[int, int] | None:
        """Return the requested (family, address), or None. Raises CniError 4."""
        return address_in(self.address)


def address_in(text: str) -> tuple[int, int] | None:
    """Parse the value of ``IP`` in ``CNI_ARGS``: (family, address) or None. Raises CniError 4."""
    try:
        return address(text, "CNI_ARGS: IP")
    except errors.ConfigError as error:
        raise errors.CniError(f"{error.field}: {error.message}", BAD_ENVIRONMENT) from None


def identify(asked: Variables, own_path: str, reported: str = "") -> tuple[int, int, int]:
    """Identify the container's network namespace by three numbers, each 0 if it is unknown.

    Return (inode of ``CNI_NETNS``, inode of a mount namespace in which that path leads to it,
    ``born_ns``); ``born_ns`` is explained at :func:`fastipam.namespaces.look`.

    ``reported`` is the launcher's report (:func:`read_reported`). The launcher runs where the
    runtime does; an agent in a container may see other files under that path, or none. Without a
    report this process reads the path itself, and ``own_path`` is the network namespace of the
    caller. Raises CniError 8 when both are the same namespace: the caller would configure the
    host's own interfaces for a container.
    """
    theirs, own, mount, born_ns = read_reported(reported) or _look(asked, own_path)
    if theirs is None:
        return 0, 0, 0
    if theirs == own and not asked.netns_override:
        raise errors.CniError(
            f"CNI_NETNS: {asked.netns} is the network namespace of the plugin itself",
            OWN_NETNS,
            hint="CNI_NETNS_OVERRIDE=1 allows it",
        )
    here = mount_namespace()
    if mount != here and identity(asked.netns) == theirs:
        mount = here  # the path leads to the same namespace for this process
    return theirs[1], mount, born_ns


def read_reported(text: str) -> Seen | None:
    """Parse FASTIPAM_NETNS, the launcher's report on namespaces. Return None if it is malformed.

    It has four fields with blanks between them: the network namespace of the container, that of the
    launcher and the launcher's mount namespace, each as ``device:inode``, and ``born_ns``. A field
    is empty when the launcher could not read the namespace; a ``born_ns`` of 0 is unknown. None
    also stands for a missing report.

    >>> read_reported("4:7 4:5 4:6 9"), read_reported(" 4:5  0"), read_reported("4:5")
    (((4, 7), (4, 5), 6, 9), (None, (4, 5), 0, 0), None)
    """
    fields = text.split(" ")
    if len(fields) != 4:
        return None
    found: list[Identity | None] = []
    for field in fields[:3]:
        if not field:
            found.append(None)
            continue
        device, _, inode = field.partition(":")
        pair = _number(device), _number(inode)
        if min(pair) < 0:
            return None
        found.append(pair)
    theirs, own, mount = found
    born_ns = _number(fields[3])
    if born_ns < 0:
        return None
    return theirs, own, mount[1] if mount else 0, born_ns


def _number(text: str) -> int:
    """Return a decimal number of up to 64 bits, or -1."""
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER):
        return -1
    number = int(text)
    return number if number < _NO_NUMBER else -1


def _look(asked: Variables, own_path: str) -> Seen:
    try:
        device, inode, born_ns = look(asked.netns)
    except (OSError, ValueError):
        return None, None, 0, 0
    own = None if asked.netns_override else identity(own_path)
    return (device, inode), own, mount_namespace(), born_ns
