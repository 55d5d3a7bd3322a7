"""Limits of a process (ulimit): the message names the limit, and what passes is code 11."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from fastipam.cni.error_codes import explain
from fastipam.cni.main import _last_words, _quoted
from fastipam.storage.lmdb_errors import translate

from .plugin import NO_AGENT, environment

if TYPE_CHECKING:
    from .plugin import Make, Plugin

FILES, SPACE, SIZE = resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_FSIZE


def _limited(
    plugin: Plugin, config: dict[str, Any], command: str, limit: int, most: int
) -> dict[str, Any]:
    done = subprocess.run(
        [plugin._unmeasured],
        env=environment(command) | {"FASTIPAM_SOCKET": str(NO_AGENT)},
        input=json.dumps(config).encode(),
        capture_output=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(limit, (most, most)),
    )
    assert b"Traceback" not in done.stderr + done.stdout
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(
    ("limit", "most", "code", "words"),
    [
        (FILES, 6, 11, ("6 files", "ulimit -n")),
        (SPACE, 200 << 20, 11, ("200 MiB", "ulimit -v", "64 GiB")),
        (SIZE, 1024, 5, ("1 KiB", "ulimit -f")),
    ],
)
@pytest.mark.parametrize(
    ("command", "is_new"), [("ADD", True), ("ADD", False), ("DEL", False), ("STATUS", False)]
)
def test_the_limit_is_named(
    limit: int,
    most: int,
    code: int,
    words: tuple[str, ...],
    is_new: bool,
    command: str,
    plugin: Plugin,
    config: Make,
) -> None:
    """The error says which limit was met and how large it is, and how to raise it."""
    made = config(ipam={"subnet": "10.1.2.0/24"})
    if not is_new:
        assert plugin("ADD", made, "c0").status == 0
    if limit == SIZE:
        command = "ADD"  # the others write into pages that the file has
    answer = _limited(plugin, made, command, limit, most)
    assert answer["code"] == code, answer
    assert all(word in answer["msg"] for word in words), answer
    assert "Limit" in answer["details"], answer
    assert plugin("ADD", made, "later").status == 0


@pytest.mark.parametrize("most_mib", [15, 17, 20, 30])  # MiB; with 12, CPython 3.13 does not start
def test_hardly_any_address_space(most_mib: int, plugin: Plugin, config: Make) -> None:
    """A process that cannot even import what it needs answers with an error object of code 11."""
    made = config(ipam={"subnet": "10.1.2.0/24"})
    answer = _limited(plugin, made, "ADD", SPACE, most_mib << 20)
    assert answer["code"] == 11, answer


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "fs.file-max"),
        (errno.ENOMEM, "memory"),
    ],
)
def test_wherever_it_is_met(code: int, words: str) -> None:
    """Outside of the store, and before anything is loaded, the same is code 11."""
    error = OSError(code, "x")
    for met, said, _ in (explain(error), explain(translate(error, "/store"))):
        assert met == 11
        assert words in said
    assert json.loads(_last_words(error, "3.11"))["code"] == 11
    assert json.loads(_last_words(MemoryError(), "3.11"))["code"] == 11


@pytest.mark.parametrize("text", ["", 'a"b\\c', "line\nline\x00\x1b", "é …", "\U000e0001"])
def test_quoted(text: str) -> None:
    """The texts of the last words are JSON, though nothing was imported for it."""
    read = json.loads(_quoted(text))
    assert read == "".join(one if ord(one) <= 0xFFFF else "\ufffd" for one in text)
