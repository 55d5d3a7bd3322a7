"""The errors that end a benchmark run without a report."""

from __future__ import annotations


class Missing(Exception):
    """A peer, a program or a baseline is missing: the run ends with exit status 2."""


class Failed(RuntimeError):
    """A subject did not do what is measured, or not in time: the run ends with exit status 2."""
