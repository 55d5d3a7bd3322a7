"""The columns of the tables in which commands print leases, events and counts.

A table that has to fit a terminal has ages instead of times, and the column NETWORK only when there
are several networks. :mod:`fastipam.cli.layout` decides which columns are left out first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastipam.cli.layout import EXTRA, Column

if TYPE_CHECKING:
    from collections.abc import Sequence

IP = Column("IP", "address", 15)  # never cut, because the operator types it in the next command
POD = Column("POD", "pod", least=18, middle=True)  # pods often differ in the end of their names
CONTAINER = Column("CONTAINER", "container_id", least=12, drop=EXTRA)
INTERFACE = Column("INTERFACE", "ifname", least=9, drop=EXTRA + 1)
NETWORK = Column("NETWORK", "network", least=7, drop=2)

_SINCE = Column("SINCE", "allocated_at", 20)
_TIME = Column("TIME", "time", 20)
_FROM = Column("FROM", "from", 20)
_UNTIL = Column("UNTIL", "until", 20)
_AGES = {
    _SINCE: Column("AGE", "allocated_at", drop=3),
    _TIME: Column("AGO", "time", drop=-1),
    _FROM: Column("FROM (AGO)", "from", drop=-2),
    _UNTIL: Column("UNTIL (AGO)", "until", drop=-1),
}

LEASES = (IP, Column("STATUS", "status", 8), POD, CONTAINER, INTERFACE, _SINCE, NETWORK)
EVENTS = (
    _TIME,
    IP,
    Column("EVENT", "event", 10),
    Column("POD", "pod", 24, least=18, middle=True),
    CONTAINER,
    INTERFACE,
    NETWORK,
)
HOLDERS = (IP, POD, CONTAINER, INTERFACE, _FROM, _UNTIL, NETWORK)
COUNTS = (
    Column("SIZE", "size", 8, number=True),
    Column("ASSIGNED", "assigned", number=True),
    Column("COOLING", "cooling", number=True, drop=1),
    Column("RESERVED", "reserved", number=True, drop=2),
    Column("FREE", "free", 8, number=True),
    Column("USED", "used", 7, number=True),
)
STATS = (
    Column("NETWORK", "network", least=10),
    Column("RANGES", "ranges", least=15, middle=True),
    *COUNTS,
)


def fitting(columns: Sequence[Column], *, narrow: bool, several: bool) -> tuple[Column, ...]:
    """Return the columns of a table, with ``narrow`` for a terminal whose width each row must fit.

    A narrow table has ages instead of times, and the column NETWORK only with ``several``, which
    says that the rows are of several networks.
    """
    if not narrow:
        return tuple(columns)
    return tuple(_AGES.get(one, one) for one in columns if several or one != NETWORK)
