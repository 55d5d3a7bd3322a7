"""What `fastipam doctor` looks at: one module a part of the node, one function a question.

Every function yields diagnoses and raises nothing that a sick node could cause; none changes
anything.
"""

from __future__ import annotations

from typing import NamedTuple

OK = "ok"
WARNING = "warning"
PROBLEM = "problem"


class Diagnosis(NamedTuple):
    """One answer: ``level`` is OK, WARNING or PROBLEM, ``command`` what to type, if anything."""

    check: str
    level: str
    text: str
    command: str = ""
