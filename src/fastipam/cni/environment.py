"""A CNI request's environment variables, checked in the order of libcni's skeleton."""

from __future__ import annotations

from fastipam.cni.error_codes import BAD_ENVIRONMENT, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ADD = "ADD"
CHECK = "CHECK"
DEL = "DEL"
GC = "GC"
STATUS = "STATUS"
VERSION = "VERSION"

# What a command needs (CNI 1.1.0, "Parameters"), in the order in which it is looked at.
_NEEDED = {
    ADD: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    CHECK: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    DEL: ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    GC: ("CNI_PATH",),
    STATUS: ("CNI_PATH",),
}
_LONGEST_IFNAME = 15  # IFNAMSIZ less the final NUL
_ALPHANUMERIC = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_ID_CHARACTERS = _ALPHANUMERIC | frozenset("_.-")


class Request:
    """The variables of one call; empty texts for those that are not set."""

    __slots__ = ("args", "command", "container_id", "ifname", "netns", "netns_override")

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Raises CniError 4: a variable is missing or has a value that it may not have."""
        get = environ.get
        self.command = get("CNI_COMMAND", "")
        self.container_id = get("CNI_CONTAINERID", "")
        self.netns = get("CNI_NETNS", "")
        self.ifname = get("CNI_IFNAME", "")
        missing = [] if self.command else ["CNI_COMMAND"]
        for name in _NEEDED.get(self.command, ()):
            value = get(name)
            if not value:
                missing.append(name)
            elif name == "CNI_CONTAINERID":
                _check_container_id(value)
            elif name == "CNI_IFNAME":
                _check_ifname(value)
        if missing:
            raise CniError(
                BAD_ENVIRONMENT, f"required environment variables are missing: {', '.join(missing)}"
            )
        self.args = get("CNI_ARGS", "")
        self.netns_override = get("CNI_NETNS_OVERRIDE", "").lower() in ("1", "true")


def is_id(text: str) -> bool:
    """The specification's rule for container ids and network names."""
    if text.isalnum() and text.isascii():  # nearly all of them
        return True
    return bool(text) and text[0] in _ALPHANUMERIC and _ID_CHARACTERS.issuperset(text)


def _check_container_id(value: str) -> None:
    if not is_id(value):
        raise CniError(
            BAD_ENVIRONMENT,
            f"CNI_CONTAINERID: {value!r} has characters that a container id may not have",
            "a letter or digit, then letters, digits, '_', '.' and '-'",
        )


def _check_ifname(value: str) -> None:
    if value.isalnum() and value.isascii() and len(value) <= _LONGEST_IFNAME:  # nearly all of them
        return
    try:
        size = len(value.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # half a surrogate pair: only a caller in process can have one
        raise CniError(BAD_ENVIRONMENT, f"CNI_IFNAME: {value!r} is no text") from None
    if size > _LONGEST_IFNAME:
        raise CniError(
            BAD_ENVIRONMENT,
            f"CNI_IFNAME: the interface name {value!r} is too long",
            f"at most {_LONGEST_IFNAME} bytes",
        )
    if value in (".", ".."):
        raise CniError(BAD_ENVIRONMENT, f"CNI_IFNAME: an interface cannot be named {value!r}")
    if any(character in "/:" or character.isspace() for character in value):
        raise CniError(
            BAD_ENVIRONMENT, f"CNI_IFNAME: the interface name {value!r} has '/', ':' or white space"
        )


class Arguments:
    """``CNI_ARGS``: the requested address and the names that Kubernetes' runtimes add."""

    __slots__ = ("address", "pod_name", "pod_namespace", "pod_uid")

    def __init__(self, text: str) -> None:
        """Raises CniError 4 for a malformed pair, or an unknown one without IgnoreUnknown."""
        values: dict[str, str] = {}
        for pair in text.split(";") if text else ():
            key, equals, value = pair.partition("=")
            if not equals or "=" in value:
                raise CniError(BAD_ENVIRONMENT, f"CNI_ARGS: {pair!r} is no pair KEY=VALUE")
            values[key] = value
        ignore = values.pop("IgnoreUnknown", "0").lower()
        if ignore not in ("0", "1", "false", "true"):
            raise CniError(
                BAD_ENVIRONMENT, f"CNI_ARGS: IgnoreUnknown={ignore!r} is not 1, 0, true or false"
            )
        self.address = values.pop("IP", "")
        if values and ignore in ("0", "false"):
            raise CniError(
                BAD_ENVIRONMENT,
                f"CNI_ARGS: unknown arguments {', '.join(sorted(values))}",
                "IgnoreUnknown=1 lets them pass",
            )
        self.pod_namespace = values.get("K8S_POD_NAMESPACE", "")
        self.pod_name = values.get("K8S_POD_NAME", "")
        self.pod_uid = values.get("K8S_POD_UID", "")
