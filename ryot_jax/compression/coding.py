"""Entropy coding of integer arrays, by constriction's asymmetric numeral systems (arXiv:0902.0271).

Codes of a quantized matrix do not all spread alike: some rows and columns are large beside their steps, others mostly
zero. Each code is therefore coded with the distribution of its *class*: a class of codes of about the same expected
size, sqrt(mean square of the row * mean square of the column / mean square of the matrix). Rows and columns have small
integers for that in the file; the distributions are shared by all matrices of a file and stored once.
"""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence

import constriction
import numpy as np

from ryot_jax.compression.header import inflate

_CLASSES_PER_OCTAVE = 2  # of the expected size
_SMALLEST = -6  # expected sizes below 2^(-6 / 2) are one class: such codes are zero
_LARGEST = 30
# An axis gets classes of its own only if each stands for enough codes to pay for them.
_LEAST_CODES = 24

_MOST_BYTES = 2**28  # of all distributions of a file: a class has at most 2^16 symbols
_PROBABILITY_STEPS = 16  # probabilities are stored as whole multiples of 2^(-1 / 16)
_PROBABILITY_RANGE = 255
# Whole numbers, so that every machine makes the same model of them; exp2 and sums differ in the last bit.
_WEIGHTS = np.round(np.exp2(32 - np.arange(_PROBABILITY_RANGE + 1) / _PROBABILITY_STEPS))


@dataclasses.dataclass(frozen=True)
class Classes:
    """Classes of a matrix's elements: that of (i, j) is rows[i] + columns[j], clipped.

    Attributes:
      rows, columns: int8; of length 1 where the axis has no classes of its own.
    """

    rows: np.ndarray
    columns: np.ndarray

    def of_elements(self, shape: tuple[int, int]) -> np.ndarray:
        """The class of each element: int64 of the shape."""
        total = self.rows[:, None].astype(np.int64) + self.columns[None]
        return np.broadcast_to(np.clip(total, _SMALLEST, _LARGEST), shape)


def classify(levels: np.ndarray) -> Classes:
    """The classes of a matrix of centred codes."""
    squares = np.square(levels, dtype=np.float64)
    overall = _half_octaves(squares.mean())
    rows = _half_octaves(squares.mean(1)) if squares.shape[1] >= _LEAST_CODES else np.full(1, overall)
    columns = _half_octaves(squares.mean(0)) - overall if squares.shape[0] >= _LEAST_CODES else np.zeros(1)
    return Classes(rows.astype(np.int8), columns.astype(np.int8))


def _half_octaves(mean_squares: np.ndarray) -> np.ndarray:
    floor = 2.0 ** (2 * _SMALLEST / _CLASSES_PER_OCTAVE)
    return np.round(_CLASSES_PER_OCTAVE / 2 * np.log2(np.maximum(mean_squares, floor)))


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Probabilities of integers in a row, as they are stored.

    Attributes:
      lowest: the first integer.
      costs: uint8, -log2 of the probability of each in 16ths of a bit, before they are made to add up to one.
    """

    lowest: int
    costs: np.ndarray

    def model(self) -> constriction.stream.model.Categorical:
        """The coder's model of `symbol - lowest`."""
        weights = _WEIGHTS[self.costs]
        return constriction.stream.model.Categorical((weights / weights.sum()).astype(np.float32), perfect=False)


def fit(symbols: np.ndarray) -> Distribution:
    """The distribution of integers that occur; those between them that do not have the least probability."""
    lowest = int(symbols.min())
    counts = np.bincount(np.ravel(symbols) - lowest).astype(np.float64)
    bits = -np.log2(np.maximum(counts, 1e-9) / counts.sum())
    return Distribution(lowest, np.minimum(np.round(_PROBABILITY_STEPS * bits), _PROBABILITY_RANGE).astype(np.uint8))


def encode(symbols: np.ndarray, classes: np.ndarray, distributions: Mapping[int, Distribution]) -> bytes:
    """Encodes symbols in the number of bits that their distributions imply, to about four bytes.

    Args:
      symbols: integers.
      classes: of each symbol, same shape.
      distributions: by class; every symbol must lie within its own.
    """
    symbols, classes = np.ravel(symbols).astype(np.int64), np.ravel(classes)
    coder = constriction.stream.stack.AnsCoder()
    for name in np.unique(classes)[::-1]:  # a stack: the last in is the first out
        distribution = distributions[int(name)]
        chosen = symbols[classes == name] - distribution.lowest
        if len(distribution.costs) > 1:  # one that is certain takes no bits, and constriction no such model
            coder.encode_reverse(chosen.astype(np.int32), distribution.model())
    return coder.get_compressed().astype("<u4").tobytes()


def decode(data: bytes, classes: np.ndarray, distributions: Mapping[int, Distribution]) -> np.ndarray:
    """Decodes the symbols that `encode` was given: int64 of the shape of `classes`."""
    coder = constriction.stream.stack.AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))
    flat = np.ravel(classes)
    symbols = np.empty(flat.size, np.int64)
    for name in np.unique(flat):
        distribution, chosen = distributions[int(name)], flat == name
        n = int(chosen.sum())
        found = coder.decode(distribution.model(), n) if len(distribution.costs) > 1 else np.zeros(n, np.int32)
        symbols[chosen] = found.astype(np.int64) + distribution.lowest
    return symbols.reshape(classes.shape)


def entropy_bits(symbols: np.ndarray, classes: np.ndarray | None = None) -> float:
    """Empirical entropy of the symbols, given their classes if there are any, in bits for all of them."""
    flat = np.ravel(symbols)
    groups = [flat] if classes is None else [flat[np.ravel(classes) == name] for name in np.unique(classes)]
    bits = 0.0
    for group in groups:
        counts = np.unique_counts(group).counts
        bits -= float(np.sum(counts * np.log2(counts / group.size)))
    return bits


def pack_distributions(distributions: Mapping[int, Distribution]) -> bytes:
    """The distributions, deflated; `unpack_distributions` reads them back."""
    words: list[bytes] = []
    for name, distribution in sorted(distributions.items()):
        words.append(np.asarray([name, distribution.lowest, len(distribution.costs)], "<i4").tobytes())
        # Costs go up and down smoothly: their differences take fewer bytes.
        words.append(np.diff(distribution.costs, prepend=np.uint8(0)).astype(np.uint8).tobytes())
    return zlib.compress(b"".join(words), 9)


def unpack_distributions(data: bytes) -> dict[int, Distribution]:
    """Restores the distributions that `pack_distributions` was given."""
    raw, found, at = inflate(data, _MOST_BYTES), {}, 0
    while at < len(raw):
        name, lowest, length = (int(x) for x in np.frombuffer(raw, "<i4", 3, at))
        differences = np.frombuffer(raw, np.uint8, length, at + 12)
        found[name] = Distribution(lowest, np.cumsum(differences, dtype=np.uint8))
        at += 12 + length
    return found


def pooled(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[int, Distribution]:
    """The distribution of each class over all parts, (symbols, classes) each."""
    symbols = np.concatenate([np.ravel(s) for s, _ in parts])
    classes = np.concatenate([np.ravel(c) for _, c in parts])
    return {int(name): fit(symbols[classes == name]) for name in np.unique(classes)}
