"""The plugin's modules in one file, for the entry point that is started for every pod.

Importing a module is a search, half a dozen system calls and a check; for the two dozen modules of
an ADD that is a good tenth of its time. So ``fastipam install`` puts their code, compiled, into one
file beside the entry point. Each module is kept with the size and the time of its source: if one
of them is another now (an upgrade, an edit), the file counts for nothing, and Python imports as
ever.

What only cluster mode imports is a part of its own, decoded when the first of it is asked for.
"""

from __future__ import annotations

import ast
import marshal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType

    # Source file, whether it is a package, size and time (ns) of the source, code.
    Module = tuple[str, bool, int, int, CodeType]

# Which modules a plugin process imports from files, asked of one: always, and in cluster mode.
_ASK = """
import sys
sys.path += {paths!r}
seen = set(sys.modules)
def new():
    found = [
        (name, module.__file__)
        for name, module in sys.modules.items()
        if name not in seen
        and type(getattr(module, "__loader__", None)).__name__ == "SourceFileLoader"
    ]
    seen.update(sys.modules)
    return found
import fastipam.cni.main, fastipam.cni.handler
always = new()
import fastipam.cni.sharing, fastipam.blockwise, fastipam.cluster.need
import fastipam.cluster.engines.etcd
print(repr((always, new())))
"""


def build(paths: list[str]) -> bytes:
    """The bundle of what the plugin imports when ``paths`` end the import path. Raises OSError."""
    script = _ASK.format(paths=paths)
    asked = subprocess.run(
        [sys.executable, "-IS", "-c", script], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        reason = asked.stderr.strip().rpartition("\n")[2]
        raise OSError(f"{sys.executable} cannot import the plugin: {reason}")
    always, later = (
        {name: _module(Path(file)) for name, file in part}
        for part in ast.literal_eval(asked.stdout)
    )
    return marshal.dumps((activate.__code__, always, frozenset(later), marshal.dumps(later)))


def _module(path: Path) -> Module:
    status = path.stat()
    code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True, optimize=2)
    return str(path), path.name == "__init__.py", status.st_size, status.st_mtime_ns, code


def activate(
    modules: dict[str, Module], more: frozenset[str] = frozenset(), later: bytes = b""
) -> None:
    """Let Python import from ``modules``, if all of them are what their sources still say.

    ``more`` are the names of those that ``later`` decodes to, when one of them is asked for. This
    function is part of the bundle: it runs before anything else of fastipam is there.
    """
    import sys
    from _frozen_importlib import ModuleSpec
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

    class Bundle:
        @staticmethod
        def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]  # noqa: ARG004
            nonlocal more
            if name in more:
                import marshal

                more = frozenset()
                found = marshal.loads(later)
                if is_true(found):
                    modules.update(found)
            if name not in modules:
                return None
            file, package, _, _, _ = modules[name]
            spec = ModuleSpec(name, Bundle, origin=file, is_package=package)  # type: ignore[arg-type]
            spec.has_location = True
            if package:
                spec.submodule_search_locations = [file.rpartition("/")[0]]
            return spec

        @staticmethod
        def create_module(spec):  # type: ignore[no-untyped-def]  # noqa: ARG004
            return None

        @staticmethod
        def exec_module(module):  # type: ignore[no-untyped-def]
            exec(modules[module.__name__][4], module.__dict__)

    sys.meta_path.insert(0, Bundle)
