"""What imports what: dependencies point one way, and the hot path pulls in nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastipam

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
# What a module may import of the project. A package stands for all that is in it; every module may
# import from its own package.
BASE = {"errors", "addresses", "records"}
STORE = {"errors", "records", "state", "faults", "datadir", "transaction", "store"}
BOOKS = BASE | {
    "blocks",
    "blockwise",
    "bulk",
    "change",
    "collect",
    "cooldown",
    "history",
    "holds",
    "lease",
    "ledger",
    "openblocks",
    "policy",
    "ranges",
    "rangespec",
    "reboot",
    "refusals",
    "state",
    "store",
    "transaction",
}
ALLOWED = {
    "errors": set(),
    "addresses": {"errors"},
    "ranges": {"errors", "addresses"},
    "rangespec": {"errors", "addresses", "ranges"},
    "records": {"errors", "addresses"},
    "_bitmap": {"errors"},
    "truncation": set(),
    "faults": {"errors"},
    "datadir": {"errors", "faults", "truncation"},
    "transaction": STORE | {"_bitmap"},
    "store": STORE | {"founding"},
    "founding": STORE,
    "lease": BASE,
    "state": {"errors", "records"},
    "policy": {"errors"},
    "history": BASE | {"store", "state", "policy", "transaction"},
    "blocks": BASE | {"ranges", "store", "transaction", "_bitmap"},
    "openblocks": BASE | {"blocks", "ranges", "store", "transaction", "_bitmap"},
    "blockwise": BOOKS | {"_bitmap"},
    # The books of a network; the parts that not every call needs are modules of their own.
    "ledger": BOOKS,
    "cooldown": BOOKS,
    "bulk": BOOKS,
    "refusals": BOOKS,
    "holds": BOOKS,
    "change": BOOKS,
    "collect": {"errors", "network", "records"},
    "reboot": BOOKS,
    "view": BOOKS | {"_bitmap"},
    "network": BOOKS | {"view"},
    "ipam": {"errors", "ranges", "rangespec", "network", "policy", "store", "transaction"},
    "verify": BASE
    | {"ranges", "store", "transaction", "state", "policy", "history", "holds", "_bitmap"},
    "sight": {"lease", "records"},
    "sweep": BOOKS | {"network", "ipam", "sight"},
    "repair": BOOKS | {"verify", "_bitmap"},
    "backup": BASE | {"blocks", "faults", "store", "transaction", "state", "verify"},
    "testing": {"errors", "ipam", "network", "verify"},
    "picture": BOOKS,
}
# Higher layers, lowest first: each may use what is above in this list, and all modules of ALLOWED.
LAYERS = ["cluster", "cni", "agent", "cli"]


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def home(path: Path) -> str:
    """The module or package directly below ``fastipam`` that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The project's modules that a file imports, at its top or inside a function."""
    package = ("fastipam", *path.relative_to(SOURCE).parent.parts)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            whole = ".".join(part for part in (base, node.module) if part)
            # ``from fastipam import records`` names a module, or a part of the public API.
            names = [whole]
            if whole == "fastipam":
                names = [f"fastipam.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("fastipam.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_layers(path: Path) -> None:
    """A module imports only what lies below it; nothing imports the command line."""
    its_home = home(path)
    if its_home == "__init__":
        return
    used = imports(path) - {its_home}
    if its_home in ALLOWED:
        assert used <= ALLOWED[its_home]
    elif its_home in LAYERS:
        above = set(LAYERS[LAYERS.index(its_home) + 1 :])
        assert not used & above
    if its_home != "cli":
        assert "cli" not in used


def loaded(code: str) -> set[str]:
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
    return {name.partition(".")[0] for name in done.stdout.split()}


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
        "    net.release_raw('a', 'eth0')\n"
    )
    assert not loaded(code) & HEAVY


def test_public_api() -> None:
    """Every public name can be had, is listed, and is found by ``from fastipam import *``."""
    assert set(fastipam.__all__) <= set(dir(fastipam))
    for name in fastipam.__all__:
        assert getattr(fastipam, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fastipam.nothing
