"""Run the program ``nft`` to list and replace fastipam's own tables, and no other ones."""

from __future__ import annotations

import os
import subprocess
from shutil import which

from fastipam.cluster.masquerading.ruleset import FAMILIES, NAME, change

NOT_PERMITTED = "NotPermitted"  # a reason of NftFails
_TIMEOUT_S = 10.0
# A process without a login shell may lack the directories of administrators.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NftFails(Exception):
    """Why ``nft`` failed: one word for programs, and a sentence for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def is_installed() -> bool:
    """Return whether this machine, or this container, has the program."""
    return _program() is not None


def tables() -> list[int]:
    """Return the families that have a table of fastipam's. Raises NftFails."""
    lines = _run(["list", "tables"]).splitlines()
    return [family for family, word in FAMILIES.items() if f"table {word} {NAME}" in lines]


def listed() -> dict[int, str]:
    """Return fastipam's tables by family, without counters. Raises NftFails."""
    return {
        family: _run(["--stateless", "list", "table", FAMILIES[family], NAME])
        for family in tables()
    }


def replace(texts: dict[int, str]) -> None:
    """Replace the tables of these families, all or none; "" removes one. Raises NftFails."""
    _run(["--file", "-"], change(texts))


def _program() -> str | None:
    return which("nft", path=f"{os.environ.get('PATH', '')}:{_PATH}")


def _run(words: list[str], text: str = "") -> str:
    program = _program()
    if program is None:
        raise NftFails(
            "NotFound",
            "the program nft is not found: install the package nftables (fastipam's image has it)",
        )
    try:
        done = subprocess.run(
            [program, *words],
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            env={"PATH": _PATH, "LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NftFails(
            "Failed", f"nft {' '.join(words)} has not ended after {_TIMEOUT_S:g} s"
        ) from None
    except OSError as error:
        raise NftFails("Failed", f"{program} cannot be run: {error.strerror or error}") from error
    if not done.returncode:
        return done.stdout
    told = " ".join((done.stderr or done.stdout).split())[:300]
    if "not permitted" in told:
        raise NftFails(
            NOT_PERMITTED, "the kernel refuses nft: the agent needs the capability NET_ADMIN"
        )
    raise NftFails("Failed", f"nft {' '.join(words)}: {told or f'status {done.returncode}'}")
