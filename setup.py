"""The C++ kernels as an optional part of the build; everything else is in pyproject.toml.

Without a C++ compiler, or without jax's headers, the package installs without them, and says so; the kernels'
module then tells why the C++ implementations are not to be had.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("ryot_jax/kernels/cpu")


def kernels() -> list[Extension]:
    """The extension, or nothing where its headers or its platform are missing."""
    # Whatever is there: a new instruction set is a new file in targets/.
    sources = sorted(SOURCES.rglob("*.cc"))
    if not sources or sys.platform == "win32":
        return []
    try:
        import jax.ffi
    except ImportError:
        sys.stderr.write("ryot_jax: no jax to build with: installing without the C++ kernels\n")
        return []
    include = Path(jax.ffi.include_dir())
    return [
        Extension(
            # A library of FFI handlers that ctypes loads; it is no Python module.
            "ryot_jax.kernels.cpu._kernels",
            sources=[str(path) for path in sources],
            # A new jaxlib may speak a newer version of the interface: its header counts as a source.
            depends=[*map(str, sorted(SOURCES.rglob("*.h"))), str(include / "xla/ffi/api/c_api.h")],
            include_dirs=[str(include)],
            language="c++",
            # For tests: an instruction set that the processor lacks (see targets/amx_emulated.cc).
            define_macros=[("RYOT_EMULATE_AMX", None)] if os.environ.get("RYOT_EMULATE_AMX") else [],
            # No -march=native: the library picks its instruction set when a kernel is called.
            extra_compile_args=["-O3", "-g0", "-std=c++17", "-fvisibility=hidden", "-fno-strict-aliasing"],
            optional=True,
        )
    ]


class ParallelBuild(build_ext):
    """Compiles as many files at a time as there are cores; the longest, the targets, begin first."""

    def build_extension(self, ext: Extension) -> None:
        """Builds one extension."""
        compile_one = self.compiler.compile
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

        def compile_all(sources: list[str], **options: Any) -> list[str]:
            longest_first = sorted(sources, key=lambda path: ("targets" not in Path(path).parts, path))
            with ThreadPoolExecutor(cores) as pool:
                done = list(pool.map(lambda path: compile_one([path], **options), longest_first))
            objects = dict(zip(longest_first, done, strict=True))
            return [path for source in sources for path in objects[source]]

        self.compiler.compile = compile_all
        try:
            super().build_extension(ext)
        finally:
            self.compiler.compile = compile_one


setup(ext_modules=kernels(), cmdclass={"build_ext": ParallelBuild})
