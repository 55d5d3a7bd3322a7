"""Leases in from host-local, and back: against the real plugin."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import fastipam
from fastipam.cli.commands import cli
from fastipam.cli.migration import import_host_local
from fastipam.cni import handle
from fastipam.host_local import booted_ns

from ..e2e import tools

if TYPE_CHECKING:
    from collections.abc import Callable

HOST_LOCAL = Path("/usr/lib/cni/host-local")
NETWORKS: dict[str, list[list[dict[str, str]]]] = {
    "mynet": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]],
    "other": [[{"subnet": "10.9.0.0/16"}]],
}


def variables(command: str, container_id: str, ifname: str = "eth0") -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id,
        "CNI_IFNAME": ifname,
        "CNI_NETNS": "/some/where",
        "CNI_PATH": "/opt/cni/bin",
    }


def configuration(network: str, data_dir: Path) -> bytes:
    ipam = {"type": "any", "dataDir": str(data_dir), "ranges": NETWORKS[network]}
    document = {"cniVersion": "1.0.0", "name": network, "type": "bridge", "ipam": ipam}
    return json.dumps(document).encode()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Where host-local keeps its files."""
    return tmp_path / "networks"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where fastipam keeps its own."""
    return tmp_path / "store"


@pytest.fixture
def host_local(tree: Path) -> Callable[..., Any]:
    """Run the real host-local on the tree."""
    if not HOST_LOCAL.exists():
        tools.lacking(f"{HOST_LOCAL} is not installed (containernetworking-plugins)")

    def run(command: str, network: str, container_id: str, ifname: str = "eth0") -> Any:
        done = subprocess.run(
            [HOST_LOCAL],
            env=variables(command, container_id, ifname),
            input=configuration(network, tree),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return json.loads(done.stdout) if done.stdout else None

    return run


def fastipam_run(command: str, network: str, store: Path, container_id: str) -> Any:
    status, output = handle(variables(command, container_id), configuration(network, store))
    assert status == 0, output
    return json.loads(output) if output else None


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(one) for one in arguments])


def listed(store: Path) -> dict[str, tuple[str, str, str]]:
    """Assigned addresses with network, container and interface."""
    rows = json.loads(command("list", "--json", "--data-dir", store).stdout)
    return {
        row["address"]: (row["network"], row["container_id"], row["ifname"])
        for row in rows
        if row["status"] == "ASSIGNED"
    }


def addresses(result: Any) -> list[str]:
    return [one["address"] for one in result["ips"]]


def test_leases_of_host_local_are_released_by_us(
    host_local: Callable[..., Any], tree: Path, store: Path
) -> None:
    """After an import our DEL frees what host-local gave, and our ADD goes on where it stood."""
    for number in range(3):
        host_local("ADD", "mynet", f"c{number}")
    host_local("ADD", "other", "c0")
    host_local("DEL", "mynet", "c1")
    done = command("import", "host-local", tree, "--data-dir", store)
    assert done.exit_code == 0, done.output
    assert listed(store) == {
        "10.1.2.2": ("mynet", "c0", "eth0"),
        "10.1.2.4": ("mynet", "c2", "eth0"),
        "2001:db8:1::2": ("mynet", "c0", "eth0"),
        "2001:db8:1::4": ("mynet", "c2", "eth0"),
        "10.9.0.2": ("other", "c0", "eth0"),
    }
    new = fastipam_run("ADD", "mynet", store, "new")
    assert addresses(new) == ["10.1.2.5/24", "2001:db8:1::5/64"]
    for container in ("c0", "c1", "c2", "new"):
        fastipam_run("DEL", "mynet", store, container)
    assert listed(store) == {"10.9.0.2": ("other", "c0", "eth0")}
    assert command("check", "--data-dir", store).exit_code == 0


def test_our_leases_are_released_by_host_local(
    host_local: Callable[..., Any], tree: Path, store: Path
) -> None:
    """After an export host-local's DEL frees what we gave, and its ADD goes on where we stood."""
    for number in range(3):
        fastipam_run("ADD", "mynet", store, f"c{number}")
    fastipam_run("DEL", "mynet", store, "c0")
    done = command("export", "host-local", tree, "--data-dir", store)
    assert done.exit_code == 0, done.output
    files = {path.name for path in (tree / "mynet").iterdir()} - {"lock"}
    assert files == {
        "10.1.2.3",
        "10.1.2.4",
        "2001:db8:1::3",
        "2001:db8:1::4",
        "last_reserved_ip.0",
        "last_reserved_ip.1",
    }
    assert addresses(host_local("ADD", "mynet", "new"))[0] == "10.1.2.5/24"
    for container in ("c1", "c2", "new"):
        host_local("DEL", "mynet", container)
    left = {path.name for path in (tree / "mynet").iterdir()}
    assert left == {"lock", "last_reserved_ip.0", "last_reserved_ip.1"}


def test_there_and_back(tree: Path, store: Path) -> None:
    """What was exported is imported as the same leases, and a second time nothing happens."""
    for number in range(4):
        fastipam_run("ADD", "mynet", store, f"c{number}")
    command("export", "host-local", tree, "--data-dir", store)
    again = store.with_name("again")
    for count in (1, 2):
        done = command("import", "host-local", tree, "--data-dir", again, "--json")
        assert done.exit_code == 0, done.output
        outcomes = {item["outcome"] for item in json.loads(done.stdout)}
        assert outcomes == {"done" if count == 1 else "present"}
        assert listed(again) == listed(store)
    outcomes = json.loads(
        command("export", "host-local", tree, "--data-dir", store, "--json").stdout
    )
    assert {item["outcome"] for item in outcomes if item["name"][0] != "l"} == {"present"}
    assert fastipam.open(again).network("mynet").stats().size == 8
    assert command("check", "--data-dir", again).exit_code == 0


def write(tree: Path, name: str, content: str, network: str = "mynet") -> None:
    (tree / network).mkdir(parents=True, exist_ok=True)
    (tree / network / name).write_bytes(content.encode())


def test_old_and_broken_files(tree: Path, store: Path) -> None:
    """Old files without interface are leases; empty and foreign ones are reported and skipped."""
    write(tree, "10.1.2.7", "old-container")
    write(tree, "10.1.2.8", "  spaced \r\n eth1 \n")
    write(tree, "10.1.2.9", "")
    write(tree, "README", "hello")
    write(tree, "last_reserved_ip.0", "10.1.2.40")
    write(tree, "last_reserved_ip.x", "10.1.2.40")
    (tree / "mynet" / "10.1.2.10").symlink_to("/etc/hostname")
    (tree / "file").write_text("x")
    done = command("import", "host-local", tree, "--data-dir", store, "--json")
    outcomes = {item["name"]: item["outcome"] for item in json.loads(done.stdout)}
    assert outcomes == {
        "10.1.2.7": "done",
        "10.1.2.8": "done",
        "last_reserved_ip.0": "done",
        "10.1.2.9": "skipped",
        "10.1.2.10": "skipped",
        "README": "skipped",
        "last_reserved_ip.x": "skipped",
        "file": "skipped",
    }
    assert listed(store) == {
        "10.1.2.7": ("mynet", "old-container", ""),
        "10.1.2.8": ("mynet", "spaced", "eth1"),
    }
    assert addresses(fastipam_run("ADD", "mynet", store, "c"))[0] == "10.1.2.41/24"
    fastipam_run("DEL", "mynet", store, "old-container")
    assert "10.1.2.7" not in listed(store)


def test_dry_run_changes_nothing(tree: Path, store: Path) -> None:
    """A dry run says what would be done, and leaves the store and the tree as they are."""
    write(tree, "10.1.2.7", "c\r\neth0")
    before = sorted(path.name for path in (tree / "mynet").iterdir())
    done = command("import", "host-local", tree, "--data-dir", store, "--dry-run", "--json")
    assert [item["outcome"] for item in json.loads(done.stdout)] == ["would"]
    said = command("import", "host-local", tree, "--data-dir", store, "--dry-run").stdout
    assert said == "would    mynet/10.1.2.7: c eth0\n1 would be imported\n"
    assert listed(store) == {}
    assert sorted(path.name for path in (tree / "mynet").iterdir()) == before


def test_progress_of_an_import(tree: Path, store: Path) -> None:
    """How many files of how many were read is told now and then, cursors and locks among them."""
    for number in range(150):
        write(tree, f"10.1.3.{number}", f"c{number}\r\neth0")
    total = sum(1 for path in tree.rglob("*") if path.is_file())
    told: list[tuple[int, int]] = []
    with fastipam.open(store) as ipam:
        items = import_host_local(ipam, tree, progress=lambda *one: told.append(one))
    assert len(items) >= 150
    assert told == [(64, total), (128, total)]


def test_conflicts_are_left_alone(tree: Path, store: Path) -> None:
    """An address that is somebody else's here, or a file that says otherwise, stays: status 1."""
    fastipam_run("ADD", "mynet", store, "ours")
    write(tree, "10.1.2.2", "theirs\r\neth0")
    done = command("import", "host-local", tree, "--data-dir", store)
    assert done.exit_code == 1
    assert "conflict" in done.output
    assert listed(store)["10.1.2.2"] == ("mynet", "ours", "eth0")
    done = command("export", "host-local", tree, "--data-dir", store)
    assert done.exit_code == 1
    assert (tree / "mynet" / "10.1.2.2").read_bytes() == b"theirs\r\neth0"


def test_names_that_cannot_be(tree: Path, store: Path) -> None:
    """A directory whose name is no network's is skipped, and so is a network that can be none."""
    write(tree, "10.1.2.7", "c", network="odd name")
    done = command("import", "host-local", tree, "--data-dir", store, "--json")
    assert json.loads(done.stdout) == [
        {
            "network": "odd name",
            "name": "",
            "outcome": "skipped",
            "text": "'odd name' is not a valid network name",
        }
    ]
    with fastipam.open(store) as ipam:
        ipam.network("odd/name", "10.1.2.0/24").allocate("c")
    done = command("export", "host-local", tree, "--data-dir", store, "--json")
    assert [(one["network"], one["outcome"], one["text"]) for one in json.loads(done.stdout)] == [
        ("odd/name", "skipped", "this is not a valid name of a directory")
    ]
    assert sorted(path.name for path in tree.iterdir()) == ["odd name"]


def test_links_in_the_way_of_an_export(tree: Path, store: Path, tmp_path: Path) -> None:
    """A link in the place of a directory or a file is a conflict: nothing is written through it."""
    other = tmp_path / "other"
    other.mkdir()
    with fastipam.open(store) as ipam:
        for name in ("linked", "mynet"):
            ipam.network(name, "10.1.2.0/24").allocate("c")
    tree.mkdir(exist_ok=True)
    (tree / "linked").symlink_to(other)
    (tree / "mynet").mkdir()
    (tree / "mynet" / "10.1.2.2").symlink_to(other / "file")
    done = command("export", "host-local", tree, "--data-dir", store, "--json")
    assert done.exit_code == 1
    found = {(one["network"], one["name"]): one for one in json.loads(done.stdout)}
    assert found["linked", ""]["text"] == f"{tree / 'linked'} is a symbolic link"
    assert found["mynet", "10.1.2.2"]["text"] == "a symbolic link has this name"
    assert {one["outcome"] for key, one in found.items() if key[1] != "last_reserved_ip.0"} == {
        "conflict"
    }
    assert list(other.iterdir()) == []


def test_mistyped_directories(tree: Path, store: Path, tmp_path: Path) -> None:
    """No tree is written and no store is made below a directory that does not exist."""
    write(tree, "10.1.2.8", "living\r\neth0")
    (tree / "notes").touch()
    done = command("import", "host-local", tree, "--data-dir", store)
    assert done.stdout.splitlines()[1] == "skipped  notes: not a network's directory"
    backup = tmp_path / "copy.mdb"
    assert command("backup", backup, "--data-dir", store).exit_code == 0
    wrong = tmp_path / "typo" / "below"
    for words, named in (
        (("export", "host-local", wrong, "--data-dir", store), "DIR"),
        (("import", "host-local", tree, "--data-dir", wrong), "--data-dir"),
        (("restore", backup, "--data-dir", wrong), "--data-dir"),
    ):
        done = command(*words)
        assert done.exit_code == 1
        assert done.stderr.splitlines() == [
            f"fastipam: {wrong.parent}: this directory does not exist",
            f"  hint: type `mkdir -p {wrong}`, or check the spelling of {named}",
        ]
        assert not wrong.parent.exists()


def test_export_that_cannot_be_written(
    tree: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full in the middle of a file leaves none: host-local would trip over it."""
    with fastipam.open(store) as ipam:
        ipam.network("mynet", "10.1.2.0/24").allocate("c")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("fastipam.cli.migration.os.fsync", full)
        done = command("export", "host-local", tree, "--data-dir", store)
    assert done.exit_code == 1
    assert "No space left on device" in done.output
    left = [path.name for path in (tree / "mynet").iterdir() if path.name != "lock"]
    assert left == []
    assert command("export", "host-local", tree, "--data-dir", store).exit_code == 0
    assert (tree / "mynet" / "10.1.2.2").read_bytes() == b"c\r\neth0"


def test_leases_from_before_the_boot(tree: Path, store: Path) -> None:
    """They are left out and counted, since their containers are gone; an option imports them."""
    write(tree, "10.1.2.7", "dead\r\neth0")
    write(tree, "10.1.2.8", "living\r\neth0")
    os.utime(tree / "mynet" / "10.1.2.7", ns=(booted_ns() - 10**9,) * 2)
    done = command("import", "host-local", tree, "--data-dir", store)
    assert done.stdout.splitlines() == [
        "older    mynet/10.1.2.7: dead eth0, from before the last boot",
        "done     mynet/10.1.2.8: living eth0",
        "1 done, 1 older than the last boot, left out (--keep-older imports them)",
    ]
    assert list(listed(store)) == ["10.1.2.8"]
    again = command("import", "host-local", tree, "--data-dir", store, "--keep-older")
    assert again.stdout.splitlines()[-1] == "1 done, 1 present"
    assert list(listed(store)) == ["10.1.2.7", "10.1.2.8"]


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        ("none", "{tree} does not exist", "it is the dataDir of host-local's configuration"),
        ("other", "{tree} is not a directory of host-local", "/var/lib/cni/networks by default"),
        ("network", "{tree} is the directory of one network", "fastipam import host-local {up}"),
    ],
)
def test_no_tree(tmp_path: Path, store: Path, make: str, message: str, hint: str) -> None:
    """What is no tree of host-local is refused in one line, and no store is made for it."""
    tree = tmp_path / make
    if make == "other":  # as /etc: files, directories with files, an empty directory
        for number in range(300):
            (tree / f"d{number}").mkdir(parents=True)
            (tree / f"d{number}" / "file").touch()
            (tree / f"f{number}").touch()
        (tree / "empty").mkdir()
    elif make == "network":
        write(tmp_path, "10.1.2.7", "c", network="network")
    done = command("import", "host-local", tree, "--data-dir", store)
    assert done.exit_code == 1
    assert done.stdout == ""
    said, hinted = done.stderr.splitlines()
    assert said.startswith(f"fastipam: DIR: {message.format(tree=tree)}")
    assert hint.format(up=tmp_path) in hinted
    assert not store.exists()


def test_foreign_directory_in_a_tree(tree: Path, store: Path) -> None:
    """A directory without a file of host-local is skipped in one line; an empty tree is fine."""
    tree.mkdir()
    done = command("import", "host-local", tree, "--data-dir", store)
    assert (done.exit_code, done.stdout) == (0, "there is nothing to import\n")
    write(tree, "10.1.2.7", "c")
    for number in range(9):
        write(tree, f"file-{number}", "x", network="foreign")
    done = command("import", "host-local", tree, "--data-dir", store)
    assert done.stdout.splitlines() == [
        "skipped  foreign: no file in the directory foreign has the name of an address",
        "done     mynet/10.1.2.7: c",
        "1 done, 1 skipped",
    ]
