"""The versions of the CNI specification, and the commands that each version allows."""

from __future__ import annotations

from fastipam import late_errors as errors
from fastipam.cni.environment import NEEDED
from fastipam.cni.error_codes import BAD_ENVIRONMENT, INCOMPATIBLE_VERSION
from fastipam.configuration.network import network_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastipam.configuration.network import Version

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = SUPPORTED[-1]
_OLDEST = SUPPORTED[0]  # the version of a configuration without ``cniVersion``
_SINCE = {"CHECK": (0, 4, 0), "GC": (1, 1, 0), "STATUS": (1, 1, 0)}


def parse(text: str) -> Version | None:
    """Return (1, 0, 0) for "1.0.0", or None for a text that is not a version."""
    parts = text.split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    major, minor, micro = (int(part[:9]) for part in parts)
    return major, minor, micro


def admit(config: dict[str, Any], command: str) -> Version:
    """Return the configuration's version, after checking that ``command`` can be served.

    Raises ConfigError when the configuration names no network, CniError 4 for an unknown command,
    and the errors of :func:`agree`.
    """
    network_name(config)
    if command not in NEEDED:
        raise errors.CniError(
            f"CNI_COMMAND: unknown command {command!r}",
            BAD_ENVIRONMENT,
            hint="set CNI_COMMAND to ADD, CHECK, DEL, GC, STATUS or VERSION",
        )
    return agree(config, command)


def agree(config: dict[str, Any], command: str) -> Version:
    """Return the configuration's version, if it allows ``command``.

    Raises CniError 1 or DecodingError.
    """
    text = config.get("cniversion", "")
    if not isinstance(text, str):
        from fastipam.configuration.reader import kind_of, show

        raise errors.DecodingError(
            f"this is {kind_of(text)}, not a string: {show(text)}",
            field="cniVersion",
            value=text,
            hint='write it in quotes, for example "1.0.0"',
        )
    assumed = "" if text else " (assumed: cniVersion is missing)"
    text = text or _OLDEST
    version = parse(text)
    since = _SINCE.get(command)
    if since is not None:
        if version is None:
            raise errors.DecodingError(
                f"{text!r} is not a valid version", field="cniVersion", value=text
            )
        if version < since:
            raise errors.CniError(
                f"cniVersion: version {text}{assumed} has no command {command}",
                INCOMPATIBLE_VERSION,
            )
        newest = parse(NEWEST)
        if newest is not None and version > newest:
            raise errors.CniError(
                f"cniVersion: this plugin does not support {command} of version {text}",
                INCOMPATIBLE_VERSION,
            )
    if version is None or text not in SUPPORTED:
        raise errors.CniError(
            f"cniVersion: version {text} is not supported",
            INCOMPATIBLE_VERSION,
            hint=f"set cniVersion to a version that the plugin supports: {', '.join(SUPPORTED)}",
        )
    return version


def name(config: dict[str, Any]) -> str:
    """Return the version for an error object: the configuration's, if that is supported."""
    text = config.get("cniversion")
    if not text:
        return _OLDEST if config else NEWEST
    return text if isinstance(text, str) and text in SUPPORTED else NEWEST
