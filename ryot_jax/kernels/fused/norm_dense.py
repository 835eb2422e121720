"""A norm with a dense layer or a position-wise network behind it: the branches of a pre-norm transformer.

Where both are 'cpu' they are one kernel. Forward, a chunk of rows is normed into the cache and multiplied there;
backward, the norm's gradient is taken while that of its outcome is still in the cache, and the outcome is computed
anew from the two numbers a row that are kept. So neither the outcome of a norm nor its gradient goes to memory, whose
bandwidth is what a norm costs.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels import cpu
from ryot_jax.kernels.fused.mlp import mlp
from ryot_jax.kernels.operands import as_ffi_operand, cast_gradient, dtype_token, rows
from ryot_jax.kernels.ops.dense._layer import activation_code
from ryot_jax.kernels.ops.dense.api import dense
from ryot_jax.kernels.ops.dense.cpu import Saved, cpu_backward, cpu_forward
from ryot_jax.kernels.ops.norm.api import layer_norm, rms_norm

# Of ryot_norm_dense_backward: the operand (the gradient of x' other use) whose memory the result may take.
_DX_OTHER, _DX = 7, 0


class NormSpec(NamedTuple):
    """A norm over the last axis, as `layer_norm` (`centre`) and `rms_norm` define it, in 'reference', 'xla' or 'cpu'.

    `dtype` is that of the outcome, which the product behind it runs in; None: that of x.
    """

    scale_D: jax.Array
    bias_D: jax.Array | None = None
    centre: bool = True
    epsilon: float = 1e-5
    dtype: Any = None
    implementation: str = "reference"

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The norm of x, and x to go on with as the residual: so the gradients of both meet in one backward pass."""
        outcome: tuple[jax.Array, jax.Array] = self._apply(x, with_sum=True)
        return outcome

    def alone(self, x: jax.Array) -> jax.Array:
        """The norm of x, where x is of no more use."""
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
    """dense(norm(x), w, b), and x to go on with as the residual.

    Args:
      x: [..., D], any float dtype.
      norm: see `NormSpec`.
      w_DF: weights, as in `dense`.
      b_F: bias, as in `dense`.
      activation: as in `dense`.
      implementation: of the dense layer.

    Returns:
      y[..., F] in the norm's dtype, and x[..., D].

    Raises:
      ValueError, TypeError: as `dense` and the norm.
    """

    def layers(norm: NormSpec, x: jax.Array, w_DF: jax.Array, b_F: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        h, x = norm(x)
        return dense(h, w_DF, b_F, activation=activation, implementation=implementation), x

    if not _is_one_kernel(x, norm, implementation):
        return layers(norm, x, w_DF, b_F)
    _check(layers, norm, x, w_DF, b_F)
    return _norm_dense(activation, _Settings.of(norm, x), x, norm.scale_D, norm.bias_D, w_DF, b_F)


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
      implementation: of the network's layers.

    Returns:
      [..., D] in x's dtype.

    Raises:
      ValueError, TypeError: as `mlp` and the norm.
    """

    def layers(norm: NormSpec, x: jax.Array, up_DF: jax.Array, *others: Any) -> jax.Array:
        h, x = norm(x)
        return mlp(h, up_DF, *others, kind=kind, residual=x, implementation=implementation)

    weights = up_DF, down_FD, up_bias_F, down_bias_D
    if kind == "swiglu" or not _is_one_kernel(x, norm, implementation):  # swiglu's slopes are twice as wide
        return layers(norm, x, *weights)
    _check(layers, norm, x, *weights)
    return _norm_mlp(kind, _Settings.of(norm, x), x, norm.scale_D, norm.bias_D, *weights)


def _is_one_kernel(x: jax.Array, norm: NormSpec, implementation: str) -> bool:
    if norm.implementation != "cpu" or implementation != "cpu":
        return False
    # The float32 kernels know no other dtype.
    return jnp.dtype(norm.dtype or x.dtype) == jnp.bfloat16 or x.dtype == jnp.float32


def _check(layers: Any, norm: NormSpec, *operands: jax.Array | None) -> None:
    """Raises what the separate layers would."""
    jax.eval_shape(
        lambda scale_D, bias_D, *rest: layers(norm._replace(scale_D=scale_D, bias_D=bias_D), *rest),
        norm.scale_D,
        norm.bias_D,
        *operands,
    )


class _Settings(NamedTuple):
    dtype: Any  # of the product
    centre: bool
    epsilon: float

    @staticmethod
    def of(norm: NormSpec, x: jax.Array) -> "_Settings":
        return _Settings(jnp.dtype(norm.dtype or x.dtype), norm.centre, norm.epsilon)


class _Saved(NamedTuple):
    """What the backward pass of the first layer needs; `slopes_NF` as in `dense.Saved`."""

    x: jax.Array
    scale_D: jax.Array
    bias_D: jax.Array | None
    statistics_N2: jax.Array
    w_DF: jax.Array
    slopes_NF: jax.Array
    b_token: jax.Array | None


def _forward(
    activation: str,
    settings: _Settings,
    x: jax.Array,
    scale_D: jax.Array,
    bias_D: jax.Array | None,
    w_DF: jax.Array,
    b_F: jax.Array | None,
) -> tuple[jax.Array, _Saved]:
    x_ND, width = rows(x), w_DF.shape[1]
    N, width_out = x_ND.shape[0], width // 2 if activation == "swiglu" else width
    out = (
        jax.ShapeDtypeStruct((N, width_out), settings.dtype),
        jax.ShapeDtypeStruct((0,) if activation == "none" else (N, width), settings.dtype),
        jax.ShapeDtypeStruct((N, 2), jnp.float32),
    )
    y_NO, slopes_NF, statistics_N2 = cpu.call(
        "ryot_norm_dense_forward",
        out,
        x_ND,
        scale_D.astype(jnp.float32),
        as_ffi_operand(bias_D, jnp.float32),
        w_DF.astype(jnp.float32),
        as_ffi_operand(b_F, jnp.float32),
        activation=activation_code(activation),
        epsilon=np.float32(settings.epsilon),
        centre=np.int64(settings.centre),
    )
    saved = _Saved(x, scale_D, bias_D, statistics_N2, w_DF, slopes_NF, dtype_token(b_F))
    return y_NO.reshape(*x.shape[:-1], width_out), saved


_Gradients = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array, jax.Array | None]


def _backward(activation: str, settings: _Settings, saved: _Saved, dy: jax.Array, dx: jax.Array) -> _Gradients:
    """Gradients of x (`dx`, that of its other use, included), scale, bias, weights and the layer's bias."""
    x_ND, dx_ND = rows(saved.x), rows(dx)
    bias_D, w_DF = as_ffi_operand(saved.bias_D, jnp.float32), saved.w_DF
    vector = jax.ShapeDtypeStruct(saved.scale_D.shape, jnp.float32)
    out = (
        jax.ShapeDtypeStruct(x_ND.shape, saved.x.dtype),
        vector,
        jax.ShapeDtypeStruct(bias_D.shape, jnp.float32),
        jax.ShapeDtypeStruct(w_DF.shape, jnp.float32),
        jax.ShapeDtypeStruct((0,) if saved.b_token is None else w_DF.shape[1:], jnp.float32),
    )
    total_ND, dscale_D, dbias_D, dw_DF, db_F = cpu.call_in_place(
        "ryot_norm_dense_backward",
        out,
        {_DX_OTHER: _DX} if dx_ND.dtype == saved.x.dtype else {},
        rows(dy),
        x_ND,
        saved.scale_D.astype(jnp.float32),
        bias_D,
        saved.statistics_N2,
        w_DF.astype(jnp.float32),
        saved.slopes_NF,
        dx_ND,
        activation=activation_code(activation),
        centre=np.int64(settings.centre),
    )
    return (
        total_ND.reshape(saved.x.shape),
        dscale_D.astype(saved.scale_D.dtype),
        cast_gradient(dbias_D, dtype_token(saved.bias_D)),
        dw_DF.astype(w_DF.dtype),
        cast_gradient(db_F, saved.b_token),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _norm_dense(
    activation: str,
    settings: _Settings,
    x: jax.Array,
    scale_D: jax.Array,
    bias_D: jax.Array | None,
    w_DF: jax.Array,
    b_F: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    return _forward(activation, settings, x, scale_D, bias_D, w_DF, b_F)[0], x


def _norm_dense_forward(
    activation: str, settings: _Settings, x: jax.Array, *operands: Any
) -> tuple[tuple[jax.Array, jax.Array], _Saved]:
    y, saved = _forward(activation, settings, x, *operands)
    return (y, x), saved


def _norm_dense_backward(
    activation: str, settings: _Settings, saved: _Saved, cotangents: tuple[jax.Array, jax.Array]
) -> _Gradients:
    return _backward(activation, settings, saved, *cotangents)


_norm_dense.defvjp(_norm_dense_forward, _norm_dense_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _norm_mlp(
    kind: str,
    settings: _Settings,
    x: jax.Array,
    scale_D: jax.Array,
    bias_D: jax.Array | None,
    up_DF: jax.Array,
    down_FD: jax.Array,
    up_bias_F: jax.Array | None,
    down_bias_D: jax.Array | None,
) -> jax.Array:
    operands = x, scale_D, bias_D, up_DF, down_FD, up_bias_F, down_bias_D
    return _norm_mlp_forward(kind, settings, *operands)[0]


def _norm_mlp_forward(
    kind: str,
    settings: _Settings,
    x: jax.Array,
    scale_D: jax.Array,
    bias_D: jax.Array | None,
    up_DF: jax.Array,
    down_FD: jax.Array,
    up_bias_F: jax.Array | None,
    down_bias_D: jax.Array | None,
) -> tuple[jax.Array, tuple[_Saved, Saved]]:
    hidden, up = _forward(kind, settings, x, scale_D, bias_D, up_DF, up_bias_F)
    y, down = cpu_forward("none", hidden, down_FD, down_bias_D, x)
    return y, (up, down)


def _norm_mlp_backward(
    kind: str, settings: _Settings, saved: tuple[_Saved, Saved], dy: jax.Array
) -> tuple[jax.Array | None, ...]:
    del kind
    up, down = saved
    dh, d_down, d_down_bias, _ = cpu_backward("none", down, dy, up.slopes_NF)
    up = up._replace(slopes_NF=jnp.zeros((0,), dh.dtype))  # dh has been multiplied with them
    dx, dscale_D, dbias_D, d_up, d_up_bias = _backward("none", settings, up, dh, dy)
    return dx, dscale_D, dbias_D, d_up, d_down, d_up_bias, d_down_bias


_norm_mlp.defvjp(_norm_mlp_forward, _norm_mlp_backward)
