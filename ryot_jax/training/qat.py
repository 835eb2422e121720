"""Quantization-aware training: the loss of rounded weights in the last part of training, steps of the float ones.

The gradient is taken at the rounded weights and applied to the float ones (straight through, arXiv:1308.3432), which so
move to where rounding costs less. The last part of training, under the decay of its learning rate, is the place for
it (arXiv:2509.22935). Evaluation and checkpoints have the float weights, from which `ryot_jax.compression` starts
with its own grids.
"""

from typing import Any

import jax

from ryot_jax.compression.compressed import decode
from ryot_jax.compression.quantize import quantize
from ryot_jax.training.optimizer import matrices
from ryot_jax.training.step import ParamsFn


def rounded(params: Any, bits: int) -> Any:
    """The parameters with every matrix rounded to a fitted grid of `bits` bits, as in `compression.quantize`.

    The embedding and the head that is tied to it are matrices; biases and the scales of norms are not, also where a
    scan over layers has stacked them. A stacked matrix has scales of its own for each layer.
    """
    transform = quantize(bits)
    return jax.tree.map(lambda w, is_matrix: decode(transform(w)) if is_matrix else w, params, matrices(params))


def rounded_from(first_step: int, bits: int) -> ParamsFn:
    """The `params_fn` of `train_step` that rounds the weights from step `first_step` on, counted from 0."""

    def seen(params: Any, step: jax.Array) -> Any:
        # A branch rather than a select, so that the branch not taken costs no time.
        return jax.lax.cond(step >= first_step, lambda p: rounded(p, bits), lambda p: p, params)

    return seen
