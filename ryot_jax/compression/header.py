"""The header of a file of compressed arrays, which is checked before any memory is allocated for it."""

import json
import math
import zlib
from collections.abc import Container, Iterator, Mapping
from typing import Any

import jax.numpy as jnp

from ryot_jax.machine.processor import describe_processor

# Of the header once inflated: a name, a shape and a few numbers for each array.
_MOST_BYTES = 2**28
# For each element of the array that is being decoded: its class, its symbol and the codes in 16 bits, with copies.
_DECODING_BYTES = 32


def parse(data: bytes) -> dict[str, Any]:
    """Parses the header from its deflated JSON.

    Raises:
      ValueError, zlib.error: the data are not a header.
    """
    header = json.loads(inflate(data, _MOST_BYTES))
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    return header


def inflate(data: bytes, most: int) -> bytes:
    """Inflates deflated data without ever holding more than `most` bytes of the result.

    Raises:
      ValueError: the result is larger, or the data are cut off.
      zlib.error: the data are not deflated.
    """
    inflater = zlib.decompressobj()
    found = inflater.decompress(data, most + 1)
    if len(found) > most or not inflater.eof or inflater.unused_data:
        raise ValueError(f"deflated data are cut off or hold other than at most {most:,} bytes")
    return found


def check_lengths(header: Mapping[str, Any], before: int, size: int, n_sections: int) -> None:
    """Checks that the file holds the sections to read, and nothing after its end.

    Args:
      header: as parsed.
      before: bytes up to the end of the header.
      size: bytes of the file.
      n_sections: number of sections to read; later ones may be cut off.

    Raises:
      ValueError: the file is too short or too long.
    """
    lengths = [[header["distributions"][0]], *header["lengths"]]
    for section in lengths:
        _check_counts(section)
    sums = [sum(section) for section in lengths]
    least, most = before + sum(sums[: 1 + n_sections]), before + sum(sums)
    if not least <= size <= most:
        raise ValueError(f"the header speaks of {least:,} to {most:,} bytes, the file has {size:,}")


def check_memory(tree: Any, kinds: Container[str]) -> None:
    """Checks that the arrays that a header describes fit into this machine's memory.

    A few bytes may stand for many elements: those of an array of zeros take no bits at all.

    Args:
      tree: as in the header.
      kinds: names of compressed arrays that can be read.

    Raises:
      ValueError: they do not, a shape cannot be, or there is another kind of array.
    """
    arrays = list(_arrays(tree, kinds))
    needed = sum(stored for stored, _ in arrays) + max((working for _, working in arrays), default=0)
    memory = describe_processor().memory_bytes
    if memory is not None and needed > memory:
        raise ValueError(f"its arrays would take {needed:,} bytes of this machine's {memory:,}")


def _arrays(node: Any, kinds: Container[str]) -> Iterator[tuple[int, int]]:
    """For each array, the bytes that it takes and the bytes that decoding it takes at the same time."""
    if node is None:
        return
    ((kind, content),) = node.items()
    if kind == "array":
        dtype, shape, _ = content
        n_bytes = array_bytes(dtype, shape)
        yield n_bytes, n_bytes
    elif kind == "Quantized":
        shape, n_bits, _, sides, exponents = content
        _check_counts([n_bits, *shape, *sides])
        others = list(sides)
        for of_exponents, _ in exponents:
            _check_counts(of_exponents)
            others.append(math.prod(of_exponents))
        elements = math.prod(shape)
        yield elements * n_bits // 8 + 2 * sum(others), _DECODING_BYTES * (elements + sum(others))
    elif kind == "dict":
        for child in content.values():
            yield from _arrays(child, kinds)
    elif kind in ("list", "tuple", "Nested"):
        for child in content:
            yield from _arrays(child, kinds)
    elif kind in kinds:
        yield from _arrays({"dict": content[1]}, kinds)
    else:
        raise ValueError(f"{kind!r} is no kind of array that is known here")


def array_bytes(dtype: str, shape: list[int]) -> int:
    """Bytes that an array takes in memory.

    Raises:
      ValueError: a size that cannot be.
      TypeError: a type that is none.
    """
    _check_counts(shape)
    return math.prod(shape) * jnp.dtype(dtype).itemsize


def _check_counts(numbers: list[Any]) -> None:
    if wrong := [n for n in numbers if type(n) is not int or n < 0]:
        raise ValueError(f"{wrong[0]!r} is no size")
