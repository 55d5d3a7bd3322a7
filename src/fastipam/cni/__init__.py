"""The CNI IPAM plugin. ``handle`` is the whole plugin.

The executable in the CNI bin directory (``main``), the agent and embedding programs call it. No
logic exists twice.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.cni.handler import handle

__all__ = ["handle"]


def __getattr__(name: str) -> object:
    # Late, so that main.py can say why the plugin cannot be loaded.
    if name != "handle":
        raise AttributeError(f"module 'fastipam.cni' has no attribute {name!r}")
    from fastipam.cni.handler import handle

    globals()[name] = handle
    return handle
