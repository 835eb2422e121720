"""A tree of compressed and plain arrays in one file, entropy-coded, whose size on disk is the size that counts.

    magic, length of the header, header (deflated JSON: tree, shapes, widths, metadata, distributions' place), payload

The payload has a section for each stage of nested codes: the file's first sections are a file of the coarser model, and
`load(path, stages=1)` reads no more than that. Sections carry a checksum each.
"""

import dataclasses
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.compression import coding
from ryot_jax.compression.binary import Binary
from ryot_jax.compression.calibration import as_matrix_shape
from ryot_jax.compression.compressed import Compressed, PyTree
from ryot_jax.compression.header import array_bytes, check_lengths, check_memory, inflate, parse
from ryot_jax.compression.lowrank import LowRank
from ryot_jax.compression.nested import Nested
from ryot_jax.compression.packing import pack
from ryot_jax.compression.quantized import Quantized
from ryot_jax.compression.sparse import Sparse
from ryot_jax.compression.transforms import Sum
from ryot_jax.runtime.files import write_bytes

MAGIC = b"RYOTCMP1"
_KINDS: dict[str, type[Compressed]] = {
    kind.__name__: kind for kind in (Quantized, Nested, Sum, LowRank, Sparse, Binary)
}
# Families of distributions: their class numbers begin at multiples of this.
_FAMILY = 64
_EXPONENTS, _CLASS_NUMBERS = 10, 11
_HALVES = 1  # + width: codes of a grid without a zero


# What a header that is not one of ours makes Python, NumPy and zlib raise.
_DAMAGES = (
    ValueError, LookupError, TypeError, AttributeError, StopIteration, OverflowError, RecursionError, zlib.error,
)  # fmt: skip


class FileError(ValueError):
    """A file that is not a compressed tree, or is damaged."""


@dataclasses.dataclass(frozen=True)
class FileSize:
    """Where the bytes of a file go.

    Attributes:
      total: of the file.
      codes: of the coded elements of quantized arrays.
      side: of scales, classes and distributions.
      plain: of arrays that are not quantized.
      header: tree, shapes and metadata.
      code_entropy: bytes that the codes would take at their empirical entropy, given their classes.
      order0_entropy: the same without classes, array by array.
    """

    total: int
    codes: int
    side: int
    plain: int
    header: int
    code_entropy: float
    order0_entropy: float

    @property
    def overhead(self) -> float:
        """The file's size over that of its codes' entropy, side information, plain arrays and header."""
        return self.total / max(self.code_entropy + self.side + self.plain + self.header, 1.0)


@dataclasses.dataclass
class _Stream:
    """An array on its way into the file: coded symbols, or bytes as they are."""

    section: int
    purpose: str  # 'codes' | 'side' | 'plain'
    symbols: np.ndarray | None = None
    classes: np.ndarray | None = None
    data: bytes = b""


def to_bytes(params: PyTree, metadata: Mapping[str, Any] | None = None) -> tuple[bytes, FileSize]:
    """The file's content and where its bytes go.

    Args:
      params: nested dicts, lists and tuples of arrays and compressed arrays.
      metadata: JSON values to keep with it.

    Raises:
      ValueError: another kind of node.
    """
    streams: list[_Stream] = []
    tree = _describe(params, 0, streams)
    coded = [s for s in streams if s.symbols is not None]
    pairs = [(s.symbols, s.classes) for s in coded if s.symbols is not None and s.classes is not None]
    distributions = coding.pooled(pairs) if pairs else {}
    packed_distributions = coding.pack_distributions(distributions)
    for stream in coded:
        assert stream.symbols is not None and stream.classes is not None
        stream.data = coding.encode(stream.symbols, stream.classes, distributions)
    # Streams go to their sections in the order of the tree, which is the one that the reader meets them in.
    n_sections = 1 + max((s.section for s in streams), default=0)
    sections = [b"".join(s.data for s in streams if s.section == i) for i in range(n_sections)]
    header = {
        "tree": tree,
        "lengths": [[len(s.data) for s in streams if s.section == i] for i in range(n_sections)],
        "checksums": [zlib.crc32(section) for section in sections],
        "distributions": [len(packed_distributions), zlib.crc32(packed_distributions)],
        "metadata": dict(metadata or {}),
    }
    text = zlib.compress(json.dumps(header, separators=(",", ":"), allow_nan=False).encode(), 9)
    content = b"".join([MAGIC, len(text).to_bytes(8, "little"), text, packed_distributions, *sections])
    sizes = {p: sum(len(s.data) for s in streams if s.purpose == p) for p in ("codes", "side", "plain")}
    of_codes = [s for s in coded if s.purpose == "codes"]
    pooled_symbols = [np.ravel(s.symbols) for s in of_codes if s.symbols is not None]
    pooled_classes = [np.ravel(s.classes) for s in of_codes if s.classes is not None]
    return content, FileSize(
        total=len(content),
        codes=sizes["codes"],
        side=sizes["side"] + len(packed_distributions),
        plain=sizes["plain"],
        header=len(MAGIC) + 8 + len(text),
        code_entropy=coding.entropy_bits(np.concatenate(pooled_symbols), np.concatenate(pooled_classes)) / 8
        if of_codes
        else 0.0,
        order0_entropy=sum(coding.entropy_bits(symbols) for symbols in pooled_symbols) / 8,
    )


def save(path: str | Path, params: PyTree, metadata: Mapping[str, Any] | None = None) -> FileSize:
    """Writes the file, which is never seen half written; returns where its bytes go. See `to_bytes`."""
    content, size = to_bytes(params, metadata)
    write_bytes(Path(path), content)
    return size


def load(path: str | Path, *, stages: int | None = None) -> tuple[PyTree, dict[str, Any]]:
    """The tree and the metadata of a file; the arrays are on JAX's default device.

    Args:
      path: of a file that `save` wrote.
      stages: read the sections of the first stages of nested codes only; None: all.

    Raises:
      FileError: it is no such file, or damaged.
      OSError: it cannot be read.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(len(MAGIC) + 8)
        if len(start) < len(MAGIC) + 8 or not start.startswith(MAGIC):
            raise FileError(f"{path} is no compressed model: it does not begin with {MAGIC.decode()}")
        length = int.from_bytes(start[len(MAGIC) :], "little")
        try:
            file_bytes = path.stat().st_size
            header = parse(file.read(min(length, file_bytes)))
            n_sections = len(header["lengths"]) if stages is None else min(stages, len(header["lengths"]))
            check_lengths(header, len(start) + length, file_bytes, n_sections)
            check_memory(header["tree"], _KINDS)
            size, checksum = header["distributions"]
            distributions = coding.unpack_distributions(_checked(path, file.read(size), size, checksum))
            parts: list[list[bytes]] = []
            for lengths, checksum in zip(header["lengths"][:n_sections], header["checksums"][:n_sections], strict=True):
                section = _checked(path, file.read(sum(lengths)), sum(lengths), checksum)
                ends = np.cumsum(lengths, dtype=np.int64).tolist()
                parts.append([section[end - n : end] for end, n in zip(ends, lengths, strict=True)])
            reader = _Reader([iter(part) for part in parts], distributions)
            return reader.read(header["tree"], 0), header["metadata"]
        except FileError:
            raise
        except _DAMAGES as error:
            raise FileError(f"{path} is damaged ({type(error).__name__}: {error}); make it anew") from error


def _checked(path: Path, data: bytes, length: int, checksum: int) -> bytes:
    if len(data) != length or zlib.crc32(data) != checksum:
        raise FileError(f"{path} is damaged: a part of it is not what was written; make it anew")
    return data


# ---- From tree to streams: every node is described in JSON, every array adds its streams in order -----------------


def _describe(node: Any, section: int, streams: list[_Stream]) -> Any:
    if node is None:
        return None
    if isinstance(node, Mapping):
        if not all(isinstance(name, str) for name in node):
            raise ValueError(f"the names in a dict to save are strings, not {list(node)}")
        return {"dict": {name: _describe(child, section, streams) for name, child in sorted(node.items())}}
    if isinstance(node, Quantized):
        return _describe_quantized(node, section, streams)
    if isinstance(node, Nested):
        return {"Nested": [_describe(stage, i, streams) for i, stage in enumerate(node.stages)]}
    if type(node) in _KINDS.values():
        return _describe_compressed(node, section, streams)
    if type(node) in (list, tuple):
        return {type(node).__name__: [_describe(child, section, streams) for child in node]}
    if not isinstance(getattr(node, "dtype", None), np.dtype):
        raise ValueError(f"a tree to save holds arrays in dicts, lists and tuples, not {type(node).__name__}")
    return _describe_array(np.asarray(node), section, streams)


def _describe_array(array: np.ndarray, section: int, streams: list[_Stream]) -> Any:
    kept = jax.dtypes.canonicalize_dtype(array.dtype) if array.dtype.kind in "biufcV" else None
    if kept != array.dtype:
        raise ValueError(f"an array of {array.dtype} would come back as another: cast it to one that JAX keeps")
    raw = np.ascontiguousarray(array).tobytes()
    deflated = zlib.compress(raw, 9)
    smaller = len(deflated) < len(raw)
    streams.append(_Stream(section, "plain", data=deflated if smaller else raw))
    return {"array": [str(array.dtype), list(array.shape), int(smaller)]}


def _describe_compressed(node: Compressed, section: int, streams: list[_Stream]) -> Any:
    """Static fields as JSON, arrays and compressed arrays within as nodes."""
    static, children = {}, {}
    for field in dataclasses.fields(node):  # type: ignore[arg-type]
        value = getattr(node, field.name)
        if field.metadata.get("static"):
            static[field.name] = list(value) if isinstance(value, tuple) else value
        else:
            children[field.name] = _describe(value, section, streams)
    return {type(node).__name__: [static, children]}


def _describe_quantized(node: Quantized, section: int, streams: list[_Stream]) -> Any:
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
    streams.append(_Stream(section, "codes", codes - centre, of_elements))
    shapes = [[list(e.shape), middle] for e, middle in zip(exponents, middles, strict=True)]
    sides = [len(classes.rows), len(classes.columns)]
    return {"Quantized": [list(node.shape), node.n_bits, node.offset, sides, shapes]}


def _integers(values: np.ndarray, family: int, section: int) -> _Stream:
    return _Stream(section, "side", values, np.full(values.shape, _FAMILY * family))


def _family(n_bits: int, offset: float) -> int:
    return 0 if float(offset).is_integer() else _HALVES + n_bits


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads nodes in the order in which `_describe` wrote them."""

    sections: list[Any]
    distributions: dict[int, coding.Distribution]

    def read(self, node: Any, section: int) -> Any:
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
        return _KINDS[kind](**fixed, **{name: self.read(child, section) for name, child in children.items()})

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
