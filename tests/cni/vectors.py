"""Recorded requests with the answers that they have to get, and how an answer is compared.

``host-local.json`` has what host-local 1.9.1 answered, ``field.json`` what users have reported.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plugin import Answer, Plugin

CASES = [
    case
    for name in ("host-local.json", "field.json")
    for case in json.loads((Path(__file__).parents[1] / "data" / name).read_text())["cases"]
]


def replay(case: dict[str, Any], plugin: Plugin, directory: Path) -> None:
    """Each step has the recorded exit status and result, with the variables in any order."""
    chance = random.Random(case["name"])
    if "resolv.conf" in case:
        (directory / "resolv.conf").write_text(case["resolv.conf"])
    for number, step in enumerate(case["steps"]):
        text = json.dumps(step["config"]) if "config" in step else step["raw"]
        variables = list(step["env"].items())
        chance.shuffle(variables)
        answer = plugin.raw(dict(variables), text.replace("$D", str(directory)).encode())
        _compare(answer, step["expect"], f"{case['name']}, step {number}")


def _without_empty_dns(document: Any) -> Any:
    if isinstance(document, dict) and document.get("dns") == {}:
        return {key: value for key, value in document.items() if key != "dns"}
    return document


def _compare(answer: Answer, expect: dict[str, Any], where: str) -> None:
    assert answer.status == expect["exit"], f"{where}: {answer}"
    if expect["exit"]:
        assert answer.code != 999, f"{where}: {answer}"
        if expect["error_code"] != "any":
            assert answer.code == expect["error_code"], f"{where}: {answer}"
    elif expect.get("result", "any") != "any":
        expected = _without_empty_dns(expect["result"])
        assert _without_empty_dns(answer.document) == expected, f"{where}: {answer}"
    assert expect.get("stderr", "") in answer.stderr, f"{where}: {answer}"
