"""Linear layer and softmax cross-entropy as one op.

The logits of a language model are its largest array. `reference` makes them all at once; the others make them chunk by
chunk, `mosaic` and `triton` as exponentials (see `tiled_cross_entropy`). Where the losses are added up they compute the
gradients in the forward pass, while a chunk's logits are at hand (Hsu et al. 2024, "Liger Kernel", arXiv:2410.10989):
three matrix products instead of the four that recomputing takes where the losses stay apart.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ryot_jax.kernels import cpu
from ryot_jax.kernels.gpu import triton
from ryot_jax.kernels.operands import accumulator, choose, operand
from ryot_jax.kernels.ops.linear_cross_entropy import mosaic as mosaic_cross_entropy
from ryot_jax.kernels.ops.linear_cross_entropy import tiled as tiled_cross_entropy
from ryot_jax.kernels.ops.linear_cross_entropy.chunks import Terms, chunk_rows, chunks

# Of the `xla` implementation: large enough for full-speed products, an eighth of a small batch.
_LEAST_CHUNK_ROWS = 512
_CHUNK_LOGITS_BYTES = 2**30  # at most, where that is more rows


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
      w_VD: output embedding; cast to x's dtype for the products, its gradient comes in its own dtype.
      targets_N: integer class of each row; below zero: ignore the row.
      label_smoothing: share of the target's probability that is spread over all classes, in [0, 1].
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
    by_reduction = choose(_IMPLEMENTATIONS, implementation, x_ND)
    losses = by_reduction[reduction](terms, x_ND, w_VD, targets_N)
    return losses if reduction == "none" else (losses, jnp.sum(targets_N >= 0).astype(jnp.float32))


def _logits(terms: Terms, x_ND: jax.Array, w_VD: jax.Array) -> jax.Array:
    product = _bfloat16_product if x_ND.dtype == jnp.bfloat16 else _product
    logits_NV = product(x_ND, w_VD)
    return logits_NV if terms.soft_cap is None else terms.soft_cap * jnp.tanh(logits_NV / terms.soft_cap)


def _product(x_ND: jax.Array, w_VD: jax.Array) -> jax.Array:
    return jnp.matmul(x_ND, w_VD.astype(x_ND.dtype).T, preferred_element_type=accumulator(x_ND.dtype))


@jax.custom_vjp
def _bfloat16_product(x_ND: jax.Array, w_VD: jax.Array) -> jax.Array:
    """Float32 logits whose cotangent is rounded: else the backward products would be of float32, at half the rate.

    Not for float16, in which the small cotangents of a mean over many rows would vanish.
    """
    return _product(x_ND, w_VD)


def _bfloat16_product_forward(x_ND: jax.Array, w_VD: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(x_ND, w_VD), (x_ND, w_VD)


def _bfloat16_product_backward(
    saved: tuple[jax.Array, jax.Array], dlogits_NV: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x_ND, w_VD = saved
    dlogits_NV = dlogits_NV.astype(x_ND.dtype)
    dx_ND = jnp.matmul(dlogits_NV, w_VD.astype(x_ND.dtype), preferred_element_type=jnp.float32)
    dw_VD = jnp.matmul(dlogits_NV.T, x_ND, preferred_element_type=jnp.float32)
    return dx_ND.astype(x_ND.dtype), dw_VD.astype(w_VD.dtype)


_bfloat16_product.defvjp(_bfloat16_product_forward, _bfloat16_product_backward)


def _losses(terms: Terms, logits_NV: jax.Array, log_sum_exp_N: jax.Array, targets_N: jax.Array) -> jax.Array:
    # Under 'fill' a target beyond the vocabulary makes the loss NaN, not another word's loss.
    index_N1 = jnp.maximum(targets_N, 0)[:, None]
    target_N = jnp.take_along_axis(logits_NV, index_N1, axis=1, mode="fill")[:, 0]
    losses_N = log_sum_exp_N - (1 - terms.label_smoothing) * target_N
    if terms.label_smoothing:
        losses_N = losses_N - terms.label_smoothing * jnp.mean(logits_NV, axis=-1)
    if terms.z_loss:
        losses_N = losses_N + terms.z_loss * jnp.square(log_sum_exp_N)
    return jnp.where(targets_N >= 0, losses_N, 0)


def _reference(terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
    logits_NV = _logits(terms, x_ND, w_VD)
    return _losses(terms, logits_NV, jax.nn.logsumexp(logits_NV, axis=-1), targets_N)


def _reference_sum(terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
    return jnp.sum(_reference(terms, x_ND, w_VD, targets_N))


_Op = Callable[[Terms, jax.Array, jax.Array, jax.Array], jax.Array]
# Losses, dx and dw for weights of the rows; None: one.
_Gradients = Callable[
    [Terms, jax.Array, jax.Array, jax.Array, jax.Array | None], tuple[jax.Array, jax.Array, jax.Array]
]


def _gradients_in_forward(losses: _Op, gradients: _Gradients) -> _Op:
    """The sum of the losses, whose backward pass only scales gradients that the forward pass has computed."""

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def op(terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
        return jnp.sum(losses(terms, x_ND, w_VD, targets_N))

    def forward(
        terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        losses_N, dx_ND, dw_VD = gradients(terms, x_ND, w_VD, targets_N, None)
        return jnp.sum(losses_N), (dx_ND, dw_VD.astype(w_VD.dtype))

    def backward(
        terms: Terms, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
    ) -> tuple[jax.Array, jax.Array, None]:
        del terms
        dx_ND, dw_VD = saved
        return (cotangent * dx_ND).astype(dx_ND.dtype), (cotangent * dw_VD).astype(dw_VD.dtype), None

    op.defvjp(forward, backward)
    return op


def _gradients_in_backward(losses: _Op, gradients: _Gradients) -> _Op:
    """The losses; the backward pass makes the logits once more, as each row has a cotangent of its own."""
    op = jax.custom_vjp(losses, nondiff_argnums=(0,))

    def forward(
        terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
        return losses(terms, x_ND, w_VD, targets_N), (x_ND, w_VD, targets_N)

    def backward(
        terms: Terms, saved: tuple[jax.Array, jax.Array, jax.Array], cotangent_N: jax.Array
    ) -> tuple[jax.Array, jax.Array, None]:
        x_ND, w_VD, targets_N = saved
        _, dx_ND, dw_VD = gradients(terms, x_ND, w_VD, targets_N, cotangent_N)
        return dx_ND, dw_VD.astype(w_VD.dtype), None

    op.defvjp(forward, backward)
    return op


def rows_at_a_time(n_rows: int, d_model: int, vocab_size: int) -> int:
    """Rows of a chunk of the `xla` implementation.

    Each chunk's gradient of w is added to the sum in memory, which a chunk's logits have to be much larger than: four
    rows a column of x, as far as memory goes.
    """
    most = min(4 * d_model, _CHUNK_LOGITS_BYTES // (4 * vocab_size))
    return chunk_rows(n_rows, max(most, _LEAST_CHUNK_ROWS))


def _chunk_losses(
    terms: Terms, x_CD: jax.Array, w_VD: jax.Array, targets_C: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Losses, logits and the logarithm of their sum of exponentials."""
    logits_CV = _logits(terms, x_CD, w_VD)
    top_C1 = jnp.max(logits_CV, axis=-1, keepdims=True)
    log_sum_exp_C1 = top_C1 + jnp.log(jnp.sum(jnp.exp(logits_CV - top_C1), axis=-1, keepdims=True))
    return _losses(terms, logits_CV, log_sum_exp_C1[:, 0], targets_C), logits_CV, log_sum_exp_C1


def _xla_losses(terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
    rows = rows_at_a_time(x_ND.shape[0], x_ND.shape[1], w_VD.shape[0])
    losses_nC = lax.map(
        lambda chunk: _chunk_losses(terms, chunk[0], w_VD, chunk[1])[0],
        (chunks(x_ND, rows, 0), chunks(targets_N, rows, -1)),
    )
    return losses_nC.reshape(-1)[: x_ND.shape[0]]


def _xla_gradients(
    terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array, weights_N: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    accumulate = accumulator(x_ND.dtype)
    classes_1V = jnp.arange(w_VD.shape[0], dtype=targets_N.dtype)[None, :]
    weights_N = jnp.ones(targets_N.shape, accumulate) if weights_N is None else weights_N.astype(accumulate)
    weights_N = jnp.where(targets_N >= 0, weights_N, 0)

    def body(
        dw_VD: jax.Array, chunk: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        x_CD, targets_C, weights_C = chunk
        losses_C, logits_CV, log_sum_exp_C1 = _chunk_losses(terms, x_CD, w_VD, targets_C)
        dlogits_CV = jnp.exp(logits_CV - log_sum_exp_C1)
        if terms.z_loss:
            dlogits_CV = dlogits_CV * (1 + 2 * terms.z_loss * log_sum_exp_C1)
        dlogits_CV = dlogits_CV - (1 - terms.label_smoothing) * (classes_1V == targets_C[:, None])
        if terms.label_smoothing:
            dlogits_CV = dlogits_CV - terms.label_smoothing / w_VD.shape[0]
        if terms.soft_cap is not None:
            dlogits_CV = dlogits_CV * (1 - jnp.square(logits_CV / terms.soft_cap))
        dlogits_CV = jnp.where((targets_C >= 0)[:, None], dlogits_CV * weights_C[:, None], 0).astype(x_CD.dtype)
        dx_CD = jnp.matmul(dlogits_CV, w_VD.astype(x_CD.dtype), preferred_element_type=accumulate)
        dw_VD = dw_VD + jnp.matmul(dlogits_CV.T, x_CD, preferred_element_type=accumulate)
        return dw_VD, (losses_C, dx_CD.astype(x_CD.dtype))

    rows = rows_at_a_time(x_ND.shape[0], x_ND.shape[1], w_VD.shape[0])
    of_chunks = chunks(x_ND, rows, 0), chunks(targets_N, rows, -1), chunks(weights_N, rows, 0)
    dw_VD, (losses_nC, dx_nCD) = lax.scan(body, jnp.zeros(w_VD.shape, accumulate), of_chunks)
    rows = x_ND.shape[0]
    return losses_nC.reshape(-1)[:rows], dx_nCD.reshape(-1, x_ND.shape[1])[:rows], dw_VD


def _cpu_losses(terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
    operands = x_ND, w_VD.astype(jnp.float32), targets_N.astype(jnp.int32)
    out = jax.ShapeDtypeStruct(targets_N.shape, jnp.float32)
    return cpu.call("ryot_linear_cross_entropy_loss", out, *operands, **terms.attributes())


def _cpu_gradients(
    terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array, weights_N: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    operands = x_ND, w_VD.astype(jnp.float32), targets_N.astype(jnp.int32), operand(weights_N)
    out = (
        jax.ShapeDtypeStruct(targets_N.shape, jnp.float32),
        jax.ShapeDtypeStruct(x_ND.shape, x_ND.dtype),
        jax.ShapeDtypeStruct(w_VD.shape, jnp.float32),
    )
    return cpu.call("ryot_linear_cross_entropy_gradients", out, *operands, **terms.attributes())


def _in_tiles(exponentials: tiled_cross_entropy.Exponentials) -> dict[str, _Op]:
    """By reduction, of a kernel that makes exponentials in tiles."""
    losses = functools.partial(tiled_cross_entropy.losses, exponentials)
    gradients = functools.partial(tiled_cross_entropy.gradients, exponentials)
    return {"sum": _gradients_in_forward(losses, gradients), "none": _gradients_in_backward(losses, gradients)}


_IMPLEMENTATIONS: dict[str, dict[str, _Op]] = {
    "reference": {"sum": _reference_sum, "none": _reference},
    "xla": {
        "sum": _gradients_in_forward(_xla_losses, _xla_gradients),
        "none": _gradients_in_backward(_xla_losses, _xla_gradients),
    },
    "cpu": {
        "sum": _gradients_in_forward(_cpu_losses, _cpu_gradients),
        "none": _gradients_in_backward(_cpu_losses, _cpu_gradients),
    },
    "mosaic": _in_tiles(mosaic_cross_entropy.exponentials),
    "triton": _in_tiles(triton.exponentials),
}
