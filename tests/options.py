"""What the suite's own options say (pytest's command line: ``pytest --help``, "fastipam").

``tests/conftest.py`` sets them before pytest imports the first test module, so a test module may
read them when it is imported. Another ``conftest.py`` may not: pytest imports some of them earlier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


class Options:
    """The values; the defaults are those of a run without options."""

    long = False
    require_all = False
    require_kubernetes = False
    seed = 1
    kills = 0  # none said: the campaign has its own number
    minutes = 0.0  # none said: the campaign has its own length
    host_local = False

    def read(self, config: pytest.Config) -> None:
        """Take the values from pytest's command line."""
        self.long = config.getoption("--long")
        self.require_all = config.getoption("--require-all")
        self.require_kubernetes = config.getoption("--require-kubernetes")
        self.seed = config.getoption("--seed")
        self.kills = config.getoption("--kills")
        self.minutes = config.getoption("--minutes")
        self.host_local = config.getoption("--host-local")


options = Options()


def register(parser: pytest.Parser) -> None:
    """Register the options with pytest."""
    group = parser.getgroup("fastipam")
    group.addoption(
        "--long",
        action="store_true",
        help="run the long forms of the campaigns, and the documents' blocks that are marked long",
    )
    group.addoption(
        "--require-all",
        action="store_true",
        help="fail a test that lacks something that can be installed; without it, skip the test",
    )
    group.addoption(
        "--require-kubernetes",
        action="store_true",
        help="fail a test that lacks what scripts/kubernetes-tools builds; without it, skip it",
    )
    group.addoption("--seed", type=int, default=1, help="seed of the campaigns' random numbers")
    group.addoption("--kills", type=int, default=0, help="number of kills of the crash campaign")
    group.addoption(
        "--minutes",
        type=float,
        default=0,
        help="length of the campaign in which all happens at once",
    )
    group.addoption(
        "--host-local",
        action="store_true",
        help="run tests/e2e with the plugin host-local under fastipam's name",
    )
