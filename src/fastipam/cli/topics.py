"""The topics of ``fastipam help`` that are not commands, and the address of the documents."""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """A topic: its summary in a line, (term, text) pairs, and related commands."""

    summary: str
    terms: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]


TOPICS = {
    "states": Topic(
        "What ASSIGNED, COOLING, RESERVED and FREE mean.",
        (
            ("ASSIGNED", "A container has the address."),
            (
                "COOLING",
                'The address was released. No container gets it for "cooldown" seconds, unless '
                'nothing else is free ("cooldownPolicy": "strict" excludes that too).',
            ),
            ("RESERVED", "The address is kept from assignment, or kept for one pod or container."),
            ("FREE", "Any allocation may get the address."),
            (
                "EXCLUDED",
                "The address is in the subnet of a range and is never assigned: a gateway, an "
                "exclusion of the configuration, or outside the ends of the range.",
            ),
        ),
        ("list --state COOLING", "show ADDRESS", "reserve ADDRESS"),
    ),
    "times": Topic(
        "How a time or a duration is written: 14:05, 2h, 2026-11-24.",
        (
            (
                "14:05, 14:05:30",
                "The most recent one, today or yesterday; 14:05 is that whole minute.",
            ),
            ("2026-11-24", "That day."),
            ("2026-11-24 14:05", "That minute; with Z or +01:00 in another zone."),
            ("90s, 10m, 2h, 3d, 1w", "2h: two hours ago; as a duration, two hours."),
            ("zone", "A time without a zone is in the zone of this machine (TZ). JSON has UTC."),
        ),
        ("list --since 10m", "history ADDRESS --at 14:05"),
    ),
    "files": Topic(
        "Where fastipam keeps things on a node.",
        (
            ("/var/lib/cni/fastipam", "The store; --data-dir names another one."),
            ("/opt/cni/bin/fastipam", "The plugin that the runtime starts; install puts it there."),
            ("/etc/cni/net.d", "The network configurations of the runtime."),
            ("/run/fastipam/agent.sock", "The socket of the agent; --socket names another one."),
            ("/etc/fastipam/cluster.json", "The settings of a cluster, for fastipam cluster."),
        ),
        ("doctor", "install", "conflist"),
    ),
    "environment": Topic(
        "The variables that fastipam reads.",
        (
            ("FASTIPAM_DATA_DIR", "The directory of the store; --data-dir overrides it."),
            ("FASTIPAM_SOCKET", "The socket of the agent, for the plugin and for commands."),
            ("FASTIPAM_CLUSTER", "The file with the settings of a cluster."),
            ("NO_COLOR, TERM=dumb", "Print without colours."),
            ("TZ", "The zone in which times are printed and read."),
            ("CNI_COMMAND", "When it is set and there is no argument, fastipam is the plugin."),
        ),
        ("doctor", "completion bash"),
    ),
    "output": Topic(
        "What a terminal, a pipe and --json get.",
        (
            (
                "terminal",
                "A table fits the width: ages instead of times, and if it is still too wide, "
                "fewer columns. --wide shows every column.",
            ),
            ("pipe", "Every column, one line for each row; no cell is empty or cut."),
            ("--json", "An array, with the same names on every version; times are in UTC."),
            ("standard error", "Errors, hints and notes. Rows and JSON are on standard output."),
            ("exit status", "0: done. 1: an error, or findings. 2: wrong usage; nothing was done."),
        ),
        ("list --wide", "list --json", "list --watch"),
    ),
}


def documents() -> str:
    """Return the URL of the documents from the package's metadata, or "" if there is none."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        named = metadata("fastipam").get_all("Project-URL") or []
    except PackageNotFoundError:  # fastipam runs from its sources and is not installed
        return ""
    for one in named:
        label, _, address = str(one).partition(", ")
        if label == "Documentation":
            return address
    return ""
