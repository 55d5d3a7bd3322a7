"""fastipam: IP address management for container networks.

The names below are the public API. They are imported when they are first used, because the plugin
is started for every pod and needs only a few of them.
"""

# ruff: noqa: F403, F405  # the exceptions: type checkers take them from ``errors``

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam import cni as cni
    from fastipam import errors as errors
    from fastipam._bitmap import Bitmap as Bitmap
    from fastipam.addressing.parsing import DEFAULT_RANGE as DEFAULT_RANGE
    from fastipam.errors import *
    from fastipam.ipam import Ipam as Ipam
    from fastipam.ipam import open as open  # noqa: A004  # the name in the public API
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
    "DEFAULT_RANGE", "AddressInUse", "AddressNotInRange", "Bitmap", "ClusterError", "CniError",
    "ConfigError", "DecodingError", "DuplicateAllocation", "FastipamError", "Ipam", "Lease",
    "LeaseMissing", "Netns", "Network", "NetworkStats", "Owner", "Pod", "PoolExhausted", "SetStats",
    "StoreBusy", "StoreClosed", "StoreCorrupt", "StoreError", "StoreForked", "StoreFull",
    "StoreUnavailable", "StoreVersion", "Transaction", "TransactionOpen", "TransactionOver",
    "TryLater", "UnknownNetwork", "__version__", "cni", "open",
]  # fmt: skip

# The module of each name; all other names are in ``errors``.
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
        if name not in __all__ and name != "errors":  # `from fastipam import lease` gets here, too
            raise AttributeError(f"module 'fastipam' has no attribute {name!r}")
        from importlib import import_module

        # A program's calls would import these two late, so they are imported now. The plugin and
        # the agent import them elsewhere, or not at all.
        errors = import_module("fastipam.errors")
        if name == "open":
            import_module("ipaddress")
        if name == "errors":
            return errors
        if name == "cni":
            return import_module("fastipam.cni")
        value = getattr(import_module(f"fastipam.{_HOME.get(name, 'errors')}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
