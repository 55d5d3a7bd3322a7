"""Builds the one extension; everything else is in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

# FASTIPAM_DEBUG=1 builds without optimisation; FASTIPAM_SANITIZE=address,undefined adds sanitizers.
flags = ["-O0", "-g"] if os.environ.get("FASTIPAM_DEBUG") else ["-O3"]
link_flags = []
if sanitizers := os.environ.get("FASTIPAM_SANITIZE"):
    flags += ["-g", f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer"]
    link_flags = [f"-fsanitize={sanitizers}"]

setup(
    ext_modules=cythonize(
        [
            Extension(
                "fastipam._bitmap",
                ["src/_bitmap.pyx"],
                extra_compile_args=flags,
                extra_link_args=link_flags,
            )
        ],
        build_dir="build/cython",
    )
)
