"""The tables of the reference say what the code says: keys, codes, errors, bytes."""

from __future__ import annotations

import re

from fastipam import _ledger, errors
from fastipam.cni import error_codes, versions
from fastipam.configuration import network
from fastipam.storage import tables
from fastipam.storage.records import event as event_record
from fastipam.storage.tables import ALL
from tests.docs.documents import ROOT

CNI = (ROOT / "docs" / "cni.md").read_text()
EMBEDDING = (ROOT / "docs" / "embedding.md").read_text()
FORMAT = (ROOT / "docs" / "store-format.md").read_text()


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its first two lines."""
    below = text.partition(f"\n{heading}\n")[2]
    table = re.search(r"^\|.*?(?=\n[^|]|\n?\Z)", below, re.MULTILINE | re.DOTALL)
    assert table, heading
    lines = table[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_key_is_in_the_reference() -> None:
    """Each key that the plugin knows has a row, and no row names one that it does not know."""
    headings = ("## Keys of host-local", "## Keys of whereabouts", "## Keys of its own")
    named: set[str] = set()
    for heading in headings:
        for row in rows(CNI, heading):
            for key in re.findall(r"`([^`]+)`", row[0]):
                named.add(key.rpartition(".")[2].removesuffix("[]").casefold())
    known = {*network._KNOWN}
    assert known - named == set()
    assert named - known == set()


def test_every_code_is_in_the_reference() -> None:
    """The table of codes has each code that the plugin can answer, and the exception behind it."""
    table = {int(row[0]): row[3].strip("`") for row in rows(CNI, "## Errors")}
    known = {
        value
        for name, value in vars(error_codes).items()
        if name.isupper() and name[0] != "_" and type(value) is int
    }
    classes = {getattr(errors, name) for name in errors.__all__}
    assert set(table) == known | {kind.cni_code for kind in classes}
    for code, name in table.items():
        assert not name or getattr(errors, name).cni_code == code


def test_every_error_is_in_the_contract() -> None:
    """Each public exception has a row, with the code that the plugin makes of it."""
    table = {
        name: int(row[3].partition(";")[0])
        for row in rows(EMBEDDING, "## Errors")
        for name in re.findall(r"`([A-Z]\w+)`", row[0])
        if name != "ValueError"
    }
    public = set(errors.__all__) - {"FastipamError", "StoreError"}
    assert set(table) == public
    for name, code in table.items():
        error = getattr(errors, name)("text")
        assert error.cni_code == error_codes.explain(error)[0] == code


def test_versions() -> None:
    """The versions of the specification are all named."""
    assert ", ".join(versions.SUPPORTED[:-1]) + f" and {versions.NEWEST}" in CNI.replace("\n", " ")


def test_layout() -> None:
    """Sizes, kinds of events and the schema are those of the code."""
    assert f"this page describes schema {tables.SCHEMA}." in FORMAT
    lease = rows(FORMAT, "## A lease")
    assert int(lease[-1][0]) == _ledger.LEASE_BYTES
    at = 0
    for offset, size, _ in lease[:-1]:
        assert int(offset) == at
        at += int(size)
    assert at == _ledger.LEASE_BYTES
    assert int(rows(FORMAT, "## A pool's numbers")[-1][0]) == _ledger.POOL_BYTES
    history = rows(FORMAT, "## A network's history")
    assert int(history[-1][0]) == len(_ledger.EventLog(1).pack())
    most = f"At most {_ledger.EVENTS_WAITING} events wait, and the record has at most "
    assert f"{most}{_ledger.HISTORY_BYTES} bytes." in " ".join(FORMAT.split())
    kinds = ", ".join(f"{number} {word}" for number, word in sorted(event_record.KINDS.items()))
    assert kinds in " ".join(FORMAT.split())


def test_databases() -> None:
    """The databases of the store are those of the table, and no others."""
    listed = {row[0].strip("`") for row in rows(FORMAT, "## Databases")}
    assert listed == {table.name for table in ALL}
