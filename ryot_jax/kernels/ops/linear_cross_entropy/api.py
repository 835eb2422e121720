"""The public function of the op: `linear_cross_entropy`."""

from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax.kernels.operands import choose
from ryot_jax.kernels.ops.linear_cross_entropy import OP
from ryot_jax.kernels.ops.linear_cross_entropy._gradients import Reductions
from ryot_jax.kernels.ops.linear_cross_entropy._terms import Terms


def linear_cross_entropy(
    x_ND: jax.Array,
    w_VD: jax.Array,
    targets_N: jax.Array,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    reduction: str = "sum",
    implementation: str = "reference",
) -> Any:
    """Cross-entropy of softmax(x w^T) with integer targets, in nats.

    With logits l_v = x_n . w_v, or c tanh(x_n . w_v / c) with a soft cap c (Gemma 2, arXiv:2408.00118), and
    z = log(sum_v exp(l_v)), a row with 0 <= target < V has the loss
    z - (1 - label_smoothing) l_target - label_smoothing mean_v(l_v) + z_loss z^2 (arXiv:1512.00567, arXiv:2204.02311).
    A row with a target below zero adds nothing to the loss, the count or the gradients; a target of V or more makes
    the row's loss NaN. Logits and sums are float32 (float64 where x is).

    Args:
      x_ND: activations, any float dtype. Products run in this dtype and accumulate in float32.
      w_VD: output embedding; cast to x's dtype for the products, its gradient has its own dtype.
      targets_N: integer class of each row; below zero: ignore the row.
      label_smoothing: share of the target's probability spread over all classes, in [0, 1].
      z_loss: weight of z^2, per nat.
      soft_cap: bound on the size of the logits, or None.
      reduction: 'sum', or 'none'.
      implementation: 'reference', 'xla', 'cpu' (C++; x in float32 or bfloat16), 'mosaic' (NVIDIA GPUs of compute
        capability 9; bfloat16 and float16) or 'triton' (from 8.0 on). The last two take a soft cap or label smoothing,
        not both.

    Returns:
      With 'sum': loss_sum, a scalar, and n_targets, a float32 scalar: the number of rows that count. With 'none':
      losses_N. Differentiable in x and w with any cotangent, once and in reverse mode; 'reference' in any way, but for
      bfloat16.

    Raises:
      ValueError: shapes or options do not fit, or the implementation is not known.
      TypeError: the implementation cannot take the dtypes.
      NotImplementedError: it cannot run on this device, or not with these options.
    """
    if x_ND.ndim != 2 or w_VD.ndim != 2 or targets_N.ndim != 1:
        raise ValueError(f"need x[N,D], w[V,D], targets[N]; got {x_ND.shape}, {w_VD.shape}, {targets_N.shape}")
    if x_ND.shape[1] != w_VD.shape[1] or x_ND.shape[0] != targets_N.shape[0]:
        raise ValueError(f"x{x_ND.shape}, w{w_VD.shape} and targets{targets_N.shape} do not fit together")
    if not jnp.issubdtype(targets_N.dtype, jnp.integer):
        raise TypeError(f"need integer targets; got {targets_N.dtype}")
    if not 0 <= label_smoothing <= 1 or (soft_cap is not None and soft_cap <= 0):
        raise ValueError(f"need label_smoothing in [0, 1] and soft_cap > 0; got {label_smoothing}, {soft_cap}")
    if reduction not in ("sum", "none"):
        raise ValueError(f"reduction={reduction!r} is not 'sum' or 'none'")
    terms = Terms(float(label_smoothing), float(z_loss), None if soft_cap is None else float(soft_cap))
    functions: Reductions = choose(OP, implementation, x_ND)
    if reduction == "none":
        return functions.none(terms, x_ND, w_VD, targets_N)
    return functions.sum(terms, x_ND, w_VD, targets_N), jnp.sum(targets_N >= 0).astype(jnp.float32)
