"""The position-wise MLP of a transformer block, made of two `dense` ops.

In 'cpu' no derivative is stored between them: the backward pass of the second product multiplies by the slopes of the
activation while its sums are in registers.
"""

import functools

import jax
import jax.numpy as jnp

from ryot_jax.kernels.operands import OwnGradient
from ryot_jax.kernels.ops.dense.api import dense
from ryot_jax.kernels.ops.dense.cpu import Saved, cpu_backward, cpu_forward


def mlp(
    x: jax.Array,
    up_DF: jax.Array,
    down_FD: jax.Array,
    up_bias_F: jax.Array | None = None,
    down_bias_D: jax.Array | None = None,
    *,
    kind: str = "gelu",
    residual: jax.Array | None = None,
    implementation: str = "reference",
) -> jax.Array:
    """The MLP activation(x up + up_bias) down + down_bias + residual.

    Args:
      x: [..., D], any float dtype.
      up_DF: weights; [D, 2F] for 'swiglu', the columns of the gate first.
      down_FD: weights.
      up_bias_F: bias, or None; [2F] for 'swiglu'.
      down_bias_D: bias, or None.
      kind: 'gelu', 'swiglu' or 'relu2': the activation, as in `dense`.
      residual: [..., D], or None.
      implementation: as in `dense`.

    Returns:
      [..., D] in the residual's dtype, or x's if there is no residual.

    Raises:
      ValueError: shapes do not match, or the kind or the implementation is unknown.
      TypeError: the implementation does not support the dtypes.
    """
    if kind == "none":
        raise ValueError("kind='none': two dense layers with nothing between them are one")
    operands = x, up_DF, down_FD, up_bias_F, down_bias_D, residual
    if implementation != "cpu" or kind == "swiglu":  # swiglu's slopes are twice as wide as its output
        return _two_layers(kind, implementation, *operands)
    shape = jax.eval_shape(functools.partial(_two_layers, kind, implementation), *operands)  # raises if invalid
    if residual is not None and x.dtype != jnp.bfloat16:
        operands = (*operands[:-1], residual.astype(x.dtype))  # the float32 kernels take no other dtype
    return _cpu(kind, *operands).astype(shape.dtype)


def _two_layers(
    kind: str,
    implementation: str,
    x: jax.Array,
    up_DF: jax.Array,
    down_FD: jax.Array,
    up_bias_F: jax.Array | None,
    down_bias_D: jax.Array | None,
    residual: jax.Array | None,
) -> jax.Array:
    hidden = dense(x, up_DF, up_bias_F, activation=kind, implementation=implementation)
    return dense(hidden, down_FD, down_bias_D, residual=residual, implementation=implementation)


@functools.partial(OwnGradient, nondiff_argnums=(0,))
def _cpu(
    kind: str,
    x: jax.Array,
    up_DF: jax.Array,
    down_FD: jax.Array,
    up_bias_F: jax.Array | None,
    down_bias_D: jax.Array | None,
    residual: jax.Array | None,
) -> jax.Array:
    return _cpu_forward(kind, x, up_DF, down_FD, up_bias_F, down_bias_D, residual)[0]


def _cpu_forward(
    kind: str,
    x: jax.Array,
    up_DF: jax.Array,
    down_FD: jax.Array,
    up_bias_F: jax.Array | None,
    down_bias_D: jax.Array | None,
    residual: jax.Array | None,
) -> tuple[jax.Array, tuple[Saved, Saved]]:
    hidden, up = cpu_forward(kind, x, up_DF, up_bias_F, None)
    y, down = cpu_forward("none", hidden, down_FD, down_bias_D, residual)
    return y, (up, down)


def _cpu_backward(kind: str, saved: tuple[Saved, Saved], dy: jax.Array) -> tuple[jax.Array | None, ...]:
    del kind
    up, down = saved
    dh, d_down, d_down_bias, d_residual = cpu_backward("none", down, dy, up.slopes_NF)
    dx, d_up, d_up_bias, _ = cpu_backward("none", up._replace(slopes_NF=jnp.zeros((0,), dh.dtype)), dh)
    return dx, d_up, d_down, d_up_bias, d_down_bias, d_residual


_cpu.defvjp(_cpu_forward, _cpu_backward)
