"""The record of a network's policy, for callers that have no configuration."""

from __future__ import annotations

from fastipam.configuration.policy import MOST_HISTORY, MOST_S, Policy

# The sizes in bytes of: cool-down (ns), strict, sticky (s), number of events kept, their age (ns).
# Not a Struct, because a plugin process would import that module for this record alone.
_SIZES = 8, 1, 4, 8, 8


def pack(policy: Policy) -> bytes:
    """Return the record of a policy.

    If the policy was derived for some calls, it is the record of the configured policy.
    """
    policy = policy.configured or policy
    if not policy.stored:
        numbers = (
            policy.cooldown_ns,
            policy.strict,
            policy.sticky_s,
            policy.history,
            policy.history_age_ns,
        )
        policy.stored = b"".join(map(_little, numbers, _SIZES))
    return policy.stored


def _little(number: int, size: int) -> bytes:
    return number.to_bytes(size, "little")


def _unpack(raw: bytes) -> list[int]:
    """Return the numbers of a record of the right size."""
    at, found = 0, []
    for size in _SIZES:
        found.append(int.from_bytes(raw[at : at + size], "little"))
        at += size
    return found


def read(raw: bytes | None) -> Policy:
    """Return the policy of a record; the default when there is none, or it is not valid."""
    policy = Policy()
    if raw is not None and is_valid(raw):
        cooldown_ns, strict, sticky_s, history, history_age_ns = _unpack(raw)
        policy.cooldown_ns, policy.strict, policy.sticky_s = cooldown_ns, bool(strict), sticky_s
        policy.history, policy.history_age_ns = history, history_age_ns
        policy.stored = raw
    return policy


def is_valid(raw: bytes) -> bool:
    """Return whether this is the record of a policy that can be configured."""
    if len(raw) != sum(_SIZES):
        return False
    cooldown_ns, _, _, history, history_age_ns = _unpack(raw)
    return bool(max(cooldown_ns, history_age_ns) < MOST_S * 10**9 and history <= MOST_HISTORY)
