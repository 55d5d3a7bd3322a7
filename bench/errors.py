"""Why a benchmark run ends without a report."""

from __future__ import annotations


class Missing(Exception):
    """A peer, a program or a baseline is not there: the run ends with exit status 2."""


class Failed(RuntimeError):
    """A subject did not do what is to be measured, or not in time: exit status 2 as well."""
