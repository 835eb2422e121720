"""C++ kernels for x86-64, called through `jax.ffi` on XLA's own thread pool.

Optional: built with the package where there is a C++ compiler. This module finds the library and registers
its handlers; what the calls compute is said beside each op in the parent package.
"""

import ctypes
import functools
import pathlib
from typing import Any

import jax

_HANDLERS = (
    "ryot_linear_cross_entropy_loss",
    "ryot_linear_cross_entropy_gradients",
    "ryot_attention_forward",
    "ryot_attention_backward",
)


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The library with its handlers registered, or why there is none."""
    libraries = sorted(pathlib.Path(__file__).parent.glob("_kernels*.so"))
    if not libraries:
        return "the C++ kernels were not built (install a C++ compiler, then `pip install -e .` again)"
    try:
        library = ctypes.CDLL(str(libraries[0]))
    except OSError as error:
        return f"the C++ kernels do not load: {error}"
    library.ryot_instruction_set.restype = ctypes.c_char_p
    if not library.ryot_instruction_set():
        return "the C++ kernels need an x86-64 processor with AVX2 and FMA"
    for name in _HANDLERS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return library


def unavailable_reason() -> str | None:
    """Why the C++ kernels cannot be called in this process, or None where they can."""
    library = _library()
    return library if isinstance(library, str) else None


def instruction_set() -> str:
    """The instruction set that the kernels use here: 'avx512', 'avx2', or '' where they cannot be called."""
    library = _library()
    return "" if isinstance(library, str) else library.ryot_instruction_set().decode()


def call(handler: str, outputs: Any, *operands: jax.Array) -> Any:
    """Calls a handler; under `vmap` it runs once per batch element."""
    if reason := unavailable_reason():
        raise NotImplementedError(reason)
    return jax.ffi.ffi_call(handler, outputs, vmap_method="sequential")(*operands)
