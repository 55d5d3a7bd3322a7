"""fastipam: IP address management for container networks.

The names below are the public API. All but the errors are imported when they are first used,
because the plugin is started for every pod and needs only a few of them.
"""

from __future__ import annotations

from fastipam import errors
from fastipam.errors import *  # noqa: F403  # its __all__ is part of ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam import cni as cni
    from fastipam._bitmap import Bitmap as Bitmap
    from fastipam.addressing.parsing import DEFAULT_RANGE as DEFAULT_RANGE
    from fastipam.ipam import Ipam as Ipam
    from fastipam.ipam import open as open  # noqa: A004  # the contract's name
    from fastipam.lease import Lease as Lease
    from fastipam.namespaces import Netns as Netns
    from fastipam.network import Network as Network
    from fastipam.network.stats import NetworkStats as NetworkStats
    from fastipam.network.stats import SetStats as SetStats
    from fastipam.owners import Owner as Owner
    from fastipam.owners import Pod as Pod
    from fastipam.transactions import Transaction as Transaction

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_RANGE", "Bitmap", "Ipam", "Lease", "Netns", "Network", "NetworkStats", "Owner", "Pod",
    "SetStats", "Transaction", "__version__", "cni", "open",
]  # fmt: skip
__all__ += errors.__all__

_HOME = {
    "Bitmap": "_bitmap",
    "DEFAULT_RANGE": "addressing.parsing",
    "Ipam": "ipam",
    "Lease": "lease",
    "Netns": "namespaces",
    "Network": "network",
    "NetworkStats": "network.stats",
    "Owner": "owners",
    "Pod": "owners",
    "SetStats": "network.stats",
    "Transaction": "transactions",
    "open": "ipam",
}


if not TYPE_CHECKING:  # a type checker accepts any name of a module that has this function

    def __getattr__(name: str) -> object:
        if name not in _HOME and name != "cni":  # `from fastipam import lease` asks here first, too
            raise AttributeError(f"module 'fastipam' has no attribute {name!r}")
        from importlib import import_module

        if name == "cni":
            return import_module("fastipam.cni")
        if name == "open":  # what calls of a program import late, and plugin and agent do not
            import_module("ipaddress")
        value = getattr(import_module(f"fastipam.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
