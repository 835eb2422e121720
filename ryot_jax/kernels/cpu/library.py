"""The library of C++ kernels: its two tables, read through ctypes."""

import ctypes
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax

CAP_VARIABLE = "RYOT_CPU_ISA"


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


class Library:
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
            ("ryot_missing", ctypes.c_char_p),
            ("ryot_cache_size", ctypes.c_long),
            ("ryot_product_rate", ctypes.c_double),
        ):
            getattr(self._library, name).restype = restype
        self.for_tests = int(self._library.ryot_for_tests())
        self.cap_level = self.for_tests - 1
        self.most_workers: int | None = None
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

    def missing(self) -> dict[str, str]:
        """The unmet requirements of each target that this machine cannot run, as display text."""
        lacks = {
            e.name.decode(): self._library.ryot_missing(ctypes.byref(e))
            for e in self._entries(self._library.ryot_target)
        }
        return {name: text.decode() for name, text in lacks.items() if text}

    def rates(self, bfloat16: bool) -> dict[str, float]:
        """FLOP/s of a thread's products with each usable target, measured by the first call in about 10 ms for each."""
        return {
            entry.name.decode(): float(self._library.ryot_product_rate(ctypes.byref(entry)))
            for entry in self._entries(self._library.ryot_target)
            if entry.bfloat16 == bfloat16 and self._library.ryot_is_usable(ctypes.byref(entry))
        }

    def limit_workers(self, most: int | None) -> None:
        """Let each call use at most so many threads; None: all that XLA has."""
        self._library.ryot_limit_workers(ctypes.c_long(2**20 if most is None else most))
        self.most_workers = most

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


def level_of(library: Library, name: str, source: str) -> int:
    """The level of a target; `source` names the origin of its name in the error text.

    Raises:
      ValueError: there is no target of that name.
    """
    levels = library.levels()
    if name not in levels:
        choices = ", ".join(levels)
        raise ValueError(f"{source}={name!r} is no instruction set of the C++ kernels: choose one of {choices}")
    return levels[name]


@functools.cache
def load() -> Library | str:
    """The library, or the reason why there is none.

    Raises:
      ValueError: RYOT_CPU_ISA does not name an instruction set.
    """
    libraries = sorted(pathlib.Path(__file__).parent.glob("_kernels*.so"))
    if not libraries:
        return "the C++ kernels were not built (install a C++ compiler, then `pip install -e .` again)"
    try:
        library = Library(libraries[0])
    except (OSError, AttributeError) as error:
        return f"the C++ kernels do not load: {error} (build them anew: `pip install -e .`)"
    if name := os.environ.get(CAP_VARIABLE):
        library.cap(level_of(library, name, CAP_VARIABLE))
    return library
