"""The plugin's modules in two files, for the entry point that is started for every pod.

Importing a module is a search, half a dozen system calls and a check; for the two dozen modules of
an ADD that is a good tenth of its time. So ``fastipam install`` puts their code, compiled, into one
file beside the entry point, and says there where the compiled extensions are. Each module is kept
with the size and the time of its file: if one of them is another now (an upgrade, an edit), the
bundle counts for nothing, and Python imports as ever.

What only cluster mode imports is a second file, read when the first of it is asked for.
"""

from __future__ import annotations
import __future__

import ast
import marshal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from types import CodeType

    # File, whether it is a package, size and time (ns) of the file, code (None: an extension).
    Module = tuple[str, bool, int, int, CodeType | None]

# Which modules a plugin process imports from files, asked of one: always, and in cluster mode.
_ASK = """
import sys
sys.path += {paths!r}
seen = set(sys.modules)
def new():
    found = [
        (name, module.__file__)
        for name, module in sys.modules.items()
        if name not in seen and type(getattr(module, "__loader__", None)).__name__
        in ("SourceFileLoader", "ExtensionFileLoader")
    ]
    seen.update(sys.modules)
    return found
import fastipam.cni.main, fastipam.cni.handler
try:
    import lmdb._envid  # py-lmdb does when it opens a file
except ImportError:
    pass
always = new()
import fastipam.cni.more_blocks, fastipam.allocation.blocks, fastipam.cluster.keeper.on_demand
from fastipam.cluster.engines import connect
connect.import_all()
print(repr((always, new())))
"""


class Bundle(NamedTuple):
    """The content of both files: what every call imports, what only cluster mode does."""

    always: bytes
    cluster: bytes


def build(paths: list[str], cluster_file: str) -> Bundle:
    """The bundle of what the plugin imports when ``paths`` end the import path.

    ``cluster_file`` is where its second part is going to be. Raises OSError.
    """
    script = _ASK.format(paths=paths)
    asked = subprocess.run(
        [sys.executable, "-IS", "-c", script], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        reason = asked.stderr.strip().rpartition("\n")[2]
        raise OSError(f"{sys.executable} cannot import the plugin: {reason}")
    always, later = (
        {name: _module(name, Path(file)) for name, file in part}
        for part in ast.literal_eval(asked.stdout)
    )
    activation = activate.__code__, always, frozenset(later), cluster_file
    return Bundle(marshal.dumps(activation), marshal.dumps(later))


def modules_of(content: bytes) -> dict[str, Module]:
    """The modules of one of the files. Raises EOFError, TypeError, ValueError, LookupError."""
    loaded: Any = marshal.loads(content)
    found: dict[str, Module] = loaded if isinstance(loaded, dict) else loaded[1]
    return found


def _module(name: str, path: Path) -> Module:
    status = path.stat()
    code = None
    if path.suffix == ".py":
        source = path.read_bytes()
        if name.partition(".")[0] == "fastipam":
            code = _lean(source, str(path))
        else:
            code = compile(source, str(path), "exec", dont_inherit=True, optimize=2)
    return str(path), path.name == "__init__.py", status.st_size, status.st_mtime_ns, code


def _lean(source: bytes, path: str) -> CodeType:
    """The code of a module of ours, without what only people and type checkers read.

    Docstrings go, and the annotations of functions: each import would make them anew.
    """
    tree = _Lean().visit(ast.parse(source, path))
    flags = __future__.annotations.compiler_flag  # the statement goes, what it says stays
    code: CodeType = compile(tree, path, "exec", flags, dont_inherit=True, optimize=2)
    return code


class _Lean(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module == "__future__" else node


def activate(
    modules: dict[str, Module], more: frozenset[str] = frozenset(), cluster_file: str = ""
) -> None:
    """Let Python import from ``modules``, if all of them are what their files still say.

    ``more`` are the names of those that ``cluster_file`` has, which is read when one of them is
    asked for. This function is part of the bundle: it runs before anything else of fastipam is
    there.
    """
    import sys
    from _frozen_importlib import ModuleSpec
    from _frozen_importlib_external import ExtensionFileLoader
    from posix import stat

    def is_true(modules: dict[str, Module]) -> bool:
        for path, _, size, time_ns, _ in modules.values():
            try:
                status = stat(path)
            except OSError:  # an upgrade has taken it away
                return False
            if status.st_size != size or status.st_mtime_ns != time_ns:
                return False
        return True

    if not is_true(modules):
        return

    def read_more() -> None:
        nonlocal more
        more = frozenset()
        try:
            import marshal

            with open(cluster_file, "rb", 0) as file:
                found = marshal.loads(file.read())
            if is_true(found):
                modules.update(found)
        except (AttributeError, EOFError, OSError, TypeError, ValueError):
            pass  # only slower

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]  # noqa: ARG004
            if name in more:
                read_more()
            if name not in modules:
                return None
            file, package, _, _, code = modules[name]
            loader = Finder if code else ExtensionFileLoader(name, file)
            spec = ModuleSpec(name, loader, origin=file, is_package=package)  # type: ignore[arg-type]
            spec.has_location = True
            if package:
                spec.submodule_search_locations = [file.rpartition("/")[0]]
            return spec

        @staticmethod
        def create_module(spec):  # type: ignore[no-untyped-def]  # noqa: ARG004
            return None

        @staticmethod
        def exec_module(module):  # type: ignore[no-untyped-def]
            exec(modules[module.__name__][4], module.__dict__)  # type: ignore[arg-type]

    sys.meta_path.insert(0, Finder)
