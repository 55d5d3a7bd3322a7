"""The record of a network's policy, for callers that have no configuration."""

from __future__ import annotations

from struct import Struct

from fastipam.configuration.policy import MOST_HISTORY, MOST_S, Policy

_POLICY = Struct("<Q?IQQ")  # cool-down (ns), strict, sticky (s), events, their age (ns)


def pack(policy: Policy) -> bytes:
    """Return the record of a policy; of one derived for some calls, that of the configured one."""
    policy = policy.configured or policy
    if not policy.stored:
        policy.stored = _POLICY.pack(
            policy.cooldown_ns,
            policy.strict,
            policy.sticky_s,
            policy.history,
            policy.history_age_ns,
        )
    return policy.stored


def read(raw: bytes | None) -> Policy:
    """Return the policy of a record; the default when there is none, or it is not valid."""
    policy = Policy()
    if raw is not None and is_valid(raw):
        (
            policy.cooldown_ns,
            policy.strict,
            policy.sticky_s,
            policy.history,
            policy.history_age_ns,
        ) = _POLICY.unpack(raw)
        policy.stored = raw
    return policy


def is_valid(raw: bytes) -> bool:
    """Return whether this is the record of a policy that can be configured."""
    if len(raw) != _POLICY.size:
        return False
    cooldown_ns, _, _, history, history_age_ns = _POLICY.unpack(raw)
    return bool(max(cooldown_ns, history_age_ns) < MOST_S * 10**9 and history <= MOST_HISTORY)
