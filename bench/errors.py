"""What a benchmark run cannot do without."""

from __future__ import annotations


class Missing(Exception):
    """A peer, a program or a baseline is not there: the run ends with exit status 2."""
