"""Build the extensions and the launcher. Everything else is in pyproject.toml."""

import os
import shlex

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import ExecError, LinkError

# FASTIPAM_DEBUG=1 builds without optimisation, and checks for None, what Python's macros assume,
# and C's assertions; indices are always checked. FASTIPAM_SANITIZE=address,undefined adds those
# sanitizers: of overflow, alignment, memory. FASTIPAM_LINETRACE=1 shows coverage.py
# the lines (scripts/campaign native-coverage).
debug = bool(os.environ.get("FASTIPAM_DEBUG"))
traced = bool(os.environ.get("FASTIPAM_LINETRACE"))
flags = ["-O0", "-g", "-UNDEBUG"] if debug else ["-O0", "-g0"] if traced else ["-g0"]
link_flags = [] if debug else ["-s"]
macros = [("CYTHON_ASSUME_SAFE_MACROS", "0"), ("CYTHON_ASSUME_SAFE_SIZE", "0")] if debug else []
if traced:
    macros += [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]
if sanitizers := os.environ.get("FASTIPAM_SANITIZE"):
    flags += ["-g", f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer"]
    link_flags = [f"-fsanitize={sanitizers}"]

LAUNCHER = "fastipam.launcher"


class BuildExt(build_ext):
    """The build command, which also builds the launcher as a static executable of the package."""

    def get_ext_filename(self, fullname):
        if fullname == LAUNCHER or fullname == LAUNCHER.rpartition(".")[2]:
            return os.path.join(*fullname.split("."))
        return super().get_ext_filename(fullname)

    def build_extension(self, ext):
        if ext.name != LAUNCHER:
            super().build_extension(ext)
            return
        target = self.get_ext_fullpath(ext.name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        for how in launcher_compilers():
            try:
                self.spawn([*how, "-Os", "-Wall", "-Wextra", "-s", *ext.sources, "-o", target])
                return
            except ExecError:
                self.warn(f"the launcher cannot be built with {' '.join(how)}")
        raise LinkError("the launcher cannot be linked")


def launcher_compilers():
    """Return the commands that build the launcher, best first.

    musl is preferred. A static glibc queries the processor dozens of times when it starts, which in
    a virtual machine the hypervisor has to answer; a static musl does not. FASTIPAM_LAUNCHER_CC
    names another compiler, for example one for another machine (``aarch64-linux-musl-gcc``).
    """
    if chosen := os.environ.get("FASTIPAM_LAUNCHER_CC"):
        return [[*shlex.split(chosen), "-static"]]
    usual = shlex.split(os.environ.get("CC") or "cc")
    # With CC set, musl-gcc is left out: CC may build for another machine, musl-gcc does not.
    musl = [] if os.environ.get("CC") else [["musl-gcc", "-static"]]
    return [*musl, [*usual, "-static"], usual]


def extension(name, sources, depends, optimised="-O2"):
    """Return a native module of the package."""
    return Extension(
        f"fastipam.{name}",
        sources,
        depends=depends,
        include_dirs=["src"],
        define_macros=macros,
        extra_compile_args=flags if "-O0" in flags else [*flags, optimised],
        extra_link_args=link_flags,
    )


def native(*extensions, **directives):
    """Return native modules, ready to be compiled by C's compiler."""
    return cythonize(
        list(extensions),
        build_dir="build/cython",
        include_path=["src"],
        compiler_directives={"linetrace": traced, **directives},
    )


setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        *native(extension("_bitmap", ["src/_bitmap.pyx"], ["src/fastipam/_bitmap.pxd"], "-O3")),
        *native(
            extension(
                "_ledger",
                ["src/_ledger.pyx", "src/writer_lock.c", "src/blake2b.c"],
                [
                    "src/_transaction.pxi",
                    "src/_accept.pxi",
                    "src/_request.pxi",
                    "src/_serve.pxi",
                    "src/fastipam/_bitmap.pxd",
                    "src/writer_lock.h",
                    "src/blake2b.h",
                ],
            ),
            nonecheck=debug,
        ),
        Extension(LAUNCHER, ["src/launcher.c"]),
    ],
)
