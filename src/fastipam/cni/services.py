"""How a process that serves many requests gets blocks of a cluster: by asking, not by waiting.

The agent sets these; in a plugin process they stay unset. Kept apart from sharing.py, which imports
``fastipam.cluster``, so that an agent without a cluster does not.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastipam.configuration.cluster import Settings
    from fastipam.storage.store import Store

# A configuration was read: data directory, network, settings.
seen: Callable[[str, str, Settings], None] | None = None
# An address is needed, by whom: why there is none yet, and whether the request may wait for it.
ask: Callable[[Store, str, Settings, str], tuple[str, bool]] | None = None
# What an operator should hear of a network, or nothing.
note: Callable[[Store, str], str] | None = None
# The request that is handled now has asked, and may wait: it is handled again later.
asked = False
