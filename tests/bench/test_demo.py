"""The demo: it finds what was lost, leaves a store that can be used, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bench.demo import beside, pool
from bench.demo.churn import Outcome, audit
from bench.demo.places import Places
from bench.errors import Failed

import fastipam

from ..agent.processes import Agent
from ..measuring import passed_on

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
OF_THE_NODE = "node-store"  # what the environment names must stay as it is


def start(directory: Path) -> subprocess.Popen[str]:
    """A quick demo that was started in ``directory``, in a process group of its own."""
    own = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}
    node = directory / OF_THE_NODE
    own |= {"FASTIPAM_DATA_DIR": str(node), "FASTIPAM_SOCKET": str(node / "s")} | passed_on()
    return subprocess.Popen(
        [sys.executable, "-m", "bench.demo", "--quick", "--directory", str(directory / "demo")],
        cwd=directory,
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def left(directory: Path) -> list[str]:
    """The command lines of processes that name the directory."""
    lines = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = one.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in line and "pytest" not in line:
            lines.append(line)
    return lines


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The directory in which a demo ran, and what it printed."""
    directory = tmp_path_factory.mktemp("demo")
    with start(directory) as process:
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    yield directory, said
    shutil.rmtree(directory)


def test_the_whole(done: tuple[Path, str]) -> None:
    """Every part runs to its end; no process is left, and the store of the node is untouched."""
    directory, said = done
    for number in range(1, 7):
        assert f"\n{number}. " in said, said
    assert "Nothing was lost: each of the 500 pods" in said
    assert max(map(len, said.partition("5. The map")[0].splitlines())) <= 100
    assert "Traceback" not in said
    assert not left(directory)
    assert not (directory / OF_THE_NODE).exists()
    assert sorted(one.name for one in (directory / "demo").glob("[!.]*")) == [
        "bin",
        "net.d",
        "store",
    ]


def test_what_to_try_next(done: tuple[Path, str]) -> None:
    """Each line of the end works when it is pasted, in the order in which they are printed."""
    directory, said = done
    lines = said.partition("6. Try next")[2].splitlines()[1:]
    lines = lines[: next(at for at, line in enumerate(lines) if line.startswith("rm -r"))]
    assert sum(line.startswith("fastipam ") for line in lines) == 7
    lines = [
        f"echo '== {line.split()[1]}'; {line} || echo failed: $?"
        if line.startswith("fastipam") and line[-1] != "&"
        else line
        for line in lines
    ]
    script = "\n".join(["trap 'kill %1; wait' EXIT", *lines])
    process = subprocess.run(
        ["bash", "-u"], input=script, cwd=directory, capture_output=True, text=True, check=False,
        timeout=120, env={"PATH": os.environ["PATH"], "HOME": str(directory)} | passed_on(),
    )  # fmt: skip
    said = process.stdout + process.stderr
    assert "failed:" not in said, said
    assert process.returncode == 0, said
    assert (directory / "demo" / "map.png").stat().st_size > 1000
    assert "no address matches" not in said
    history = process.stdout.partition("== history\n")[2].partition("== ")[0].lower()
    assert "assigned" in history, said
    assert "released" in history, said
    assert not left(directory)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("demo --directory /etc", "/etc is not empty and was not made by this demo"),
        ("demo --quik", "--quik is not an option"),
        ("demo --no-install", "type scripts/demo without --no-install"),
        ("test --no-install --version", "type scripts/test without --no-install"),
    ],
)
def test_what_cannot_be_meant(words: str, said: str, tmp_path: Path) -> None:
    """It is refused in one line, before anything is installed."""
    name, *arguments = words.split()
    command = [str(ROOT / "scripts" / name), *arguments, "--venv", str(tmp_path / "none")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={"PATH": os.defpath}
    )
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["demo", "test", "test-kubernetes", "mutation", "reference"])
def test_help_of_a_script(name: str, tmp_path: Path) -> None:
    """--help prints what the script does, and does nothing."""
    command = [str(ROOT / "scripts" / name), "--venv", str(tmp_path / "none"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "--venv" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["concepts", "floors", "make", "terminal"])
def test_a_wrong_option_makes_no_picture(name: str) -> None:
    """A script that writes tracked files refuses what it does not know, and prints its help."""
    script = ROOT / "docs" / "pictures" / f"{name}.py"
    for option, status in (("--help", 0), ("--no-such", 2)):
        command = [sys.executable, str(script), option]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == status
        assert "usage: " in done.stdout + done.stderr


def test_a_virtual_environment_that_was_interrupted(tmp_path: Path) -> None:
    """One without pip is made whole."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    source = (
        f'source "{ROOT}/scripts/environment.sh"; venv=$1; pip_install() {{ :; }}; new_environment'
    )
    subprocess.run(["bash", "-c", source, "bash", venv], check=True, timeout=120)
    subprocess.run([venv / "bin" / "python", "-m", "pip", "--version"], check=True)


def test_ctrl_c_during_the_installation() -> None:
    """It ends the script, also when the command that was running ends by itself."""
    source = f"""source "{ROOT}/scripts/environment.sh"; set -e
    waiting "doing it" "a while" bash -c 'trap "exit 0" INT; kill -INT {{-,}}$PPID; sleep 9 & wait'
    echo "it went on" """
    done = subprocess.run(
        ["bash", "-c", source], capture_output=True, text=True, check=False, timeout=60,
        process_group=0,
    )  # fmt: skip
    assert done.returncode == 130
    assert "it went on" not in done.stdout


def test_an_interruption_leaves_no_process(tmp_path: Path) -> None:
    """SIGINT in the middle: exit status 130, and everything that it started has ended."""
    process = start(tmp_path)
    assert process.stdout is not None
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            if line.startswith("4. "):
                break
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "remove it with: rm -r demo" in said
    assert "Traceback" not in said
    assert not left(tmp_path)


class TestDirectory:
    """The directory is a demo's, or it is refused."""

    def test_the_last_demo_is_replaced(self, tmp_path: Path) -> None:
        """The second run says so, and finds nothing of the first."""
        places = Places(tmp_path / "demo")
        with places.prepared() as replaces:
            assert not replaces
            (places.top / "old").touch()
            with pytest.raises(Failed, match="another demo is running"), places.prepared():
                pass
            assert (places.top / "old").exists()
        with places.prepared() as replaces:
            assert replaces
            assert not (places.top / "old").exists()

    def test_what_somebody_else_made_is_kept(self, tmp_path: Path) -> None:
        """A directory with files that no demo made is refused and keeps them."""
        (tmp_path / "data.mdb").touch()
        refusal = pytest.raises(Failed, match=r"not made by this demo.*--directory")
        with refusal, Places(tmp_path).prepared():
            pass
        assert (tmp_path / "data.mdb").exists()

    def test_one_that_is_in_use(self) -> None:
        """An agent that serves it has to be ended first; the message names its process."""
        with tempfile.TemporaryDirectory(prefix="fastipam-") as short:
            places = Places(Path(short, "demo"))
            with places.prepared():
                pass
            agent = Agent(places.socket, "--data-dir", str(places.store))
            try:
                with pytest.raises(Failed, match=rf"kill {agent.pid}$"), places.prepared():
                    pass
            finally:
                agent.finish()


class TestLosses:
    """The audit finds a lease that is gone, one that two have, and one too many."""

    @pytest.fixture
    def network(self, tmp_path: Path) -> Iterator[fastipam.Network]:
        with fastipam.open(tmp_path / "store") as ipam:
            network = ipam.network("podnet", "10.1.0.0/24", cooldown_s=0)
            network.allocate("a", addresses=["10.1.0.7"])
            network.allocate("b", addresses=["10.1.0.8"])
            yield network

    def test_none(self, network: fastipam.Network) -> None:
        """The answers are in the store."""
        told = {"a": "10.1.0.7", "b": "10.1.0.8"}
        assert audit(network, Outcome(answered=told, stopped={"c"}), 2) == []

    @pytest.mark.parametrize(
        ("told", "stopped", "living", "wrong"),
        [
            ({"a": "10.1.0.7", "c": "10.1.0.9"}, set(), 2, "c was told 10.1.0.9; the store has"),
            ({"a": "10.1.0.7", "b": "10.1.0.7"}, set(), 2, "10.1.0.7 was given to 2 pods"),
            ({"a": "10.1.0.7"}, {"b"}, 2, "b was released"),
            ({"a": "10.1.0.7"}, set(), 3, "3 pods run; the store has 2 leases"),
        ],
        ids=["lost", "twice", "not-released", "count"],
    )
    def test_one(
        self,
        network: fastipam.Network,
        told: dict[str, str],
        stopped: set[str],
        living: int,
        wrong: str,
    ) -> None:
        """What is wrong is named."""
        found = audit(network, Outcome(answered=told, stopped=stopped), living)
        assert any(wrong in one for one in found), found


def test_host_local_is_not_fastipam(tmp_path: Path) -> None:
    """A plugin of another name counts only when it is not fastipam's own launcher."""
    for name, content in (("own", b"\x7fELF FASTIPAM_SOCKET"), ("peer", b"\x7fELF Go")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "host-local").write_bytes(content)
    places = tuple(str(tmp_path / name) for name in ("none", "own", "peer"))
    assert beside.find_host_local(places) == tmp_path / "peer" / "host-local"
    assert beside.find_host_local(places[:2]) is None


def test_deployments_fill_the_pool_once() -> None:
    """Every container has one deployment, and those that stop are some of them."""
    listed = pool.deployments(65_407)
    assert [at for one in listed for at in one.numbers] == list(range(65_407))
    chosen = pool.choose(listed, 9_000)
    assert 9_000 <= sum(one.pods for one in chosen) < 14_000
    assert set(chosen) < set(listed)
