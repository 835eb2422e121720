"""C++ kernels for x86-64 and aarch64, called through `jax.ffi` on XLA's own thread pool.

Optional: built with the package if there is a C++ compiler. The library provides two tables, which this module reads:
its targets (each an instruction set with the kernels compiled for it, best first) and its handlers (the names of
operands, results and attributes). The ops in the parent package document what the calls compute.

The environment variable RYOT_CPU_ISA names the best instruction set to use, such as `avx2`.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from ryot_jax.kernels.cpu.library import Handler, Library, level_of
from ryot_jax.kernels.cpu.library import load as _library
from ryot_jax.kernels.operands import manual_axes, varying

__all__ = ("Handler",)


def _built() -> Library:
    library = _library()
    if isinstance(library, str):
        raise NotImplementedError(library)
    return library


def instruction_sets(dtype: str | None = None) -> tuple[str, ...]:
    """The instruction sets of this machine that the C++ kernels can use, best first.

    Args:
      dtype: dtype of the arrays between ops, 'float32' or 'bfloat16'; None: either, those for bfloat16 first.

    Returns:
      Names, up to the cap of RYOT_CPU_ISA or `capped_at`; empty if the C++ kernels are not available.
    """
    library = _library()
    if isinstance(library, str):
        return ()
    dtypes = ("bfloat16", "float32") if dtype is None else (dtype,)
    return tuple(dict.fromkeys(name for dtype in dtypes for name in library.usable(dtype == "bfloat16")))


def emulated_instruction_sets() -> tuple[str, ...]:
    """Instruction sets that the library computes by other means, for tests: used only where they are named.

    Empty unless the library was built with the environment variable RYOT_EMULATE_AMX set.
    """
    library = _library()
    if isinstance(library, str):
        return ()
    return tuple(
        name for name, level in library.levels().items() if level >= library.for_tests and name not in library.missing()
    )


def multiplies_bfloat16() -> bool:
    """Whether the kernels for bfloat16 arrays multiply bfloat16 operands, and not float32 ones made of the arrays."""
    return unavailable_reason("bfloat16") is None and packing("bfloat16")[1] > 1


def product_rate(dtype: str) -> float:
    """FLOP/s of one thread's matrix products with the kernels for this dtype, in the first-level cache; 0: no kernels.

    Measured by the first call, in about 10 ms for each instruction set; see `core/rate.h`.
    """
    library = _library()
    if isinstance(library, str) or not (name := instruction_set(dtype)):
        return 0.0
    return library.rates(dtype == "bfloat16")[name]


def limit_workers(most: int | None) -> None:
    """Let each later call of the C++ kernels use at most `most` threads in this process; None: all that XLA has.

    Results do not depend on it for up to 4 threads; see `core/kernels.h`.
    """
    library = _library()
    if not isinstance(library, str):
        library.limit_workers(most)


@contextlib.contextmanager
def workers_limited_to(most: int | None) -> Iterator[None]:
    """Limit the threads of calls within the context, see `limit_workers`; wait for results before leaving it.

    Raises:
      NotImplementedError: this installation has no C++ kernels.
    """
    library = _built()
    before = library.most_workers
    library.limit_workers(most)
    try:
        yield
    finally:
        library.limit_workers(before)


def missing_instruction_sets() -> dict[str, str]:
    """Instruction sets that the C++ kernels have and this machine has not, with what it lacks, as display text."""
    library = _library()
    return {} if isinstance(library, str) else library.missing()


@contextlib.contextmanager
def capped_at(name: str) -> Iterator[None]:
    """Cap the instruction set of the C++ kernels in this process, compiled programs included.

    Calls choose their kernels when they run: wait for results (`jax.block_until_ready`) before leaving the context.
    Weights that decoding has packed for one instruction set are refused by another.

    Args:
      name: the best instruction set that calls may use, such as 'avx2'.

    Raises:
      ValueError: there is no instruction set of that name.
      NotImplementedError: this installation has no C++ kernels.
    """
    library = _built()
    before, level = library.cap_level, level_of(library, name, "instruction set")
    library.cap(level if level >= library.for_tests else min(before, level))
    try:
        yield
    finally:
        library.cap(before)


def instruction_set(dtype: str = "float32") -> str:
    """The instruction set of the kernels for arrays of this dtype.

    Returns:
      A name such as 'avx2' or 'avx512bf16'; '' if there are no kernels for this dtype on this machine.
    """
    library = _library()
    if isinstance(library, str) or dtype not in ("float32", "bfloat16"):
        return ""
    return library.best(dtype == "bfloat16")


def cap() -> str:
    """The name of the instruction set that RYOT_CPU_ISA or `capped_at` caps calls at; '' where nothing does."""
    library = _library()
    if isinstance(library, str):
        return ""
    return next((name for name, level in library.levels().items() if level == library.cap_level), "")


def cache_size(level: int) -> int:
    """Bytes of a core's first or second level of data cache, from which the kernels' block sizes follow."""
    return _built().cache_size(level)


def handlers() -> Mapping[str, Handler]:
    """The library's handlers by name; empty if it was not built."""
    library = _library()
    return {} if isinstance(library, str) else library.handlers


def unavailable_reason(dtype: str = "float32") -> str | None:
    """The reason why the C++ kernels cannot be called in this process with arrays of this dtype; None: they can."""
    library = _library()
    if isinstance(library, str):
        return library
    if dtype not in ("float32", "bfloat16"):
        return f"the C++ kernels take float32 or bfloat16, not {dtype}"
    if instruction_set(dtype):
        return None
    reason = f"the C++ kernels need a processor with {library.needs(dtype == 'bfloat16')} for {dtype}"
    return f"{reason} (capped at {cap()})" if cap() else reason


def packing(dtype: str) -> tuple[int, int]:
    """Columns per panel and scalars per word of weights packed for products in this dtype."""
    if reason := unavailable_reason(dtype):
        raise NotImplementedError(reason)
    return _built().packing(dtype == "bfloat16")


def call(
    handler: str, outputs: Any, *operands: jax.Array, aliases: Mapping[str, str] | None = None, **attributes: Any
) -> Any:
    """Call a handler; under `vmap` it runs once per batch element.

    Args:
      handler: its name in `handlers()`.
      outputs: shapes and dtypes of the results.
      *operands: arrays, in the order of the handler's operands; one of shape [0] is absent.
      aliases: name of an operand -> name of the result that may reuse its memory.
      **attributes: NumPy scalars, by name.

    Raises:
      KeyError: an alias names no operand or no result.
      NotImplementedError: there are no C++ kernels for this machine.
    """
    if reason := unavailable_reason():
        raise NotImplementedError(reason)
    entry = _built().handlers[handler]
    numbers = {
        _position(handler, entry.operands, operand): _position(handler, entry.results, result)
        for operand, result in (aliases or {}).items()
    }
    ffi_call = jax.ffi.ffi_call(handler, outputs, vmap_method="sequential", input_output_aliases=numbers or None)
    results = ffi_call(*operands, **attributes)
    axes = manual_axes(*operands)  # within `jax.shard_map`: the call does not say that its results vary
    return jax.tree.map(lambda x: varying(x, axes), results) if axes else results


def _position(handler: str, names: tuple[str, ...], name: str) -> int:
    if name in names and not name.endswith("..."):
        return names.index(name)
    match = re.fullmatch(r"(.*)\[(\d+)\]", name)
    if match and (several := f"{match[1]}...") in names:
        return names.index(several) + int(match[2])
    raise KeyError(f"{handler} has no {name!r}: its names are {', '.join(names)}")
