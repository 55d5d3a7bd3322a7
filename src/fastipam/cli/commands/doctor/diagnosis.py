"""One diagnosis of ``fastipam doctor``, which prints a list of them.

Each other module of this package diagnoses a part of the node, and each of its functions answers
one question. The functions change nothing, and turn every error of a broken node into a diagnosis.
"""

from __future__ import annotations

from typing import NamedTuple

OK = "ok"
WARNING = "warning"
PROBLEM = "problem"
LEVELS = (PROBLEM, WARNING, OK)  # in the order in which they are printed


class Diagnosis(NamedTuple):
    """One result: ``level`` is OK, WARNING or PROBLEM; ``command`` is what to type, or ""."""

    check: str
    level: str
    text: str
    command: str = ""
