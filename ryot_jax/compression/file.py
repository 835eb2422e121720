"""The file format of a tree of compressed and plain arrays, entropy-coded; a model's size is that of this file.

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

import numpy as np

from ryot_jax.compression import coding
from ryot_jax.compression.compressed import PyTree
from ryot_jax.compression.header import check_lengths, check_memory, parse
from ryot_jax.compression.nodes import KINDS, Reader, Stream, describe
from ryot_jax.runtime.files import write_bytes

MAGIC = b"RYOTCMP1"
# Errors of Python, NumPy and zlib at a header that is damaged or not one of ours.
_DAMAGES = (
    ValueError, LookupError, TypeError, AttributeError, StopIteration, OverflowError, RecursionError, zlib.error,
)  # fmt: skip


class FileError(ValueError):
    """A file is not a compressed tree, or is damaged."""


@dataclasses.dataclass(frozen=True)
class FileSize:
    """The size of a file by the purpose of its bytes.

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


def to_bytes(params: PyTree, metadata: Mapping[str, Any] | None = None) -> tuple[bytes, FileSize]:
    """Encodes a tree as the content of a file; returns it with its size by purpose.

    Args:
      params: nested dicts, lists and tuples of arrays and compressed arrays.
      metadata: JSON values to keep with it.

    Raises:
      ValueError: the tree has another kind of node.
    """
    streams: list[Stream] = []
    tree = describe(params, 0, streams)
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
    """Writes the file atomically and returns its size by purpose; see `to_bytes`."""
    content, size = to_bytes(params, metadata)
    write_bytes(Path(path), content)
    return size


def load(path: str | Path, *, stages: int | None = None) -> tuple[PyTree, dict[str, Any]]:
    """Reads the tree and the metadata of a file; the arrays are on JAX's default device.

    Args:
      path: of a file that `save` wrote.
      stages: read the sections of the first stages of nested codes only; None: all.

    Raises:
      FileError: the file is no compressed tree, or damaged.
      OSError: the file cannot be read.
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
            check_memory(header["tree"], KINDS)
            size, checksum = header["distributions"]
            distributions = coding.unpack_distributions(_checked(path, file.read(size), size, checksum))
            parts: list[list[bytes]] = []
            for lengths, checksum in zip(header["lengths"][:n_sections], header["checksums"][:n_sections], strict=True):
                section = _checked(path, file.read(sum(lengths)), sum(lengths), checksum)
                ends = np.cumsum(lengths, dtype=np.int64).tolist()
                parts.append([section[end - n : end] for end, n in zip(ends, lengths, strict=True)])
            reader = Reader([iter(part) for part in parts], distributions)
            return reader.read(header["tree"], 0), header["metadata"]
        except FileError:
            raise
        except _DAMAGES as error:
            raise FileError(f"{path} is damaged ({type(error).__name__}: {error}); write it again") from error


def _checked(path: Path, data: bytes, length: int, checksum: int) -> bytes:
    if len(data) != length or zlib.crc32(data) != checksum:
        raise FileError(f"{path} is damaged: a part of it is not what was written; write it again")
    return data
