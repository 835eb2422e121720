"""The small layers of a block: projection, norm, MLP and dropout.

Matrices are stored as `kernel_EO`, two-dimensional whatever they hold, so that an optimizer that treats
matrices apart (weight decay, Muon) needs no knowledge of heads. Attention is in `attention.py`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ryot_jax.kernels import KernelPlan, dense
from ryot_jax.model.config import ModelConfig

_EPSILON = 1e-5


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero each element with probability `rate` and scale the rest by 1/(1-rate); the identity without a key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def subkey(key: jax.Array | None, index: int | jax.Array) -> jax.Array | None:
    """Key number `index` derived from `key`; None stays None (deterministic)."""
    return None if key is None else jax.random.fold_in(key, index)


class Projection(nnx.Module):
    """Affine map E -> O. Weights start normal with standard deviation gain/sqrt(E), biases at zero."""

    def __init__(self, width_in: int, width_out: int, *, use_bias: bool, rngs: nnx.Rngs, gain: float = 1.0):
        deviation = gain * width_in**-0.5
        self.kernel = nnx.Param(deviation * jax.random.normal(rngs.params(), (width_in, width_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width_out, jnp.float32)) if use_bias else None

    def __call__(self, x: jax.Array, *, plan: KernelPlan) -> jax.Array:
        """x[..., E] -> y[..., O], in the dtype of x."""
        bias = None if self.bias is None else self.bias[...]
        return dense(x, self.kernel[...], bias, implementation=plan.dense)

    def parts(self, x: jax.Array, n: int, *, plan: KernelPlan) -> list[jax.Array]:
        """The n equal parts of the outputs: n arrays y[..., O / n]."""
        kernels = jnp.split(self.kernel[...], n, axis=1)
        biases = [None] * n if self.bias is None else jnp.split(self.bias[...], n)
        return [dense(x, kernel, bias, implementation=plan.dense) for kernel, bias in zip(kernels, biases, strict=True)]


class Norm(nnx.Module):
    """LayerNorm (arXiv:1607.06450) or RMSNorm (arXiv:1910.07467) over the last axis, computed in float32."""

    def __init__(self, cfg: ModelConfig):
        self.centre = cfg.norm == "layer"
        self.scale = nnx.Param(jnp.ones(cfg.d_model, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(cfg.d_model, jnp.float32)) if cfg.use_bias else None

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Same shape and dtype as the input."""
        x = x_BTD.astype(jnp.float32)
        if self.centre:
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        y = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + _EPSILON) * self.scale[None, None]
        if self.bias is not None:
            y = y + self.bias[None, None]
        return y.astype(x_BTD.dtype)


class Mlp(nnx.Module):
    """Position-wise network of width F: gelu (tanh form), swiglu (arXiv:2002.05202) or relu2 (arXiv:2109.08668).

    swiglu has three matrices of D x F instead of two; gate and value share one product.
    """

    def __init__(self, cfg: ModelConfig, *, output_gain: float, rngs: nnx.Rngs):
        self.kind = cfg.mlp
        width = 2 * cfg.d_ff if cfg.mlp == "swiglu" else cfg.d_ff
        self.up = Projection(cfg.d_model, width, use_bias=cfg.use_bias, rngs=rngs)
        self.down = Projection(cfg.d_ff, cfg.d_model, use_bias=cfg.use_bias, rngs=rngs, gain=output_gain)

    def __call__(self, x_BTD: jax.Array, *, plan: KernelPlan) -> jax.Array:
        """x_BTD -> y_BTD."""
        h = self.up(x_BTD, plan=plan)
        if self.kind == "swiglu":
            gate_BTF, value_BTF = jnp.split(h, 2, axis=-1)
            h_BTF = jax.nn.silu(gate_BTF) * value_BTF
        elif self.kind == "gelu":
            h_BTF = jax.nn.gelu(h, approximate=True)
        else:
            h_BTF = jnp.square(jax.nn.relu(h))
        return self.down(h_BTF, plan=plan)
