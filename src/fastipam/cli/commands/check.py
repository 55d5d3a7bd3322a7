"""``fastipam check``."""

from __future__ import annotations

from dataclasses import asdict

import fastipam
from fastipam.cli import options, output
from fastipam.cli.group import command as _command


@_command(
    "check",
    examples=(("fastipam check", "while everything runs: it reads one moment's state"),),
    exits={0: "the store is consistent", 1: "findings were printed, or an error"},
)
@options.data_dir
@options.as_json
def command(data_dir: str, as_json: bool) -> None:
    """Compare all that the store holds with itself; print what disagrees. Changes nothing."""
    from fastipam.verify import verify

    with fastipam.open(data_dir, create=False) as ipam:
        findings = [asdict(finding) for finding in verify(ipam.store)]
    if as_json:
        output.json_array(findings)
    else:
        for finding in findings:
            output.say(f"{finding['network']}: {finding['where']}: {finding['text']}")
        if not findings:
            output.say(f"{data_dir}: consistent")
    if findings:
        raise SystemExit(1)
