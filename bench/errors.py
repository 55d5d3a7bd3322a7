"""The errors that end a benchmark run without a report."""

from __future__ import annotations


class Missing(Exception):
    """A required peer, program or baseline is missing: the run ends with exit status 2."""


class Failed(RuntimeError):
    """A subject failed or took too long: the run ends with exit status 2."""
