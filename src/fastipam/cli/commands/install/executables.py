"""Put the plugin's executables into a CNI bin directory."""

from __future__ import annotations

import compileall
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

import lmdb

import fastipam
from fastipam import files
from fastipam.cli.commands.install import bundle
from fastipam.cli.commands.install.targets import (
    BUNDLE,
    CLUSTER_BUNDLE,
    DIRECT,
    require_free,
    require_name,
)

__all__ = ["BUNDLE", "CLUSTER_BUNDLE", "DIRECT", "install", "script"]

# The kernel reads this much of a script's first line (BINPRM_BUF_SIZE), less on older kernels.
_LONGEST_SHEBANG = 127


def install(
    bin_dir: Path, name: str = "fastipam", *, launcher_only: bool = False, replace: bool = False
) -> Path:
    """Put the launcher into ``bin_dir`` as ``name``, and the Python entry point beside it.

    Return the launcher's path. With ``launcher_only`` the entry point of an earlier installation is
    removed instead; the launcher then needs the agent. This is for a container, whose Python the
    host cannot start. Another plugin of this name is replaced only with ``replace``.

    Each file is replaced in one step: a runtime that starts it meanwhile gets the old or the new
    file. The interpreter and the import path are absolute, so a runtime's PATH does not matter.
    Idempotent. Raises ConfigError and OSError; no file has changed then, unless the disk is full or
    fails.
    """
    require_name(name)
    # The files of any version of Python: the host's version may differ from this one.
    stale = [bin_dir / DIRECT, *bin_dir.glob(f"{DIRECT}.*")]
    made = [] if launcher_only else [bin_dir / CLUSTER_BUNDLE, bin_dir / BUNDLE]
    require_free(bin_dir / name, [*stale, *made], replace=replace)
    bin_dir.mkdir(parents=True, exist_ok=True)
    _require_writable(bin_dir)
    package = Path(fastipam.__file__).resolve().parent
    if launcher_only:
        _replace(bin_dir / name, (package / "launcher").read_bytes())
        for one in stale:
            one.unlink(missing_ok=True)
        return bin_dir / name
    # Compile now: if the directory is read-only later, every start would compile again.
    compileall.compile_dir(package, quiet=2, maxlevels=3)
    paths = dict.fromkeys(
        str(Path(module.__file__ or "").resolve().parent.parent) for module in (fastipam, lmdb)
    )
    # The launcher comes last: a runtime may start it at once, and it needs the other files.
    cluster_file = bin_dir.resolve() / CLUSTER_BUNDLE
    content = bundle.build(list(paths), str(cluster_file))
    _replace(cluster_file, content.cluster, mode=0o644)
    _replace(bin_dir / BUNDLE, content.always, mode=0o644)
    _replace(bin_dir / DIRECT, script(sys.executable, list(paths)).encode())
    _replace(bin_dir / name, (package / "launcher").read_bytes())
    return bin_dir / name


def _require_writable(directory: Path) -> None:
    """Raise OSError, with the kernel's reason, when no file can be created in a directory."""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".fastipam.", dir=directory)
    except OSError as error:
        raise _of(error, directory) from error
    os.close(descriptor)
    os.unlink(temporary)


def _of(error: OSError, path: Path) -> OSError:
    """Return an error that names the file that the operator knows, not the temporary one."""
    return OSError(error.errno, error.strerror, str(path))


def _replace(target: Path, content: bytes, mode: int = 0o755) -> None:
    """Replace a file. The new one is complete and on disk before it gets the name.

    The old file may be running: its inode exists until that process ends. Raises OSError.
    """
    try:
        with files.replacing(target, mode) as descriptor:
            os.fchmod(descriptor, mode)
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(content)
    except OSError as error:
        raise _of(error, target) from error


def script(interpreter: str, paths: list[str]) -> str:
    """Return the text of the Python entry point.

    ``-I`` keeps the environment and the current directory out of the import path, ``-S`` saves the
    scan of site-packages. Garbage collection is off: the process serves one request and ends, and
    the search for cycles would be a tenth of its work.
    """
    return (
        f"{_first_lines(interpreter)}\n"
        f"# fastipam {fastipam.__version__}, CNI IPAM plugin; written by `fastipam install`.\n"
        "import gc\n"
        "import sys\n\n"
        "gc.disable()\n"
        f"sys.path += {paths!r}\n"
        "try:\n"
        "    import marshal\n\n"
        '    with open(f"{__file__}.{sys.implementation.cache_tag}", "rb", 0) as file:\n'
        "        activate, *parts = marshal.loads(file.read())\n"
        "    type(lambda: 0)(activate, globals())(*parts)\n"
        "except Exception:\n"
        "    pass  # only slower\n"
        f"{_START}"
    )


_INSTALLED_FOR = f"{sys.version_info.major}.{sys.version_info.minor}"
# The end of an entry point that cannot import the plugin at all. Otherwise the plugin itself
# reports why it cannot be loaded (cni/main.py).
_FAILED = """\
import json
import os

running = ".".join(map(str, sys.version_info[:2]))
body = {
    "cniVersion": "1.1.0",
    "code": 50 if os.environ.get("CNI_COMMAND") == "STATUS" else 11,
    "msg": f"fastipam cannot be loaded by Python {running} (it was installed for Python "
    f"INSTALLED_FOR, in {', '.join(sys.path[-2:])}): {type(error).__name__}: {error}",
    "details": "run `fastipam install` again",
}
print(json.dumps(body))
sys.exit(1)
""".replace("INSTALLED_FOR", _INSTALLED_FOR)
# Python compiles the entry point at each start. The code for a failure is a text in it, which is
# compiled only when it is needed: that saves 1.5 % of an ADD's instructions.
_START = f"""\
try:
    from fastipam.cni.main import main
except BaseException as error:
    exec({_FAILED!r})
main("{_INSTALLED_FOR}")
"""


def _first_lines(interpreter: str) -> str:
    shebang = f"#!{interpreter} -IS"
    if len(shebang) <= _LONGEST_SHEBANG and " " not in interpreter:
        return shebang
    # The kernel cannot use this first line, so a shell starts the interpreter; for Python the
    # shell's lines are a string. The error for a missing interpreter is prepared as JSON here,
    # because the shell cannot encode JSON.
    quoted = shlex.quote(interpreter)
    body = {
        "cniVersion": "1.1.0",
        "code": 0,
        "msg": f"fastipam-direct cannot be started: {interpreter} does not exist",
        "details": "run `fastipam install` again",
    }
    before, _, after = json.dumps(body).partition('"code": 0')
    return (
        "#!/bin/sh\n"
        f"'''[' -x {quoted} ] && exec {quoted} -IS \"$0\" \"$@\"\n"
        '[ "$CNI_COMMAND" = STATUS ] && code=50 || code=11\n'
        f'echo {shlex.quote(before)}\'"code": \'"$code"{shlex.quote(after)}; exit 1\n'
        "' '''"
    )
