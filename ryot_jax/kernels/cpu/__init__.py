"""C++ kernels for x86-64, called through `jax.ffi` on XLA's own thread pool.

Optional: built with the package if there is a C++ compiler. The library provides two tables, which this module reads:
its targets (each an instruction set with the kernels compiled for it, best first) and its handlers (the names of
operands, results and attributes). The ops in the parent package document what the calls compute.

The environment variable RYOT_CPU_ISA names the best instruction set to use, such as `avx2`.
"""

import contextlib
import ctypes
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax

_CAP_VARIABLE = "RYOT_CPU_ISA"
_NO_CAP = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Handler:
    """A handler of the library: the names of its operands, results and attributes, in the order of a call.

    A last name that ends with "..." stands for any number of arrays, `name[0]` being the first.
    """

    operands: tuple[str, ...]
    results: tuple[str, ...]
    attributes: tuple[str, ...]


class _TargetEntry(ctypes.Structure):
    """C layout of the first fields of `ryot::Target`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("needs", ctypes.c_char_p),
        ("level", ctypes.c_int),
        ("bfloat16", ctypes.c_bool),
    )


class _HandlerEntry(ctypes.Structure):
    """C layout of `ryot::Handler`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("names", ctypes.c_char_p),
        ("call", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
    )


class _Library:
    """The loaded library, with its handlers registered with JAX.

    Raises:
      OSError, AttributeError: `path` is not a library of this version.
    """

    def __init__(self, path: pathlib.Path):
        self._library = ctypes.CDLL(str(path))
        for name, restype in (
            ("ryot_target", ctypes.POINTER(_TargetEntry)),
            ("ryot_best_target", ctypes.POINTER(_TargetEntry)),
            ("ryot_handler", ctypes.POINTER(_HandlerEntry)),
            ("ryot_least_needs", ctypes.c_char_p),
            ("ryot_cache_size", ctypes.c_long),
        ):
            getattr(self._library, name).restype = restype
        self.cap_level = _NO_CAP
        self.handlers: dict[str, Handler] = {}
        for entry in self._entries(self._library.ryot_handler):
            operands, results, attributes = re.fullmatch(r"(.*) -> ([^|]*)\|?(.*)", entry.names.decode()).groups()  # type: ignore[union-attr]
            name = entry.name.decode()
            self.handlers[name] = Handler(tuple(operands.split()), tuple(results.split()), tuple(attributes.split()))
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(ctypes.c_void_p(entry.call)), platform="cpu")

    @staticmethod
    def _entries(get: Any) -> Iterator[Any]:
        i = 0
        while entry := get(i):
            yield entry.contents
            i += 1

    def levels(self) -> dict[str, int]:
        """The level of each target that the library was built with, best first."""
        return {entry.name.decode(): entry.level for entry in self._entries(self._library.ryot_target)}

    def usable(self, bfloat16: bool) -> tuple[str, ...]:
        """The targets that this machine can run, up to the cap, best first."""
        return tuple(
            entry.name.decode()
            for entry in self._entries(self._library.ryot_target)
            if entry.bfloat16 == bfloat16 and self._library.ryot_is_usable(ctypes.byref(entry))
        )

    def best(self, bfloat16: bool) -> str:
        """The target that calls use, or ''."""
        entry = self._library.ryot_best_target(int(bfloat16))
        return entry.contents.name.decode() if entry else ""

    def needs(self, bfloat16: bool) -> str:
        """The minimal requirements on the processor, as display text."""
        return str(self._library.ryot_least_needs(int(bfloat16)).decode())

    def cap(self, level: int) -> None:
        """Restrict later calls to targets up to this level."""
        self._library.ryot_cap_targets(level)
        self.cap_level = level

    def packing(self, bfloat16: bool) -> tuple[int, int]:
        """Columns per panel and scalars per word of packed weights."""
        return self._library.ryot_packing(int(bfloat16), 0), self._library.ryot_packing(int(bfloat16), 1)

    def cache_size(self, level: int) -> int:
        """Bytes of a core's first or second level of data cache, as used for the block sizes."""
        return int(self._library.ryot_cache_size(level))


def _level(library: _Library, name: str, source: str) -> int:
    levels = library.levels()
    if name not in levels:
        choices = ", ".join(levels)
        raise ValueError(f"{source}={name!r} is no instruction set of the C++ kernels: choose one of {choices}")
    return levels[name]


@functools.cache
def _library() -> _Library | str:
    """The library, or the reason why there is none.

    Raises:
      ValueError: RYOT_CPU_ISA does not name an instruction set.
    """
    libraries = sorted(pathlib.Path(__file__).parent.glob("_kernels*.so"))
    if not libraries:
        return "the C++ kernels were not built (install a C++ compiler, then `pip install -e .` again)"
    try:
        library = _Library(libraries[0])
    except (OSError, AttributeError) as error:
        return f"the C++ kernels do not load: {error} (build them anew: `pip install -e .`)"
    if name := os.environ.get(_CAP_VARIABLE):
        library.cap(_level(library, name, _CAP_VARIABLE))
    return library


def _built() -> _Library:
    library = _library()
    if isinstance(library, str):
        raise NotImplementedError(library)
    return library


def instruction_sets(dtype: str | None = None) -> tuple[str, ...]:
    """The instruction sets of this machine that the C++ kernels can use, best first.

    Args:
      dtype: dtype of the products' operands, 'float32' or 'bfloat16'; None: either, those for bfloat16 first.

    Returns:
      Names, up to the cap of RYOT_CPU_ISA or `capped_at`; empty if the C++ kernels are not available.
    """
    library = _library()
    if isinstance(library, str):
        return ()
    dtypes = ("bfloat16", "float32") if dtype is None else (dtype,)
    return tuple(name for dtype in dtypes for name in library.usable(dtype == "bfloat16"))


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
    before = library.cap_level
    library.cap(min(before, _level(library, name, "instruction set")))
    try:
        yield
    finally:
        library.cap(before)


def instruction_set(dtype: str = "float32") -> str:
    """The instruction set of the kernels whose products take operands of this dtype.

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
    reason = f"the C++ kernels need an x86-64 processor with {library.needs(dtype == 'bfloat16')} for {dtype}"
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
    return ffi_call(*operands, **attributes)


def _position(handler: str, names: tuple[str, ...], name: str) -> int:
    if name in names and not name.endswith("..."):
        return names.index(name)
    match = re.fullmatch(r"(.*)\[(\d+)\]", name)
    if match and (several := f"{match[1]}...") in names:
        return names.index(several) + int(match[2])
    raise KeyError(f"{handler} has no {name!r}: its names are {', '.join(names)}")
