"""The import graph of the package, and the floors that its modules stand on.

Every way to import counts: at the top, inside functions, under TYPE_CHECKING, and by a module's
name in a string (``importlib``, ``sys.modules``, the table of commands).
"""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "fastipam"
PACKAGE = "fastipam"
NATIVE = ("_bitmap", "_ledger")

# A line imports only from lines above it; within a line, only from what stands left of it. A name
# is a module, or a package with all that is in it and is not named by itself.
FLOORS = """
errors late_errors _bitmap _ledger namespaces processes
addressing rtnetlink
configuration
storage.records storage
owners lease
allocation
verify files repair backup picture
host_local network transactions tasks ipam sweep takeover
cluster cluster.engines cluster.node cluster.registries
cluster.routing cluster.masquerading cluster.keeper cluster.admin cluster.controller
cni
__init__
agent.protocol agent.requests agent.plain agent.web agent
cli cli.commands cli.reference cli.main
testing
"""


def places() -> list[str]:
    """Return every name of the table, lowest first."""
    return FLOORS.split()


def place_of(module: str) -> str:
    """Return the place of a module: the longest name of the table that it has or lies in."""
    inside = [one for one in places() if module == one or module.startswith(f"{one}.")]
    return max(inside, key=len)


def modules() -> dict[str, Path]:
    """Return every module by its name within the package; a package has its folder's name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


def imports(name: str, known: dict[str, Path]) -> set[str]:
    """Return the modules of the package that a module imports, in whatever way."""
    found: set[str] = set()

    def add(dotted: str) -> None:
        whole, _, rest = dotted.partition(".")
        if whole != PACKAGE:
            return
        if rest in known or rest in NATIVE:
            found.add(rest)
        elif not rest:
            found.add("__init__")

    tree = ast.parse(known[name].read_text())
    loggers = {
        id(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "getLogger"
        and node.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import, which this test does not read"
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                inner = dotted.partition(".")[2]
                is_module = inner in known or inner in NATIVE
                add(dotted if is_module else str(node.module))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if (
                id(node) not in loggers
                and text.startswith(f"{PACKAGE}.")
                and text[len(PACKAGE) + 1 :] in known
            ):
                add(text)
    return found - {name}


def graph() -> dict[str, set[str]]:
    """Return what each module imports."""
    known = modules()
    return {name: imports(name, known) for name in known}


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that reach each other (Tarjan's algorithm), smallest first."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in arrows.get(name, ()):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in arrows:
        if name not in order:
            visit(name)
    return sorted(found, key=len)


def upward(arrows: dict[str, set[str]]) -> list[str]:
    """Return the imports that point up, as "importer -> imported"."""
    order = {place: at for at, place in enumerate(places())}
    return sorted(
        f"{name} -> {other}"
        for name, others in arrows.items()
        for other in others
        if order[place_of(other)] > order[place_of(name)]
    )


def private_uses() -> list[str]:
    """Return the uses of a name with a leading underscore that another folder defines.

    What a network and a lease have for the plugin, the command line and the cluster's node is left
    out: they are public, and (family, integer) pairs are not.
    """
    known = modules()
    trees = {name: ast.parse(path.read_text()) for name, path in known.items()}
    own: dict[Path, set[str]] = {}
    for name, path in known.items():
        names = own.setdefault(path.parent, set())
        for node in ast.walk(trees[name]):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
    package_wide = {"_router"}
    package_wide |= _methods(trees["network"], trees["network.reading"], trees["network.books"])
    found = set()
    for name, path in known.items():
        for node in ast.walk(trees[name]):
            used: list[str] = []
            if isinstance(node, ast.Attribute):
                used = [node.attr]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
                used = [alias.name for alias in node.names]
            for one in used:
                others = any(one in names for folder, names in own.items() if folder != path.parent)
                if (
                    one[0] == "_"
                    and one[1] != "_"
                    and one != "_asdict"
                    and one not in own[path.parent] | package_wide
                    and others
                ):
                    found.add(f"{name}: {one}")
    return sorted(found)


def _methods(*trees: ast.Module) -> set[str]:
    """Return the names of all methods."""
    return {
        one.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for one in node.body
        if isinstance(one, ast.FunctionDef)
    }
