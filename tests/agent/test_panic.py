"""A disk that refuses the write of LMDB's meta page, once or for a while, below a running agent.

LMDB then serves nobody who has the file open (MDB_PANIC) until it is opened anew.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ..cni.plugin import Make
from ..e2e import tools
from .conftest import Start
from .processes import FASTIPAM, Agent, ask

SUBNET = {"subnet": "10.1.0.0/24", "cooldown": 0}

# A meta page is written with a small pwrite() into the first two pages.
_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    static ssize_t (*real)(int, const void *, size_t, off_t);
    const char *once = getenv("FAIL_ONCE"), *always = getenv("FAIL");
    if (!real)
        real = dlsym(RTLD_NEXT, "pwrite");
    if (at < 8192 && size < 512 && (unlink(once) == 0 || access(always, F_OK) == 0)) {
        errno = EIO;
        return -1;
    }
    return real(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at)
{
    return pwrite(fd, data, size, at);
}
"""


@pytest.fixture
def once(tmp_path: Path) -> Path:
    """A file; while it is there the next write of a meta page fails, and removes it."""
    return tmp_path / "once"


@pytest.fixture
def always(tmp_path: Path) -> Path:
    """A file; while it is there every write of a meta page fails."""
    return tmp_path / "always"


@pytest.fixture
def frail(start: Start, once: Path, always: Path, tmp_path: Path) -> Agent:
    """An agent whose writes fail as the files say."""
    compiler = tools.require_compiler()
    library = tmp_path / "fail.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), "-xc", "-", "-ldl"]
    subprocess.run(command, input=_SOURCE, text=True, check=True)
    environment = {"LD_PRELOAD": str(library), "FAIL_ONCE": str(once), "FAIL": str(always)}
    store = str(tmp_path / "store")
    return start("--sweep-interval", "0", "--data-dir", store, env=environment)


def test_one_failed_write(frail: Agent, once: Path, config: Make) -> None:
    """The next request is served, and so are all that follow."""
    made = config(ipam=SUBNET)
    assert ask(frail.path, "ADD", made, "first").status == 0
    once.touch()
    ask(frail.path, "ADD", made, "hit")
    assert not once.exists(), "the fault was met"
    for number in range(3):
        assert ask(frail.path, "ADD", made, f"c{number}").status == 0
    assert ask(frail.path, "DEL", made, "first").status == 0
    assert ask(frail.path, "STATUS", made).status == 0


def test_a_disk_that_refuses_for_a_while(
    frail: Agent, always: Path, config: Make, tmp_path: Path
) -> None:
    """STATUS, the readiness probe and doctor say so while it lasts; then the next ADD is served."""
    made = config(ipam=SUBNET)
    configurations = tmp_path / "net.d"
    configurations.mkdir()
    (configurations / "1.conf").write_text(json.dumps(made))
    where = ["--conf-dir", str(configurations), "--socket", str(frail.path)]

    def command(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [str(FASTIPAM), *words, *where], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    assert ask(frail.path, "ADD", made, "first").status == 0
    assert command("status", "--agent")[0] == 0
    always.touch()
    for number in range(3):
        assert ask(frail.path, "ADD", made, f"c{number}").document["code"] == 5
    assert ask(frail.path, "VERSION", {}).status == 0, "to start it again would not help"
    assert ask(frail.path, "STATUS", made).document["code"] == 51
    status, text = command("status", "--agent")
    assert status == 1
    assert "the agent runs, but cannot serve network mynet" in text
    status, text = command("doctor")
    assert status == 1
    assert "the agent cannot serve network 'mynet' now" in text
    always.unlink()
    assert ask(frail.path, "ADD", made, "next").status == 0
    assert ask(frail.path, "STATUS", made).status == 0
    assert command("status", "--agent")[0] == 0
    assert "it cannot serve" not in command("doctor")[1]
