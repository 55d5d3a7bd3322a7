"""The log message for a lost watch of the shared store."""

from __future__ import annotations

from fastipam.errors import FastipamError


def log_lost_watch(network: str, what: str, error: Exception) -> None:
    """Log at debug level that ``what`` was lost; log a defect of this program as an error."""
    import logging  # an ADD that runs directly watches nothing

    log = logging.getLogger("fastipam.cluster")
    if isinstance(error, FastipamError):
        log.debug("network=%s %s: %s", network, what, error)
    else:
        log.error("network=%s internal error in the watch", network, exc_info=error)
