"""Bundle the plugin's modules into two files, for the entry point that is started for every pod.

To import a module, Python searches for it, makes half a dozen system calls and runs some thousand
instructions of its own; for the four dozen modules of an ADD that is a fifth of its time. So
``fastipam install`` puts their compiled code into one file beside the entry point. In the file each
module follows the modules that it imports, and the entry point runs one after the other. The file
also has the paths of the compiled extensions, and the size and time of each module's source. If a
source has changed (an upgrade, an edit), the bundle is not used, and Python imports as usual.

The modules that only cluster mode imports are in a second file, which is read when one of them is
imported. The module of the exceptions is in the first file, because a process at its limit of open
files has to be able to report that. It runs only when it is imported, since an ADD that succeeds
needs no exception.
"""

from __future__ import annotations
import __future__

import ast
import marshal
import subprocess
import sys
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    # File, whether it is a package, size and time (ns) of the file, code. The code is None for an
    # extension, and marshalled bytes for a module that runs only when it is imported.
    Module = tuple[str, bool, int, int, CodeType | bytes | None]

# A program that prints which modules a plugin process imports from files: for every call, for an
# error, and in cluster mode.
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
import fastipam.errors
seldom = new()
import fastipam.cni.more_blocks, fastipam.allocation.blocks, fastipam.network.promise
import fastipam.cluster.keeper.on_demand
from fastipam.cluster.engines import connect
connect.import_all()
print(repr((always, seldom, new())))
"""


class Bundle(NamedTuple):
    """The contents of the two files: modules of every call, and modules of cluster mode only."""

    always: bytes
    cluster: bytes


def build(paths: list[str], cluster_file: str) -> Bundle:
    """Return the bundle of the modules that the plugin imports.

    ``paths`` are the end of the plugin's import path; ``cluster_file`` is the path at which the
    second file will be written. Raises OSError.
    """
    script = _ASK.format(paths=paths)
    asked = subprocess.run(
        [sys.executable, "-IS", "-c", script], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        reason = asked.stderr.strip().rpartition("\n")[2]
        raise OSError(f"{sys.executable} cannot import the plugin: {reason}")
    always, seldom, later = (
        {name: _module(name, Path(file)) for name, file in part}
        for part in ast.literal_eval(asked.stdout)
    )
    always.pop("__future__", None)  # the bundled code does not import it
    modules = _in_order(always)
    modules |= {name: (*one[:4], marshal.dumps(one[4])) for name, one in seldom.items()}
    activation = activate.__code__, modules, frozenset(later), cluster_file
    return Bundle(marshal.dumps(activation), marshal.dumps(later))


def _in_order(modules: dict[str, Module]) -> dict[str, Module]:
    """Return the modules sorted, so that each follows the modules that it imports at its top."""
    ordered: dict[str, Module] = {}

    def add(name: str) -> None:
        if name not in modules or name in ordered or name in begun:
            return
        begun.add(name)
        add(name.rpartition(".")[0])
        path = Path(modules[name][0])
        if path.suffix == ".py":
            for each in _imported(path):
                add(each)
        ordered[name] = modules[name]

    begun: set[str] = set()
    for name in modules:
        add(name)
    return ordered


def _imported(path: Path) -> Iterator[str]:
    """Yield the modules that a file may import at its top. Some of the names are not modules."""
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def modules_of(content: bytes) -> dict[str, Module]:
    """Return the modules in the content of one of the two files.

    Raises EOFError, TypeError, ValueError, LookupError.
    """
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
    """Return the code of a module of fastipam, without docstrings and annotations.

    Only people and type checkers read those, and each import would create them again.
    """
    tree = _Lean().visit(ast.parse(source, path))
    # The import of ``annotations`` is removed, and replaced by its compiler flag.
    flags = __future__.annotations.compiler_flag
    code: CodeType = compile(tree, path, "exec", flags, dont_inherit=True, optimize=2)
    return _bare(code)


def _bare(code: CodeType) -> CodeType:
    """Return the code without line numbers and qualified names, two objects for each function."""
    # The qualified name ``Network.allocate`` is replaced by ``allocate``, which exists already. No
    # message shows either. To debug a defect, remove the bundle.
    parts = (_bare(one) if isinstance(one, CodeType) else one for one in code.co_consts)
    return code.replace(co_consts=tuple(parts), co_qualname=code.co_name, co_linetable=b"")


class _Lean(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        bare = ast.Pass() if node.value is None else ast.Assign([node.target], node.value)
        return ast.copy_location(bare, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module == "__future__" else node


def activate(  # noqa: PLR0915  # one code object: there is no other code of ours yet
    modules: dict[str, Module], more: frozenset[str] = frozenset(), cluster_file: str = ""
) -> None:
    """Run ``modules``, in their order, if all of their files are unchanged.

    A module that fails, and those after it, are left to Python's import, which asks the finder
    here; so the error is raised where it is expected. ``more`` are the names of the modules in
    ``cluster_file``, which is read when one of them is imported. This function is part of the
    bundle: it runs before any other code of fastipam.
    """
    import sys
    from _frozen_importlib import ModuleSpec
    from _frozen_importlib_external import ExtensionFileLoader
    from posix import stat

    def is_true(modules: dict[str, Module]) -> bool:
        for path, _, size, time_ns, _ in modules.values():
            try:
                status = stat(path)
            except OSError:  # an upgrade has removed it
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

    def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]  # noqa: ARG001
        if name in more:
            read_more()
        if name not in modules:
            return None
        return spec_of(name)

    def create_module(spec):  # type: ignore[no-untyped-def]  # noqa: ARG001
        return None

    def exec_module(module):  # type: ignore[no-untyped-def]
        code = modules[module.__name__][4]
        if type(code) is bytes:
            import marshal

            code = marshal.loads(code)
        exec(code, module.__dict__)  # type: ignore[arg-type]

    def spec_of(name: str) -> ModuleSpec:
        file, package, _, _, code = modules[name]
        loader = finder if code else ExtensionFileLoader(name, file)
        spec = ModuleSpec(name, loader, origin=file, is_package=package)  # type: ignore[arg-type]
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [file.rpartition("/")[0]]
        return spec

    def make(name: str) -> ModuleType:
        file, package, *_ = modules[name]
        module = loaded[name] = waiting[name] = type(sys)(name)
        spec = spec_of(name)
        parent, _, leaf = name.rpartition(".")
        if parent:
            # A package imports from its own modules, so they run first; they need the package's
            # module object.
            setattr(loaded.get(parent) or make(parent), leaf, module)
        names = module.__dict__
        names["__spec__"] = spec
        names["__loader__"] = finder
        names["__file__"] = file
        names["__package__"] = name if package else parent
        if package:
            names["__path__"] = spec.submodule_search_locations
        return module

    finder = type(sys)("Finder")  # a module object, because creating a class takes longer
    finder.__dict__.update(
        find_spec=find_spec, create_module=create_module, exec_module=exec_module
    )
    sys.meta_path.insert(0, finder)
    loaded = sys.modules
    code_type = type(spec_of.__code__)
    waiting: dict[str, ModuleType] = {}
    try:
        for name, (*_, code) in list(modules.items()):
            if type(code) is code_type and (name in waiting or name not in loaded):
                module = waiting.get(name) or make(name)
                exec(code, module.__dict__)
                del waiting[name]
    except BaseException:  # raised again, and reported, when ``main`` imports the module
        for name in waiting:
            del loaded[name]
            parent, _, leaf = name.rpartition(".")
            if parent in loaded:
                delattr(loaded[parent], leaf)
