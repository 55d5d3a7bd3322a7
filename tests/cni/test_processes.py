"""The plugin as many processes at once, and as one with odd descriptors."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from fastipam.cli.commands.install.executables import DIRECT

from ..options import options
from .plugin import Call, Held, Make, Plugin, environment

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 20 if options.long else 2
PARALLEL = 64
SUBNET = {"subnet": "10.1.2.0/24"}


def _start(
    plugin: Plugin, command: str, container_id: str, stdin: bytes
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [plugin.path],
        env=environment(command, container_id),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(stdin)
    process.stdin.close()
    process.stdin = None
    return process


def _all(plugin: Plugin, command: str, stdin: bytes, ids: list[str]) -> list[Any]:
    """One process for each id, all of them at once; what they printed."""
    printed = []
    for process in [_start(plugin, command, one, stdin) for one in ids]:
        stdout, stderr = process.communicate()
        assert (process.returncode, stderr) == (0, b""), stdout
        printed.append(json.loads(stdout) if stdout else None)
    return printed


def test_many_at_once(plugin: Plugin, config: Make, held: Held) -> None:
    """64 processes that ADD get 64 addresses, and 64 that DEL leave nothing; again and again."""
    ranges = [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8::/64"}]]
    stdin = json.dumps(config(ipam={"ranges": ranges})).encode()
    for turn in range(ROUNDS):
        ids = [f"c{turn}-{at}" for at in range(PARALLEL)]
        results = _all(plugin, "ADD", stdin, ids)
        addresses = [one["address"].partition("/")[0] for each in results for one in each["ips"]]
        assert len(set(addresses)) == 2 * PARALLEL
        assert set(held()) == set(addresses)
        assert {container_id for container_id, _ in held().values()} == set(ids)
        assert _all(plugin, "DEL", stdin, ids) == [None] * PARALLEL
        assert held() == {}


def test_many_for_few(plugin: Plugin, config: Make, held: Held) -> None:
    """When 24 processes want one of five addresses, five get one and the others code 100."""
    stdin = json.dumps(config(ipam={"subnet": "10.1.2.0/29"})).encode()
    processes = [_start(plugin, "ADD", f"c{at}", stdin) for at in range(24)]
    codes = [json.loads(one.communicate()[0]).get("code") for one in processes]
    assert sorted(codes, key=bool) == [None] * 5 + [100] * 19
    assert len(held()) == 5


def test_many_for_the_same(plugin: Plugin, config: Make, held: Held) -> None:
    """Of 16 processes that ADD for the same owner one succeeds."""
    stdin = json.dumps(config(ipam=SUBNET)).encode()
    processes = [_start(plugin, "ADD", "c1", stdin) for _ in range(16)]
    codes = [json.loads(one.communicate()[0]).get("code") for one in processes]
    assert sorted(codes, key=bool) == [None] + [102] * 15
    assert len(held()) == 1


def test_killed_at_any_time(plugin: Plugin, config: Make, call: Call, held: Held) -> None:
    """A process that is killed leaves a whole lease or none, and DEL frees it."""
    made = config(ipam=SUBNET)
    stdin = json.dumps(made).encode()
    for at in range(30):
        process = _start(plugin, "ADD", f"c{at}", stdin)
        try:
            process.wait(at / 1000)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    for container_id, _ in held().values():
        assert call("CHECK", made, container_id).status == 0
    for at in range(30):
        assert call("DEL", made, f"c{at}").status == 0
    assert held() == {}


# Descriptors ----------------------------------------------------------------------------------


def _shell(plugin: Plugin, redirections: str, command: str, stdin: bytes) -> Any:
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" {redirections}', str(plugin.path)],
        env=environment(command),
        input=stdin,
        capture_output=True,
        check=False,
    )


def test_closed_standard_input(plugin: Plugin, config: Make, held: Held) -> None:
    """Without standard input there is no configuration: an error, and nothing is read elsewhere."""
    stdin = json.dumps(config(ipam=SUBNET)).encode()
    plugin.raw(environment("ADD"), stdin)
    done = _shell(plugin, "<&-", "ADD", stdin)
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 6
    assert done.stderr == b""
    assert len(held()) == 1


def test_unreadable_standard_input(plugin: Plugin) -> None:
    """Standard input that cannot be read, being open for writing only, is code 5."""
    done = _shell(plugin, "0>/dev/null", "ADD", b"")
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 5
    assert b"Traceback" not in done.stderr


def test_closed_standard_output(plugin: Plugin, config: Make, tmp_path: Path) -> None:
    """ADD without standard output assigns nothing, and writes into no file of the store."""
    made = config(ipam=SUBNET)
    stdin = json.dumps(made).encode()
    plugin.raw(environment("ADD", "c0"), stdin)
    before = [(tmp_path / "store" / one).read_bytes() for one in ("data.mdb", "lock.mdb")]
    for closed in (">&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"):
        done = _shell(plugin, closed, "ADD", stdin)
        assert done.returncode == 1
        assert b"Traceback" not in done.stderr
        assert before == [
            (tmp_path / "store" / one).read_bytes() for one in ("data.mdb", "lock.mdb")
        ]
    assert plugin("CHECK", made, "c0").status == 0


def test_closed_descriptors_in_del(plugin: Plugin, config: Make, held: Held) -> None:
    """DEL has nothing to print: it frees with closed descriptors, too."""
    stdin = json.dumps(config(ipam=SUBNET)).encode()
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        plugin.raw(environment("ADD"), stdin)
        assert _shell(plugin, closed, "DEL", stdin).returncode == 0
        assert held() == {}


def test_closed_standard_error(plugin: Plugin, config: Make) -> None:
    """What would be logged is lost, and not written anywhere else."""
    made = config(ipam=SUBNET | {"unknown": 1})
    done = _shell(plugin, "2>&-", "ADD", json.dumps(made).encode())
    assert done.returncode == 0
    assert json.loads(done.stdout)["ips"]
    assert plugin("CHECK", made).status == 0


def test_full_device(plugin: Plugin, config: Make, held: Held) -> None:
    """An answer that cannot be written is a failure; the DEL that follows it frees."""
    made = config(ipam=SUBNET)
    done = _shell(plugin, ">/dev/full", "ADD", json.dumps(made).encode())
    assert done.returncode == 1
    assert b"standard output" in done.stderr
    assert b"Traceback" not in done.stderr
    assert plugin("DEL", made).status == 0
    assert held() == {}


def test_reader_went_away(plugin: Plugin, config: Make, held: Held) -> None:
    """A pipe that nobody reads any more is a failure, too, and not a signal."""
    made = config(ipam=SUBNET)
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [plugin.path],
        env=environment("ADD"),
        input=json.dumps(made).encode(),
        stdout=write_end,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write_end)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert plugin("DEL", made).status == 0
    assert held() == {}


@pytest.mark.parametrize("blocking", [True, False])
def test_full_pipe(blocking: bool, plugin: Plugin, config: Make) -> None:
    """An answer waits for a slow reader, even when the pipe is set to non-blocking."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    filled = 0
    try:
        while True:
            filled += os.write(write_end, b" " * 4096)
    except BlockingIOError:
        pass
    os.set_blocking(write_end, blocking)
    stdin = json.dumps(config(ipam=SUBNET)).encode()
    process = subprocess.Popen(
        [plugin.path], env=environment("ADD"), stdin=subprocess.PIPE, stdout=write_end
    )
    os.close(write_end)
    assert process.stdin is not None
    process.stdin.write(stdin)
    process.stdin.close()
    with os.fdopen(read_end, "rb") as reader:
        text = reader.read()
    assert process.wait() == 0
    assert json.loads(text[filled:])["ips"][0]["address"] == "10.1.2.2/24"


def test_slow_non_blocking_input(plugin: Plugin, config: Make) -> None:
    """A configuration is waited for, even when the pipe is set to non-blocking."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    process = subprocess.Popen(
        [plugin.path], env=environment("ADD"), stdin=read_end, stdout=subprocess.PIPE
    )
    # The process sets the pipe, which it shares with us, to blocking when it finds it empty.
    while fcntl.fcntl(read_end, fcntl.F_GETFL) & os.O_NONBLOCK and process.poll() is None:
        pass
    os.close(read_end)
    os.write(write_end, json.dumps(config(ipam=SUBNET)).encode())
    os.close(write_end)
    stdout, _ = process.communicate()
    assert json.loads(stdout)["ips"][0]["address"] == "10.1.2.2/24"


def test_version_does_not_read(plugin: Plugin) -> None:
    """VERSION answers while standard input stays open and empty."""
    read_end, write_end = os.pipe()
    done = subprocess.run(
        [plugin.path],
        env={"CNI_COMMAND": "VERSION"},
        stdin=read_end,
        capture_output=True,
        check=True,
        timeout=30,
    )
    os.close(read_end)
    os.close(write_end)
    assert done.stdout.endswith(b'"1.1.0"]}\n')
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


def test_arguments_do_not_matter(plugin: Plugin, config: Make) -> None:
    """The executable in the bin directory is the plugin, whatever arguments it gets."""
    done = subprocess.run(
        [plugin.path, "--help", "list"],
        env=environment("ADD"),
        input=json.dumps(config(ipam=SUBNET)).encode(),
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["ips"]


HOLDER = """
import sys
import fastipam
with fastipam.open(sys.argv[1]) as ipam, ipam.transaction():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_was_waited_for_an_agent_counts(plugin: Plugin, config: Make, tmp_path: Path) -> None:
    """A process that runs because its agent went away waits for a writer only what is left."""
    made = config(ipam=SUBNET)
    assert plugin("ADD", made, "c1").status == 0
    began_ns = time.monotonic_ns() - 7 * 10**9
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "store")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        own = environment("ADD", "c2") | {"FASTIPAM_STARTED": str(began_ns)}
        direct = Plugin(plugin.path.with_name(DIRECT))  # the launcher would say when it began
        answer = direct.raw(own, json.dumps(made).encode())
        took_ns = time.monotonic_ns() - began_ns
        holder.communicate(b"")
    assert answer.code == 11, answer
    assert took_ns < 14 * 10**9, "it would be 15 s if it had waited anew"
