"""A network's choices: what each keyword becomes, where its limits are, what is said beyond."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from fastipam.configuration.policy import DEFAULT_POLICY, Policy
from fastipam.errors import ConfigError
from fastipam.storage.records import policy as policy_record


def _values(policy: Policy) -> tuple[object, ...]:
    return (
        policy.cooldown_ns,
        policy.strict,
        policy.sticky_s,
        policy.history,
        policy.history_age_ns,
    )


@pytest.mark.parametrize(
    ("keywords", "values"),
    [
        ({}, (30 * 10**9, False, 0, 100_000, 7 * 86_400 * 10**9)),
        ({"cooldown_s": 0, "history": 0}, (0, False, 0, 0, 7 * 86_400 * 10**9)),
        (
            {"cooldown_s": 0.5, "cooldown_policy": "strict", "sticky_s": 7, "history_age_s": 0.25},
            (500_000_000, True, 7, 100_000, 250_000_000),
        ),
        (
            {"cooldown_s": 999_999_999, "sticky_s": 2**32 - 1, "history": 100_000_000},
            (999_999_999 * 10**9, False, 2**32 - 1, 100_000_000, 7 * 86_400 * 10**9),
        ),
    ],
)
def test_values(keywords: dict[str, Any], values: tuple[object, ...]) -> None:
    """Seconds become nanoseconds, the limits themselves are allowed."""
    assert _values(Policy(**keywords)) == values


def test_default() -> None:
    """A network that says nothing has the documented choices."""
    assert _values(DEFAULT_POLICY) == _values(Policy(cooldown_policy="prefer"))


OF_COOLDOWN = "is not a number of seconds from 0 to less than 1000000000"
OF_STICKY = "is not a number of seconds from 0 to 4294967295"
OF_HISTORY = "is not a number of events from 0 to 100000000"
OF_AGE = "is not a number of seconds greater than 0 and less than 1000000000"


@pytest.mark.parametrize(
    ("keyword", "value", "field", "message"),
    [
        ("cooldown_s", -1, "cooldown", f"cooldown -1 {OF_COOLDOWN}"),
        ("cooldown_s", 10**9, "cooldown", f"cooldown 1000000000 {OF_COOLDOWN}"),
        ("cooldown_policy", "x", "cooldownPolicy", "'x' is neither 'prefer' nor 'strict'"),
        ("sticky_s", -1, "stickyTTL", f"stickyTTL -1 {OF_STICKY}"),
        ("sticky_s", 2**32, "stickyTTL", f"stickyTTL 4294967296 {OF_STICKY}"),
        ("history", -1, "history", f"history -1 {OF_HISTORY}"),
        ("history", 100_000_001, "history", f"history 100000001 {OF_HISTORY}"),
        ("history_age_s", 0, "historyAge", f"historyAge 0 {OF_AGE}"),
        ("history_age_s", 10**9, "historyAge", f"historyAge 1000000000 {OF_AGE}"),
    ],
)  # fmt: skip
def test_refused(keyword: str, value: object, field: str, message: str) -> None:
    """One step beyond a limit the field, the value and the limit are named."""
    keywords: dict[str, Any] = {keyword: value}
    with pytest.raises(ConfigError) as caught:
        Policy(**keywords)
    assert (caught.value.message, caught.value.field, caught.value.value) == (message, field, value)


def test_variants() -> None:
    """What some calls change is the one thing; what the store remembers stays the same."""
    policy = Policy(cooldown_s=5, sticky_s=7, history=9, history_age_s=11)
    stricter, silent = policy.stricter(), policy.without_history()
    assert _values(stricter) == (5 * 10**9, True, 7, 9, 11 * 10**9)
    assert _values(silent) == (5 * 10**9, False, 7, 0, 11 * 10**9)
    packed = policy_record.pack(policy)
    assert policy_record.pack(stricter) == policy_record.pack(silent) == packed
    assert _values(policy) == (5 * 10**9, False, 7, 9, 11 * 10**9)


def _packed(*, cooldown_ns: int = 0, history: int = 0, history_age_ns: int = 1) -> bytes:
    return struct.pack("<Q?IQQ", cooldown_ns, False, 0, history, history_age_ns)


@pytest.mark.parametrize(
    ("raw", "known"),
    [
        (_packed(cooldown_ns=10**18 - 1, history=100_000_000, history_age_ns=10**18 - 1), True),
        (_packed(cooldown_ns=10**18), False),
        (_packed(history_age_ns=10**18), False),
        (_packed(history=100_000_001), False),
        (_packed() + b"x", False),
        (b"", False),
    ],
)
def test_what_is_remembered(raw: bytes, known: bool) -> None:
    """What no policy can be is none, and the default stands in for it."""
    assert policy_record.is_valid(raw) == known
    default = policy_record.pack(DEFAULT_POLICY)
    assert policy_record.pack(policy_record.read(raw)) == (raw if known else default)
