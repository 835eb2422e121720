"""Lengths of the blocks of interleaved programs; the interleaving is in `ryot_jax.comparison.interleaving`."""

import numpy as np

from ryot_jax.comparison.interleaving import Block


def steps_within(block: Block, seconds: float, most: int = 1000) -> int:
    """The number of steps that fit into `seconds`, at least 1; runs 3 of them, the first to warm up."""
    block(1)
    per_step = block(2) / 2
    return int(np.clip(round(seconds / per_step), 1, most))
