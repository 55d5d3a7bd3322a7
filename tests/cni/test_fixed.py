"""The n-th address of a list for the n-th pod of a StatefulSet."""

from __future__ import annotations

import pytest

from fastipam.addressing.addresses import format_ip
from fastipam.cni import fixed, pod_annotations
from fastipam.errors import ConfigError


def addresses(text: str, pod: str) -> list[str]:
    """What a list keeps for a pod."""
    chosen = pod_annotations.choice({pod_annotations.ADDRESSES: text}, "pod annotation")
    return [format_ip(*one) for one in fixed.addresses(chosen.addresses, pod)]


@pytest.mark.parametrize(
    ("text", "pod", "wanted"),
    [
        ("10.9.0.10,fd00::10", "web-0", ["10.9.0.10", "fd00::10"]),
        ("10.9.0.10,10.9.0.20,fd00::10,fd00::20", "web-1", ["10.9.0.20", "fd00::20"]),
        ("fd00::10,10.9.0.10,10.9.0.20,fd00::20", "web-1", ["fd00::20", "10.9.0.20"]),
        ("10.9.0.16/29", "web-0", ["10.9.0.16"]),
        ("10.9.0.16/29,fd00::10/125", "db-a-7", ["10.9.0.23", "fd00::17"]),
        ("10.9.0.10-10.9.0.12,10.9.0.40", "web-3", ["10.9.0.40"]),
        ("10.9.0.10", "web", ["10.9.0.10"]),
        ("10.9.0.10,fd00::10", "one-off-x7", ["10.9.0.10", "fd00::10"]),
        ("10.9.0.10,fd00::10", "", ["10.9.0.10", "fd00::10"]),
        ("10.9.0.16/29", "web-007", ["10.9.0.23"]),
        ("fd00::/64", "web-22222", ["fd00::56ce"]),
    ],
)
def test_the_nth_of_each_family(text: str, pod: str, wanted: list[str]) -> None:
    """A list, CIDRs and ranges are counted through; a pod without a number gets the only one."""
    assert addresses(text, pod) == wanted


@pytest.mark.parametrize(
    ("text", "pod", "told"),
    [
        (
            "10.9.0.16/29",
            "web-8",
            "the pod web-8 has ordinal 8, but only 8 IPv4 addresses are listed",
        ),
        ("10.9.0.16/29", "web-8", "(ordinals 0 to 7)"),
        ("10.9.0.10", "web-1", "has ordinal 1, but only 1 IPv4 address is listed (ordinal 0)"),
        ("10.9.0.16/29,fd00::10", "web-3", "but only 1 IPv6 address is listed"),
        ("10.9.0.16/29", "web-5d9c8b7f4-22222", "has ordinal 22222, but only 8 IPv4 addresses"),
        ("10.9.0.16/29", "web-x7k2p", "8 IPv4 addresses are listed, but the name of pod web-x7k2p"),
        ("10.9.0.16/29", "", "8 IPv4 addresses are listed, but the request names no pod"),
        ("10.9.0.16/29", f"web-{2**64}", f"has ordinal {2**64}, but only 8 IPv4 addresses"),
        ("10.9.0.16/29,10.9.0.20", "web-0", "10.9.0.20 is listed twice"),
        ("10.9.0.16,10.9.0.16", "web-0", "10.9.0.16 is listed twice"),
        ("fd00::10,10.9.0.16,fd00::8-fd00::20", "web-0", "fd00::10 is listed twice"),
    ],
)
def test_refused(text: str, pod: str, told: str) -> None:
    """With both values: the number, and how many addresses there are."""
    with pytest.raises(ConfigError) as refused:
        addresses(text, pod)
    assert told in refused.value.message
    assert refused.value.field == "pod annotation fastipam.io/addresses"
