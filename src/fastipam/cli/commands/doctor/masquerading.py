"""Diagnose masquerading: whether the rules that the agent has to keep exist."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastipam.cli.click_base import as_root
from fastipam.cli.commands.doctor.diagnosis import OK, PROBLEM, WARNING, Diagnosis
from fastipam.cluster.masquerading import nft
from fastipam.cluster.masquerading.ruleset import FAMILIES, NAME
from fastipam.errors import FastipamError
from fastipam.ipam import open_with

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CHECK = "masquerading"
_OPTION = b"--masquerade"


def look(process: int, data_dirs: Iterable[str]) -> Iterator[Diagnosis]:
    """Diagnose the tables of nftables, if the agent runs with ``--masquerade``.

    A table is needed for each family in which a network of these stores has a cluster's pool.
    """
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return
    if _OPTION not in words:
        return
    wanted = sorted({family for one in data_dirs for family in _families(one)})
    try:
        there = nft.tables() if wanted else []
    except nft.NftFails as error:
        if error.reason == nft.NOT_PERMITTED:
            text = "the tables of nftables cannot be inspected from here"
            yield Diagnosis(_CHECK, WARNING, text, as_root())
        else:
            text = f"the agent should masquerade, but cannot: {error}"
            yield Diagnosis(_CHECK, PROBLEM, text)
        return
    missing = [family for family in wanted if family not in there]
    for family in missing:
        text = (
            f"the agent should masquerade IPv{family}, but the nftables table {FAMILIES[family]} "
            f"{NAME} does not exist: the agent's log says why"
        )
        yield Diagnosis(_CHECK, PROBLEM, text, f"nft list table {FAMILIES[family]} {NAME}")
    if wanted and not missing:
        families = " and ".join(f"IPv{family}" for family in wanted)
        yield Diagnosis(_CHECK, OK, f"the rules for {families} exist")


def _families(data_dir: str) -> set[int]:
    """Return the families in which a store's networks have ranges cut into a cluster's blocks."""
    try:
        with open_with(data_dir, create=False, count_boot=False) as ipam:
            sets = [each for name in ipam.networks() for each in ipam.network(name).ranges]
    except (FastipamError, FileNotFoundError):
        return set()  # the diagnosis of the store reports the error
    return {each.family for each in sets if each.block_length}
