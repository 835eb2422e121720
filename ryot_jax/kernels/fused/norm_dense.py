"""A norm followed by a dense layer or an MLP: the branches of a pre-norm transformer.

If both are 'cpu' they run as one kernel. Forward, a chunk of rows is normalized into the cache and multiplied there;
backward, the norm's gradient is computed while that of its output is still in the cache, and the output is recomputed
from the two numbers kept per row. Neither a norm's output nor its gradient goes to memory, whose bandwidth is the
cost of a norm.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ryot_jax.kernels.fused import _norm_dense_cpu
from ryot_jax.kernels.fused.mlp import mlp
from ryot_jax.kernels.ops.dense.api import dense
from ryot_jax.kernels.ops.norm.api import layer_norm, rms_norm


class NormSpec(NamedTuple):
    """A norm over the last axis, as `layer_norm` (`centre`) and `rms_norm` define it, in 'reference', 'xla' or 'cpu'.

    `dtype` is that of the output, in which the following product runs; None: that of x.
    """

    scale_D: jax.Array
    bias_D: jax.Array | None = None
    centre: bool = True
    epsilon: float = 1e-5
    dtype: Any = None
    implementation: str = "reference"

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The norm of x, and x for the residual path, so that the gradients of both meet in one backward pass."""
        outcome: tuple[jax.Array, jax.Array] = self._apply(x, with_sum=True)
        return outcome

    def alone(self, x: jax.Array) -> jax.Array:
        """The norm of an x that is not used again."""
        y: jax.Array = self._apply(x, with_sum=False)
        return y

    def _apply(self, x: jax.Array, *, with_sum: bool) -> Any:
        norm = layer_norm if self.centre else rms_norm
        return norm(
            x,
            self.scale_D,
            self.bias_D,
            with_sum=with_sum,
            epsilon=self.epsilon,
            dtype=self.dtype,
            implementation=self.implementation,
        )


def norm_dense(
    x: jax.Array,
    norm: NormSpec,
    w_DF: jax.Array,
    b_F: jax.Array | None = None,
    *,
    activation: str = "none",
    implementation: str = "reference",
) -> tuple[jax.Array, jax.Array]:
    """The layer dense(norm(x), w, b), and x for the residual path.

    Args:
      x: [..., D], any float dtype.
      norm: see `NormSpec`.
      w_DF: weights, as in `dense`.
      b_F: bias, as in `dense`.
      activation: as in `dense`.
      implementation: implementation of the dense layer.

    Returns:
      y[..., F] in the norm's dtype, and x[..., D].

    Raises:
      ValueError, TypeError: see `dense` and the norm.
    """

    def layers(norm: NormSpec, x: jax.Array, w_DF: jax.Array, b_F: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        h, x = norm(x)
        return dense(h, w_DF, b_F, activation=activation, implementation=implementation), x

    if not _is_one_kernel(x, norm, implementation):
        return layers(norm, x, w_DF, b_F)
    _check(layers, norm, x, w_DF, b_F)
    return _norm_dense_cpu.norm_dense(activation, _settings(norm, x), x, norm.scale_D, norm.bias_D, w_DF, b_F)


def norm_mlp(
    x: jax.Array,
    norm: NormSpec,
    up_DF: jax.Array,
    down_FD: jax.Array,
    up_bias_F: jax.Array | None = None,
    down_bias_D: jax.Array | None = None,
    *,
    kind: str = "gelu",
    implementation: str = "reference",
) -> jax.Array:
    """The sum x + mlp(norm(x)).

    Args:
      x: [..., D], any float dtype.
      norm: see `NormSpec`.
      up_DF: weights, as in `mlp`.
      down_FD: weights, as in `mlp`.
      up_bias_F: as in `mlp`.
      down_bias_D: as in `mlp`.
      kind: as in `mlp`.
      implementation: implementation of the MLP's layers.

    Returns:
      [..., D] in x's dtype.

    Raises:
      ValueError, TypeError: see `mlp` and the norm.
    """

    def layers(norm: NormSpec, x: jax.Array, up_DF: jax.Array, *others: Any) -> jax.Array:
        h, x = norm(x)
        return mlp(h, up_DF, *others, kind=kind, residual=x, implementation=implementation)

    weights = up_DF, down_FD, up_bias_F, down_bias_D
    if kind == "swiglu" or not _is_one_kernel(x, norm, implementation):  # swiglu's slopes are twice as wide
        return layers(norm, x, *weights)
    _check(layers, norm, x, *weights)
    return _norm_dense_cpu.norm_mlp(kind, _settings(norm, x), x, norm.scale_D, norm.bias_D, *weights)


def _is_one_kernel(x: jax.Array, norm: NormSpec, implementation: str) -> bool:
    if norm.implementation != "cpu" or implementation != "cpu":
        return False
    # The float32 kernels take no other dtype.
    return jnp.dtype(norm.dtype or x.dtype) == jnp.bfloat16 or x.dtype == jnp.float32


def _check(layers: Any, norm: NormSpec, *operands: jax.Array | None) -> None:
    """Raise the errors that the separate layers would."""
    jax.eval_shape(
        lambda scale_D, bias_D, *rest: layers(norm._replace(scale_D=scale_D, bias_D=bias_D), *rest),
        norm.scale_D,
        norm.bias_D,
        *operands,
    )


def _settings(norm: NormSpec, x: jax.Array) -> _norm_dense_cpu.Settings:
    return _norm_dense_cpu.Settings(jnp.dtype(norm.dtype or x.dtype), norm.centre, norm.epsilon)
