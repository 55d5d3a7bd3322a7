"""What imports what: floors without circles, and a hot path that pulls in nothing heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests import import_graph

import fastipam
from fastipam import late_errors

SOURCE = Path(fastipam.__file__).parent
HEAVY = {
    "asyncio",
    "click",
    "dataclasses",
    "enum",
    "ipaddress",
    "json",
    "logging",
    "numpy",
    "re",
    "rich",
    "socket",
    "subprocess",
    "typing",
}
# Who may name lmdb beside storage: the command line shows its version, the bundle carries it.
SHOWS_LMDB = {
    "cli.commands.doctor.plugin",
    "cli.commands.install.bundle",
    "cli.commands.install.executables",
}
# Who may read and write bytes beside storage: what is no record of the store.
OTHER_BYTES = {
    "agent.protocol": "the launcher's requests, struct ucred of the kernel",
    "agent.web.api": "the picture as the page reads it",
    "cluster.engines.pool": "a random number",
    "cluster.node.node": "a random number",
    "cluster.registries.kubernetes.client": "a random number",
    "cluster.routing.kernel": "netlink messages",
    "rtnetlink": "netlink messages",
    "cluster.planner": "a hash of names",
    "picture.colours": "a hash of names",
}


def test_no_circles() -> None:
    """No module reaches itself by what it imports."""
    assert import_graph.circles(import_graph.graph()) == []


@pytest.mark.parametrize("module", sorted(import_graph.modules()))
def test_floors(module: str) -> None:
    """A module imports only what stands below it, or left of it on its floor."""
    imported = import_graph.imports(module, import_graph.modules())
    assert import_graph.upward({module: imported}) == []


def test_table_is_short() -> None:
    """The floors fit on a page, and every module has a place."""
    assert len(import_graph.FLOORS.strip().splitlines()) <= 20
    assert all(import_graph.place_of(name) for name in import_graph.modules())


def test_private_names_stay_private() -> None:
    """No name with a leading underscore is used in another folder than its own."""
    assert import_graph.private_uses() == []


def test_lmdb_only_in_storage() -> None:
    """Above storage nobody names lmdb, a cursor of its, a flag or a database's handle."""
    named = re.compile(
        r"\bimport lmdb\b|\.db_\w|\bset_range\b|\.txn\.txn\b|\bputmulti\b|True, True, False"
    )
    found = {
        name
        for name, path in import_graph.modules().items()
        if not name.startswith("storage") and named.search(path.read_text())
    }
    assert found == SHOWS_LMDB


def test_bytes_of_records_only_in_storage() -> None:
    """The bytes of what the store holds are made and read in ``storage`` alone."""
    found = set()
    for name, path in import_graph.modules().items():
        if name.partition(".")[0] in ("storage", "addressing"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                (isinstance(node, ast.Attribute) and node.attr in ("to_bytes", "from_bytes"))
                or (isinstance(node, ast.ImportFrom) and node.module == "struct")
                or (isinstance(node, ast.Import) and "struct" in [one.name for one in node.names])
            ):
                found.add(name)
    assert not found - set(OTHER_BYTES)
    assert set(OTHER_BYTES) <= found, "an exception that nobody needs any longer"


def run_bare(code: str) -> set[str]:
    """The modules that are there after ``code`` ran in a bare interpreter."""
    paths = [str(SOURCE.parent), *(path for path in sys.path if path.endswith("site-packages"))]
    program = f"import sys; sys.path[:0] = {paths!r}; before = set(sys.modules)\n{code}\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program + "print(*set(sys.modules) - before)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.split())


def loaded(code: str) -> set[str]:
    """The packages of these modules."""
    return {name.partition(".")[0] for name in run_bare(code)}


@pytest.mark.parametrize(
    "module", ["fastipam", "fastipam.ipam", "fastipam.network", "fastipam.cni"]
)
def test_nothing_heavy_is_imported(module: str) -> None:
    """The plugin is started for every pod: importing it costs what it needs, and no more."""
    assert not loaded(f"import {module}") & HEAVY


def test_nothing_heavy_is_used(tmp_path: Path) -> None:
    """Nor does opening a store, an assignment or a release import anything heavy."""
    code = (
        "from fastipam.ipam import open\n"
        f"with open({str(tmp_path / 'store')!r}) as ipam:\n"
        "    net = ipam.network('n', ['10.0.0.0/24', '2001:db8::/64'])\n"
        "    lease = net.allocate('a')\n"
        "    lease.cidr, lease.router_text, net.stats()\n"
        "    net._release_raw('a', 'eth0')\n"
    )
    assert not loaded(code) & HEAVY


SERVED = """
from fastipam.cni.handler import handle
ipam = b'{"dataDir": "%s", "subnet": "10.1.0.0/24"}'
config = b'{"cniVersion": "1.0.0", "name": "n", "ipam": ' + ipam + b"}"
environ = {"CNI_CONTAINERID": "c", "CNI_NETNS": "/n", "CNI_IFNAME": "eth0", "CNI_PATH": "/bin"}
for command in ("ADD", "DEL", "DEL"):
    assert handle(environ | {"CNI_COMMAND": command}, config)[0] == 0
"""


def test_no_exception_is_made(tmp_path: Path) -> None:
    """An ADD or DEL that succeeds makes no class of exceptions, and no table of errors."""
    served = SERVED % (tmp_path / "store")
    run_bare(served)  # makes the store
    assert not run_bare(served) & {"fastipam.errors", "errno"}
    refused = "assert handle(environ | {'CNI_COMMAND': 'ADD', 'CNI_NETNS': ''}, config)[0] == 1"
    assert "fastipam.errors" in run_bare(served + refused)


CLASSES = """
import builtins
build, made = builtins.__build_class__, []
def count(body, name, *rest, **more):
    made.append(f"{body.__module__}.{name}")
    return build(body, name, *rest, **more)
builtins.__build_class__ = count
import fastipam.cni.handler
made = [name for name in made if name.startswith("fastipam")]
assert len(made) <= 23, made
"""


def test_few_classes_are_made() -> None:
    """To make a class takes Python as long as a hundred lines: the plugin makes those it uses."""
    run_bare(CLASSES)


@pytest.mark.parametrize("name", ["open", "Bitmap", "Pod", "cni", "errors"])
def test_a_program_has_the_exceptions(name: str) -> None:
    """Whatever name a program uses first, later no call has to import the exceptions."""
    assert "fastipam.errors" in run_bare(f"import fastipam; fastipam.{name}")
    assert "fastipam.errors" in run_bare("import fastipam.cni; fastipam.cni.handle")


def test_every_exception_is_public() -> None:
    """What ``errors`` lists is a name of the package; a late one is the same class."""
    assert set(fastipam.errors.__all__) <= set(fastipam.__all__)
    for name in fastipam.errors.__all__:
        assert (
            getattr(fastipam, name) is getattr(late_errors, name) is getattr(fastipam.errors, name)
        )
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        getattr(late_errors, "Nothing")  # noqa: B009  # a type checker refuses the attribute


def test_public_api() -> None:
    """Every public name can be had, is listed, and is found by ``from fastipam import *``."""
    assert set(fastipam.__all__) <= set(dir(fastipam))
    for name in fastipam.__all__:
        assert getattr(fastipam, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(fastipam, "nothing")  # noqa: B009  # a type checker refuses the attribute
