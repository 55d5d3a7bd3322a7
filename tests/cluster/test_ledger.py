"""The ledger of the campaign: what it takes for an address that two were told."""

from __future__ import annotations

from .doubles import Held, Ledger


def test_two_machines() -> None:
    """An address that was told, and whose release nobody has asked for, must not be told again."""
    ledger = Ledger()
    ledger.told("10.0.0.1", Held("a", "c1", 1.0, 2.0))
    ledger.told("10.0.0.2", Held("b", "c1", 1.0, 2.0))
    ledger.gone("a", "c1")
    ledger.told("10.0.0.1", Held("b", "c2", 3.0, 4.0))
    assert not ledger.doubles
    ledger.told("10.0.0.1", Held("a", "c3", 3.0, 5.0))
    assert len(ledger.doubles) == 1
    ledger.told("10.0.0.2", Held("b", "c4", 3.0, 5.0))  # of one machine, too
    assert len(ledger.doubles) == 2


def test_machine_that_is_gone() -> None:
    """The pods of a machine that is gone have nothing; those that were told later still have."""
    ledger = Ledger()
    ledger.told("10.0.0.1", Held("a", "c1", 1.0, 2.0))
    ledger.told("10.0.0.2", Held("a", "c2", 1.0, 9.0))
    ledger.lost("a", before=5.0)
    ledger.told("10.0.0.1", Held("b", "c1", 6.0, 7.0))
    assert not ledger.doubles
    ledger.told("10.0.0.2", Held("b", "c2", 6.0, 7.0))
    assert len(ledger.doubles) == 1
    ledger.gone("a", "c1")  # it has nothing any more: another one's address stays that one's
    ledger.told("10.0.0.1", Held("c", "c1", 8.0, 9.0))
    assert len(ledger.doubles) == 2
