"""Trees of compressed and plain arrays as JSON nodes and streams, in both directions.

Every node is described in JSON; every array adds its streams in the order of the tree, in which the reader meets them.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.compression import coding
from ryot_jax.compression.binary import Binary
from ryot_jax.compression.calibration import as_matrix_shape
from ryot_jax.compression.compressed import Compressed
from ryot_jax.compression.header import array_bytes, inflate
from ryot_jax.compression.lowrank import LowRank
from ryot_jax.compression.nested import Nested
from ryot_jax.compression.packing import pack
from ryot_jax.compression.quantized import Quantized
from ryot_jax.compression.sparse import Sparse
from ryot_jax.compression.transforms import Sum

KINDS: dict[str, type[Compressed]] = {kind.__name__: kind for kind in (Quantized, Nested, Sum, LowRank, Sparse, Binary)}
# Class numbers of a family of distributions begin at multiples of this.
_FAMILY = 64
_EXPONENTS, _CLASS_NUMBERS = 10, 11
_HALVES = 1  # + width: codes of a grid without a zero


@dataclasses.dataclass
class Stream:
    """An array on its way into the file: coded symbols, or bytes as they are."""

    section: int
    purpose: str  # 'codes' | 'side' | 'plain'
    symbols: np.ndarray | None = None
    classes: np.ndarray | None = None
    data: bytes = b""


def describe(node: Any, section: int, streams: list[Stream]) -> Any:
    """The JSON node of a tree; its arrays are appended to `streams`.

    Args:
      node: nested dicts, lists and tuples of arrays and compressed arrays.
      section: of the file, in which the arrays lie.
      streams: of the arrays of the file so far.

    Raises:
      ValueError: another kind of node.
    """
    if node is None:
        return None
    if isinstance(node, Mapping):
        if not all(isinstance(name, str) for name in node):
            raise ValueError(f"the names in a dict to save are strings, not {list(node)}")
        return {"dict": {name: describe(child, section, streams) for name, child in sorted(node.items())}}
    if isinstance(node, Quantized):
        return _describe_quantized(node, section, streams)
    if isinstance(node, Nested):
        return {"Nested": [describe(stage, i, streams) for i, stage in enumerate(node.stages)]}
    if type(node) in KINDS.values():
        return _describe_compressed(node, section, streams)
    if type(node) in (list, tuple):
        return {type(node).__name__: [describe(child, section, streams) for child in node]}
    if not isinstance(getattr(node, "dtype", None), np.dtype):
        raise ValueError(f"a tree to save holds arrays in dicts, lists and tuples, not {type(node).__name__}")
    return _describe_array(np.asarray(node), section, streams)


def _describe_array(array: np.ndarray, section: int, streams: list[Stream]) -> Any:
    kept = jax.dtypes.canonicalize_dtype(array.dtype) if array.dtype.kind in "biufcV" else None
    if kept != array.dtype:
        raise ValueError(f"an array of {array.dtype} would come back as another: cast it to one that JAX keeps")
    raw = np.ascontiguousarray(array).tobytes()
    deflated = zlib.compress(raw, 9)
    smaller = len(deflated) < len(raw)
    streams.append(Stream(section, "plain", data=deflated if smaller else raw))
    return {"array": [str(array.dtype), list(array.shape), int(smaller)]}


def _describe_compressed(node: Compressed, section: int, streams: list[Stream]) -> Any:
    """Static fields as JSON, arrays and compressed arrays within as nodes."""
    static, children = {}, {}
    for field in dataclasses.fields(node):  # type: ignore[arg-type]
        value = getattr(node, field.name)
        if field.metadata.get("static"):
            static[field.name] = list(value) if isinstance(value, tuple) else value
        else:
            children[field.name] = describe(value, section, streams)
    return {type(node).__name__: [static, children]}


def _describe_quantized(node: Quantized, section: int, streams: list[Stream]) -> Any:
    codes = np.asarray(node.integers(), np.int64).reshape(as_matrix_shape(node.shape))
    centre = int(np.floor(node.offset))
    classes = coding.classify(codes - node.offset)
    for numbers in (classes.rows, classes.columns):
        streams.append(_integers(numbers.astype(np.int64), _CLASS_NUMBERS, section))
    exponents = [np.asarray(e, np.int64) for e in node.exponents]
    middles = [int(np.median(e)) if e.size else 0 for e in exponents]
    for e, middle in zip(exponents, middles, strict=True):
        streams.append(_integers(e - middle, _EXPONENTS, section))
    family = _family(node.n_bits, node.offset)
    of_elements = _FAMILY * family + classes.of_elements(codes.shape)
    streams.append(Stream(section, "codes", codes - centre, of_elements))
    shapes = [[list(e.shape), middle] for e, middle in zip(exponents, middles, strict=True)]
    sides = [len(classes.rows), len(classes.columns)]
    return {"Quantized": [list(node.shape), node.n_bits, node.offset, sides, shapes]}


def _integers(values: np.ndarray, family: int, section: int) -> Stream:
    return Stream(section, "side", values, np.full(values.shape, _FAMILY * family))


def _family(n_bits: int, offset: float) -> int:
    return 0 if float(offset).is_integer() else _HALVES + n_bits


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads nodes in the order in which `describe` wrote them.

    Attributes:
      sections: an iterator over the streams of each section.
      distributions: of the coded symbols, by class.
    """

    sections: list[Any]
    distributions: dict[int, coding.Distribution]

    def read(self, node: Any, section: int) -> Any:
        """The tree of a node whose arrays lie in a section."""
        if node is None:
            return None
        ((kind, content),) = node.items()
        if kind == "dict":
            return {name: self.read(child, section) for name, child in content.items()}
        if kind in ("list", "tuple"):
            children = [self.read(child, section) for child in content]
            return children if kind == "list" else tuple(children)
        if kind == "array":
            dtype, shape, deflated = content
            data = next(self.sections[section])
            raw = inflate(data, array_bytes(dtype, shape)) if deflated else data
            return jnp.asarray(np.frombuffer(raw, jnp.dtype(dtype)).reshape(shape))
        if kind == "Quantized":
            return self._quantized(content, section)
        if kind == "Nested":
            return Nested(tuple(self.read(stage, i) for i, stage in enumerate(content[: len(self.sections)])))
        static, children = content
        fixed = {name: tuple(value) if isinstance(value, list) else value for name, value in static.items()}
        return KINDS[kind](**fixed, **{name: self.read(child, section) for name, child in children.items()})

    def _quantized(self, content: Any, section: int) -> Quantized:
        shape, n_bits, offset, sides, shapes = content
        rows, columns = (self._integers((n,), _CLASS_NUMBERS, section).astype(np.int8) for n in sides)
        exponents = [self._integers(tuple(s), _EXPONENTS, section) + middle for s, middle in shapes]
        matrix = as_matrix_shape(tuple(shape))
        classes = _FAMILY * _family(n_bits, offset) + coding.Classes(rows, columns).of_elements(matrix)
        codes = coding.decode(next(self.sections[section]), classes, self.distributions) + int(np.floor(offset))
        return Quantized(
            jnp.asarray(pack(codes.astype(np.uint16), n_bits)),
            tuple(jnp.asarray(e, jnp.int16) for e in exponents),
            tuple(shape),
            n_bits,
            offset,
        )

    def _integers(self, shape: tuple[int, ...], family: int, section: int) -> np.ndarray:
        return coding.decode(next(self.sections[section]), np.full(shape, _FAMILY * family), self.distributions)
