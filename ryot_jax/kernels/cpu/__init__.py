"""C++ kernels for x86-64, called through `jax.ffi` on XLA's own thread pool.

Optional: built with the package where there is a C++ compiler. This module finds the library and registers
its handlers; what the calls compute is said beside each op in the parent package.
"""

import ctypes
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

_HANDLERS = (
    "ryot_dense_forward",
    "ryot_dense_backward",
    "ryot_norm_forward",
    "ryot_norm_backward",
    "ryot_norm_dense_forward",
    "ryot_norm_dense_backward",
    "ryot_attention_forward",
    "ryot_attention_backward",
    "ryot_packed_attention_forward",
    "ryot_packed_attention_backward",
    "ryot_linear_cross_entropy_loss",
    "ryot_linear_cross_entropy_gradients",
    "ryot_embedding_backward",
    "ryot_adamw",
    "ryot_pack_weights",
    "ryot_decode_step",
    "ryot_speculation_round",
)


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The library with its handlers registered, or why there is none."""
    libraries = sorted(pathlib.Path(__file__).parent.glob("_kernels*.so"))
    if not libraries:
        return "the C++ kernels were not built (install a C++ compiler, then `pip install -e .` again)"
    try:
        library = ctypes.CDLL(str(libraries[0]))
        library.ryot_instruction_set.restype = ctypes.c_char_p
        handlers = {name: getattr(library, name) for name in _HANDLERS}
    except (OSError, AttributeError) as error:
        return f"the C++ kernels do not load: {error} (build them anew: `pip install -e .`)"
    for name, handler in handlers.items():
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    return library


def instruction_set(dtype: str = "float32") -> str:
    """The instruction set of the kernels whose products take operands of this dtype.

    Returns:
      'avx512' or 'avx2' for float32, 'avx512bf16' for bfloat16; '' where there are none for this machine.
    """
    library = _library()
    if isinstance(library, str) or dtype not in ("float32", "bfloat16"):
        return ""
    return library.ryot_instruction_set(int(dtype == "bfloat16")).decode()


def unavailable_reason(dtype: str = "float32") -> str | None:
    """Why the C++ kernels cannot be called in this process with arrays of this dtype, or None where they can."""
    library = _library()
    if isinstance(library, str):
        return library
    if dtype not in ("float32", "bfloat16"):
        return f"the C++ kernels take float32 or bfloat16, not {dtype}"
    if instruction_set(dtype):
        return None
    needed = "AVX512-BF16" if dtype == "bfloat16" else "AVX2 and FMA"
    return f"the C++ kernels need an x86-64 processor with {needed} for {dtype}"


def packing(dtype: str) -> tuple[int, int]:
    """Columns of a panel and scalars of a word of weights that are packed for products in this dtype."""
    library = _library()
    if reason := unavailable_reason(dtype):
        raise NotImplementedError(reason)
    assert not isinstance(library, str)
    is_bfloat16 = int(dtype == "bfloat16")
    return library.ryot_packing(is_bfloat16, 0), library.ryot_packing(is_bfloat16, 1)


def call(handler: str, outputs: Any, *operands: jax.Array, **attributes: Any) -> Any:
    """Calls a handler; under `vmap` it runs once per batch element."""
    return call_in_place(handler, outputs, {}, *operands, **attributes)


def call_in_place(
    handler: str, outputs: Any, aliases: Mapping[int, int], *operands: jax.Array, **attributes: Any
) -> Any:
    """Calls a handler; `aliases`: number of an operand -> number of the result that may take its memory."""
    if reason := unavailable_reason():
        raise NotImplementedError(reason)
    ffi_call = jax.ffi.ffi_call(handler, outputs, vmap_method="sequential", input_output_aliases=dict(aliases) or None)
    return ffi_call(*operands, **attributes)
