"""The C++ kernels as an optional part of the build; everything else is in pyproject.toml.

Without a C++ compiler, or without jax's headers, the package installs without them, and says so; the kernels'
module then tells why the C++ implementations are not to be had.
"""

import sys
from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("ryot_jax/kernels/cpu")


def kernels() -> list[Extension]:
    """The extension, or nothing where its headers or its platform are missing."""
    sources = sorted(SOURCES.glob("*.cc"))
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
            depends=[
                *(str(path) for pattern in ("*.h", "*.inc") for path in sorted(SOURCES.glob(pattern))),
                str(include / "xla/ffi/api/c_api.h"),
            ],
            include_dirs=[str(include)],
            language="c++",
            # No -march=native: the library picks its instruction set when it is loaded.
            extra_compile_args=["-O3", "-g0", "-std=c++17", "-fvisibility=hidden", "-fno-strict-aliasing"],
            optional=True,
        )
    ]


setup(ext_modules=kernels())
