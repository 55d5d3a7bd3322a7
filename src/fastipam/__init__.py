"""fastipam: IP address management for container networks.

The names below are the public API. Each is imported when it is first used, because the plugin is
started for every pod and needs only a few of them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam import cni as cni
    from fastipam._bitmap import Bitmap as Bitmap
    from fastipam.errors import AddressInUse as AddressInUse
    from fastipam.errors import AddressNotInRange as AddressNotInRange
    from fastipam.errors import ClusterError as ClusterError
    from fastipam.errors import ConfigError as ConfigError
    from fastipam.errors import DecodingError as DecodingError
    from fastipam.errors import DuplicateAllocation as DuplicateAllocation
    from fastipam.errors import FastipamError as FastipamError
    from fastipam.errors import LeaseMissing as LeaseMissing
    from fastipam.errors import PoolExhausted as PoolExhausted
    from fastipam.errors import StoreBusy as StoreBusy
    from fastipam.errors import StoreClosed as StoreClosed
    from fastipam.errors import StoreCorrupt as StoreCorrupt
    from fastipam.errors import StoreError as StoreError
    from fastipam.errors import StoreForked as StoreForked
    from fastipam.errors import StoreFull as StoreFull
    from fastipam.errors import StoreUnavailable as StoreUnavailable
    from fastipam.errors import StoreVersion as StoreVersion
    from fastipam.errors import TryLater as TryLater
    from fastipam.ipam import Ipam as Ipam
    from fastipam.ipam import open as open  # noqa: A004  # the contract's name
    from fastipam.lease import Lease as Lease
    from fastipam.network import Network as Network

__version__ = "0.1.0"

_HOME = {
    "Bitmap": "_bitmap",
    "Ipam": "ipam",
    "Lease": "lease",
    "Network": "network",
    "open": "ipam",
}
_ERRORS = (
    "AddressInUse",
    "AddressNotInRange",
    "ClusterError",
    "ConfigError",
    "DecodingError",
    "DuplicateAllocation",
    "FastipamError",
    "LeaseMissing",
    "PoolExhausted",
    "StoreBusy",
    "StoreClosed",
    "StoreCorrupt",
    "StoreError",
    "StoreForked",
    "StoreFull",
    "StoreUnavailable",
    "StoreVersion",
    "TryLater",
)

__all__ = ["__version__", "cni", *_HOME, *_ERRORS]  # noqa: PLE0604  # all are texts


def __getattr__(name: str) -> object:
    home = "errors" if name in _ERRORS else _HOME.get(name)
    if home is None and name != "cni":  # also called by `from fastipam import ranges`
        raise AttributeError(f"module 'fastipam' has no attribute {name!r}")
    from importlib import import_module

    if home is None:
        return import_module("fastipam.cni")
    value = getattr(import_module(f"fastipam.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
