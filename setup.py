"""Builds the extension and the launcher; everything else is in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import ExecError, LinkError

# FASTIPAM_DEBUG=1 builds without optimisation; FASTIPAM_SANITIZE=address,undefined adds sanitizers.
debug = bool(os.environ.get("FASTIPAM_DEBUG"))
flags = ["-O0", "-g"] if debug else ["-O3", "-g0"]
link_flags = [] if debug else ["-s"]
if sanitizers := os.environ.get("FASTIPAM_SANITIZE"):
    flags += ["-g", f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer"]
    link_flags = [f"-fsanitize={sanitizers}"]

LAUNCHER = "fastipam.launcher"


class BuildExt(build_ext):
    """Builds the launcher as what it is: a static executable, carried as a file of the package."""

    def get_ext_filename(self, fullname):
        if fullname == LAUNCHER or fullname == LAUNCHER.rpartition(".")[2]:
            return os.path.join(*fullname.split("."))
        return super().get_ext_filename(fullname)

    def build_extension(self, ext):
        if ext.name != LAUNCHER:
            super().build_extension(ext)
            return
        target = self.get_ext_fullpath(ext.name)
        objects = self.compiler.compile(
            ext.sources, output_dir=self.build_temp, extra_postargs=["-Os", "-Wall", "-Wextra"]
        )
        for how in (["-static", "-s"], ["-s"]):
            try:
                self.compiler.link_executable(
                    objects,
                    os.path.basename(target),
                    output_dir=os.path.dirname(target),
                    extra_postargs=how,
                )
                return
            except (LinkError, ExecError):
                self.warn(f"the launcher cannot be linked with {how}: is a static libc missing?")
        raise LinkError("the launcher cannot be linked")


setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        *cythonize(
            [
                Extension(
                    "fastipam._bitmap",
                    ["src/_bitmap.pyx"],
                    extra_compile_args=flags,
                    extra_link_args=link_flags,
                )
            ],
            build_dir="build/cython",
        ),
        Extension(LAUNCHER, ["src/launcher.c"]),
    ],
)
