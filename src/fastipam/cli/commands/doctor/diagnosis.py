"""What ``fastipam doctor`` prints.

Each module beside this one diagnoses a part of the node, each function answers one question. They
are read-only, and raise nothing that a broken node could cause.
"""

from __future__ import annotations

from typing import NamedTuple

OK = "ok"
WARNING = "warning"
PROBLEM = "problem"
LEVELS = (PROBLEM, WARNING, OK)  # in the order in which they are printed


class Diagnosis(NamedTuple):
    """One answer: ``level`` is OK, WARNING or PROBLEM, ``command`` what to type, or ""."""

    check: str
    level: str
    text: str
    command: str = ""
