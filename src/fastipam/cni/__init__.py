"""The CNI IPAM plugin: ``handle`` is the whole of it, for whoever calls it.

It is reached in process by the executable in the CNI bin directory (main.py), by the agent, and by
programs that embed it. No logic exists twice.
"""

from fastipam.cni.handler import handle

__all__ = ["handle"]
