"""Linear layer and softmax cross-entropy as one op.

The logits of a language model are its largest array. `reference` makes them all at once; `xla` and `cpu` make
them chunk by chunk and compute the gradients in the forward pass, while a chunk's logits are at hand (Hsu et
al. 2024, "Liger Kernel", arXiv:2410.10989): three matrix products instead of the four that recomputing would
take.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ryot_jax.kernels import cpu

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# The same, and the gradients with respect to x and w.
LossAndGradients = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]

_CHUNK_ROWS = 512  # of the `xla` implementation: large enough for full-speed products, an eighth of a small batch


def linear_cross_entropy(
    x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array, *, implementation: str = "reference"
) -> tuple[jax.Array, jax.Array]:
    """Sum over rows of the cross-entropy of softmax(x w^T) with integer targets, in nats.

    For a row n with 0 <= targets[n] < V the loss is log(sum_v exp(x_n . w_v)) - x_n . w_targets[n]. A row
    with a target below zero adds nothing to the loss, the count or the gradients. Logits and sums are
    float32 (float64 where x is).

    Args:
      x_ND: activations, any float dtype. Products run in this dtype and accumulate in float32.
      w_VD: output embedding; cast to x's dtype for the products, its gradient comes in its own dtype.
      targets_N: integer class of each row; below zero: ignore the row.
      implementation: 'reference', 'xla' or 'cpu' (C++; float32 only).

    Returns:
      loss_sum: scalar; differentiable in x and w (once for 'xla' and 'cpu'), with any cotangent.
      n_targets: scalar float32, the number of rows that count.

    Raises:
      ValueError: shapes do not fit, or the implementation is not known.
      TypeError: the implementation cannot take the dtypes.
    """
    if x_ND.ndim != 2 or w_VD.ndim != 2 or targets_N.ndim != 1:
        raise ValueError(f"need x[N,D], w[V,D], targets[N]; got {x_ND.shape}, {w_VD.shape}, {targets_N.shape}")
    if x_ND.shape[1] != w_VD.shape[1] or x_ND.shape[0] != targets_N.shape[0]:
        raise ValueError(f"x{x_ND.shape}, w{w_VD.shape} and targets{targets_N.shape} do not fit together")
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(f"implementation={implementation!r} is not one of {sorted(_IMPLEMENTATIONS)}")
    loss_sum = _IMPLEMENTATIONS[implementation](x_ND, w_VD, targets_N)
    return loss_sum, jnp.sum(targets_N >= 0).astype(jnp.float32)


def _logits(x_ND: jax.Array, w_VD: jax.Array) -> jax.Array:
    accumulate = jnp.promote_types(x_ND.dtype, jnp.float32)
    return jnp.matmul(x_ND, w_VD.astype(x_ND.dtype).T, preferred_element_type=accumulate)


def _target_logits(logits_NV: jax.Array, targets_N: jax.Array) -> jax.Array:
    # Under 'fill' a target beyond the vocabulary makes the loss NaN, not another word's loss.
    index_N1 = jnp.maximum(targets_N, 0)[:, None]
    return jnp.take_along_axis(logits_NV, index_N1, axis=1, mode="fill")[:, 0]


def _reference(x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
    logits_NV = _logits(x_ND, w_VD)
    losses_N = jax.nn.logsumexp(logits_NV, axis=-1) - _target_logits(logits_NV, targets_N)
    return jnp.sum(jnp.where(targets_N >= 0, losses_N, 0))


def _gradients_in_forward(loss: Loss, loss_and_gradients: LossAndGradients) -> Loss:
    """A custom-VJP op whose backward pass only scales gradients that the forward pass has computed."""

    @jax.custom_vjp
    def op(x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
        return loss(x_ND, w_VD, targets_N)

    def forward(
        x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        value, dx_ND, dw_VD = loss_and_gradients(x_ND, w_VD, targets_N)
        return value, (dx_ND, dw_VD)

    def backward(residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array, None]:
        dx_ND, dw_VD = residuals
        return (cotangent * dx_ND).astype(dx_ND.dtype), (cotangent * dw_VD).astype(dw_VD.dtype), None

    op.defvjp(forward, backward)
    return op


def _chunks(x_ND: jax.Array, targets_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows in chunks [n, C, D] and [n, C]; the last one filled up with rows that are ignored."""
    rows = x_ND.shape[0]
    chunk = min(_CHUNK_ROWS, max(rows, 1))
    n = max(1, -(-rows // chunk))
    fill = n * chunk - rows
    x_nCD = jnp.pad(x_ND, ((0, fill), (0, 0))).reshape(n, chunk, -1)
    return x_nCD, jnp.pad(targets_N, (0, fill), constant_values=-1).reshape(n, chunk)


def _chunk_loss(x_CD: jax.Array, w_VD: jax.Array, targets_C: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Loss sum, and numerator and denominator of the softmax."""
    logits_CV = _logits(x_CD, w_VD)
    top_C1 = jnp.max(logits_CV, axis=-1, keepdims=True)
    exp_CV = jnp.exp(logits_CV - top_C1)
    sum_C1 = jnp.sum(exp_CV, axis=-1, keepdims=True)
    losses_C = (top_C1 + jnp.log(sum_C1))[:, 0] - _target_logits(logits_CV, targets_C)
    return jnp.sum(jnp.where(targets_C >= 0, losses_C, 0)), exp_CV, sum_C1


def _xla_loss(x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
    def body(loss: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return loss + _chunk_loss(chunk[0], w_VD, chunk[1])[0], None

    zero = jnp.zeros((), jnp.promote_types(x_ND.dtype, jnp.float32))
    return lax.scan(body, zero, _chunks(x_ND, targets_N))[0]


def _xla_loss_and_gradients(
    x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    accumulate = jnp.promote_types(x_ND.dtype, jnp.float32)
    classes_V = jnp.arange(w_VD.shape[0], dtype=targets_N.dtype)

    def body(
        carry: tuple[jax.Array, jax.Array], chunk: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        loss, dw_VD = carry
        x_CD, targets_C = chunk
        chunk_loss, exp_CV, sum_C1 = _chunk_loss(x_CD, w_VD, targets_C)
        is_target_CV = classes_V[None, :] == targets_C[:, None]
        dlogits_CV = jnp.where((targets_C >= 0)[:, None], exp_CV / sum_C1 - is_target_CV, 0).astype(x_CD.dtype)
        dx_CD = jnp.matmul(dlogits_CV, w_VD.astype(x_CD.dtype), preferred_element_type=accumulate)
        dw_VD = dw_VD + jnp.matmul(dlogits_CV.T, x_CD, preferred_element_type=accumulate)
        return (loss + chunk_loss, dw_VD), dx_CD.astype(x_CD.dtype)

    carry = jnp.zeros((), accumulate), jnp.zeros(w_VD.shape, accumulate)
    (loss, dw_VD), dx_nCD = lax.scan(body, carry, _chunks(x_ND, targets_N))
    dx_ND = dx_nCD.reshape(-1, x_ND.shape[1])[: x_ND.shape[0]]
    return loss, dx_ND, dw_VD.astype(w_VD.dtype)


def _check_cpu(x_ND: jax.Array, w_VD: jax.Array) -> None:
    if x_ND.dtype != jnp.float32 or w_VD.dtype != jnp.float32:
        raise TypeError(f"implementation='cpu' takes float32; got x {x_ND.dtype}, w {w_VD.dtype}")


def _cpu_loss(x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
    _check_cpu(x_ND, w_VD)
    out = jax.ShapeDtypeStruct((), jnp.float32)
    return cpu.call("ryot_linear_cross_entropy_loss", out, x_ND, w_VD, targets_N.astype(jnp.int32))


def _cpu_loss_and_gradients(
    x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    _check_cpu(x_ND, w_VD)
    out = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((), x_ND.shape, w_VD.shape)]
    return cpu.call("ryot_linear_cross_entropy_gradients", out, x_ND, w_VD, targets_N.astype(jnp.int32))


_IMPLEMENTATIONS: dict[str, Loss] = {
    "reference": _reference,
    "xla": _gradients_in_forward(_xla_loss, _xla_loss_and_gradients),
    "cpu": _gradients_in_forward(_cpu_loss, _cpu_loss_and_gradients),
}
