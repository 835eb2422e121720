"""The position-wise network of a transformer block, of two `dense` ops."""

import jax

from ryot_jax.kernels.dense import dense


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
    """activation(x up + up_bias) down + down_bias + residual.

    Args:
      x: [..., D], any float dtype.
      up_DF: weights; [D, 2F] for 'swiglu', the columns of the gate first.
      down_FD: weights.
      up_bias_F: or None; [2F] for 'swiglu'.
      down_bias_D: or None.
      kind: 'gelu', 'swiglu' or 'relu2': the activation, as in `dense`.
      residual: [..., D], or None.
      implementation: as in `dense`.

    Returns:
      [..., D] in the residual's dtype, or x's where there is none.

    Raises:
      ValueError: shapes do not fit, or the kind or the implementation is not known.
      TypeError: the implementation cannot take the dtypes.
    """
    if kind == "none":
        raise ValueError("kind='none': two dense layers with nothing between them are one")
    hidden = dense(x, up_DF, up_bias_F, activation=kind, implementation=implementation)
    return dense(hidden, down_FD, down_bias_D, residual=residual, implementation=implementation)
