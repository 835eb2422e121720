"""Logits and losses by the definition of the op, for all rows or a chunk of them."""

import jax
import jax.numpy as jnp

from ryot_jax.kernels.operands import OwnGradient, accumulator
from ryot_jax.kernels.ops.linear_cross_entropy._terms import Terms


def logits(terms: Terms, x_ND: jax.Array, w_VD: jax.Array) -> jax.Array:
    """Logits [N, V], float32 (float64 if x is), with the soft cap of `terms`, if any."""
    product = _bfloat16_product if x_ND.dtype == jnp.bfloat16 else _product
    logits_NV = product(x_ND, w_VD)
    return logits_NV if terms.soft_cap is None else terms.soft_cap * jnp.tanh(logits_NV / terms.soft_cap)


def _product(x_ND: jax.Array, w_VD: jax.Array) -> jax.Array:
    return jnp.matmul(x_ND, w_VD.astype(x_ND.dtype).T, preferred_element_type=accumulator(x_ND.dtype))


@OwnGradient
def _bfloat16_product(x_ND: jax.Array, w_VD: jax.Array) -> jax.Array:
    """Float32 logits whose cotangent is rounded, as float32 backward products would run at half the rate.

    Not for float16, in which the small cotangents of a mean over many rows would underflow.
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


def losses(terms: Terms, logits_NV: jax.Array, log_sum_exp_N: jax.Array, targets_N: jax.Array) -> jax.Array:
    """Losses [N], from the logits and the logarithm of each row's sum of exponentials."""
    # With mode 'fill' a target beyond the vocabulary makes the loss NaN, not that of another token.
    index_N1 = jnp.maximum(targets_N, 0)[:, None]
    target_N = jnp.take_along_axis(logits_NV, index_N1, axis=1, mode="fill")[:, 0]
    losses_N = log_sum_exp_N - (1 - terms.label_smoothing) * target_N
    if terms.label_smoothing:
        losses_N = losses_N - terms.label_smoothing * jnp.mean(logits_NV, axis=-1)
    if terms.z_loss:
        losses_N = losses_N + terms.z_loss * jnp.square(log_sum_exp_N)
    return jnp.where(targets_N >= 0, losses_N, 0)
