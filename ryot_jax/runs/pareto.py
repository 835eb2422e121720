"""Size against quality: the compressed file beside files that simpler methods make of the same checkpoint."""

from typing import Any

import numpy as np

from ryot_jax.comparison.schema import CompressedGroup, Measured, TradeOffPoint
from ryot_jax.comparison.statistics import paired_difference
from ryot_jax.compression import Compression, balanced, decode, quantize
from ryot_jax.compression.compress import code_bits
from ryot_jax.compression.compressed import named_leaves
from ryot_jax.compression.file import to_bytes
from ryot_jax.compression.transforms import Transform, chain
from ryot_jax.training.evaluation import Evaluator

_BITS = (3, 4, 5, 6)
_MULTIPLES = (0.25, 1.0, 4.0)  # multiples of the file's own settings


def points(
    params: Any, compression: Compression, losses: Evaluator, lossless: tuple[int, str]
) -> tuple[TradeOffPoint, ...]:
    """Points of the trade-off: method, setting, bytes, and change of perplexity with its interval.

    All methods have the same entropy coder and the same codes for vectors; they differ in the choice of the codes of
    matrices and in the distribution of bits.

    Args:
      params: the parameters before compression.
      compression: the compressed parameters, with settings and statistics.
      losses: evaluator on the held-out text.
      lossless: bytes and name of the best lossless coder; see `compression.lossless`.
    """
    before = losses(params).sequence_losses
    # All methods share the file's codes of vectors, which are few and costly if bad.
    vectors = balanced(min(compression.settings.values()))
    methods: dict[tuple[str, str], Transform] = {}
    for bits in _BITS:
        methods["rounding to nearest", f"{bits} bits"] = chain(quantize(bits), vectors)
        methods["GPTQ, equal bits", f"{bits} bits"] = chain(quantize(bits, feedback="rows"), vectors)
    for multiple in _MULTIPLES:
        methods["ours", f"{multiple:g} times the file's rise"] = compression.transform(multiple)
    made = []
    for (method, setting), transform in methods.items():
        compressed = transform(params, compression.stats)
        after = losses(decode(compressed)).sequence_losses
        made.append(_point(method, setting, to_bytes(compressed)[1].total, before, after))
    n_bytes, coder = lossless
    no_change = Measured(estimate=0.0, ci95=(0.0, 0.0))
    return (*made, _trade_off_point("lossless", coder, n_bytes, no_change, len(before)))


def _point(method: str, setting: str, n_bytes: int, before: np.ndarray, after: np.ndarray) -> TradeOffPoint:
    change = paired_difference(before, after)
    ci95 = None if change.ci95 is None else (float(np.expm1(change.ci95[0])), float(np.expm1(change.ci95[1])))
    estimate = None if change.estimate is None else float(np.expm1(change.estimate))
    return _trade_off_point(method, setting, n_bytes, Measured(estimate=estimate, ci95=ci95), len(before))


def _trade_off_point(method: str, setting: str, n_bytes: int, change: Measured, sequences: int) -> TradeOffPoint:
    return TradeOffPoint(method=method, setting=setting, bytes=n_bytes, perplexity_change=change, sequences=sequences)


def arrays(params: Any, compression: Compression) -> tuple[CompressedGroup, ...]:
    """Each group of arrays: bits per parameter, and its measured and expected rise of the loss.

    The measured rise is that of the tried setting nearest to the chosen one, in proportion.
    """
    leaves, compressed = named_leaves(params), named_leaves(compression.params)
    rows = []
    for group, members in compression.groups.items():
        n = sum(int(leaves[name].size) for name in members)
        taken = compression.settings[group]
        near = min(compression.table[group], key=lambda trial: abs(np.log(trial.setting / taken)))
        rows.append(
            CompressedGroup(
                name=group,
                parameters=n,
                bits_per_parameter=code_bits({name: compressed[name] for name in members}) / n,
                rise=near.rise * taken / near.setting,
                expected_rise=taken * n,
            )
        )
    return tuple(rows)
