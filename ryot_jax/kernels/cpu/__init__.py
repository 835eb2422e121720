"""C++ kernels for x86-64, called through `jax.ffi` on XLA's own thread pool.

Optional: built with the package where there is a C++ compiler. The library brings two tables, which this module reads:
its targets (an instruction set with the kernels compiled for it, best first) and its handlers (the names of operands,
results and attributes); what the calls compute is said beside each op in the parent package.

The environment variable RYOT_CPU_ISA names the best instruction set that may be used, such as `avx2`.
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
    """The first fields of `ryot::Target`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("needs", ctypes.c_char_p),
        ("level", ctypes.c_int),
        ("bfloat16", ctypes.c_bool),
    )


class _HandlerEntry(ctypes.Structure):
    """`ryot::Handler`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("names", ctypes.c_char_p),
        ("call", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
    )


class _Library:
    """The loaded library, with its handlers registered with JAX.

    Raises OSError or AttributeError where `path` is no library of this version.
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
        """The targets that this machine runs, up to the cap, best first."""
        return tuple(
            entry.name.decode()
            for entry in self._entries(self._library.ryot_target)
            if entry.bfloat16 == bfloat16 and self._library.ryot_is_usable(ctypes.byref(entry))
        )

    def best(self, bfloat16: bool) -> str:
        """The target that calls take, or ''."""
        entry = self._library.ryot_best_target(int(bfloat16))
        return entry.contents.name.decode() if entry else ""

    def needs(self, bfloat16: bool) -> str:
        """What a processor needs at least, in words."""
        return str(self._library.ryot_least_needs(int(bfloat16)).decode())

    def cap(self, level: int) -> None:
        """Lets calls from here on take targets up to this level."""
        self._library.ryot_cap_targets(level)
        self.cap_level = level

    def packing(self, bfloat16: bool) -> tuple[int, int]:
        """Columns of a panel and scalars of a word of packed weights."""
        return self._library.ryot_packing(int(bfloat16), 0), self._library.ryot_packing(int(bfloat16), 1)

    def cache_size(self, level: int) -> int:
        """Bytes of a core's first or second level of data cache, as the block sizes take it."""
        return int(self._library.ryot_cache_size(level))


def _level(library: _Library, name: str, source: str) -> int:
    levels = library.levels()
    if name not in levels:
        choices = ", ".join(levels)
        raise ValueError(f"{source}={name!r} is no instruction set of the C++ kernels: choose one of {choices}")
    return levels[name]


@functools.cache
def _library() -> _Library | str:
    """The library, or why there is none.

    Raises ValueError where RYOT_CPU_ISA names no instruction set.
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
      dtype: of the operands of products, 'float32' or 'bfloat16'; None: either, those for bfloat16 first.

    Returns:
      Names, up to the cap of RYOT_CPU_ISA or `capped_at`; none where there are no C++ kernels.
    """
    library = _library()
    if isinstance(library, str):
        return ()
    dtypes = ("bfloat16", "float32") if dtype is None else (dtype,)
    return tuple(name for dtype in dtypes for name in library.usable(dtype == "bfloat16"))


@contextlib.contextmanager
def capped_at(name: str) -> Iterator[None]:
    """Caps the instruction set of the C++ kernels in this process, compiled programs included.

    Calls choose their kernels when they run: wait for results (`jax.block_until_ready`) before the end of the context.
    Weights that decoding has packed for one instruction set are refused by another.

    Args:
      name: the best instruction set that calls may take, such as 'avx2'.

    Raises:
      ValueError: no instruction set of that name.
      NotImplementedError: no C++ kernels in this installation.
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
      A name such as 'avx2' or 'avx512bf16'; '' where there are no kernels for this dtype on this machine.
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
    """Bytes of a core's first or second level of data cache, which the kernels' block sizes follow from."""
    return _built().cache_size(level)


def handlers() -> Mapping[str, Handler]:
    """The handlers of the library by name; none where it was not built."""
    library = _library()
    return {} if isinstance(library, str) else library.handlers


def unavailable_reason(dtype: str = "float32") -> str | None:
    """Why the C++ kernels cannot be called in this process with arrays of this dtype, or None where they can."""
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
    """Columns of a panel and scalars of a word of weights that are packed for products in this dtype."""
    if reason := unavailable_reason(dtype):
        raise NotImplementedError(reason)
    return _built().packing(dtype == "bfloat16")


def call(
    handler: str, outputs: Any, *operands: jax.Array, aliases: Mapping[str, str] | None = None, **attributes: Any
) -> Any:
    """Calls a handler; under `vmap` it runs once per batch element.

    Args:
      handler: its name in `handlers()`.
      outputs: shapes and dtypes of the results.
      *operands: arrays, in the order of the handler's operands; one of shape [0] is absent.
      aliases: name of an operand -> name of the result that may take its memory.
      **attributes: NumPy scalars, by name.

    Raises:
      KeyError: an alias of no operand or no result.
      NotImplementedError: no C++ kernels for this machine.
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
