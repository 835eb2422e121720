"""The small layers of a block: projection, norm and MLP.

Matrices are stored as `kernel_EO`, two-dimensional whatever they hold, so that an optimizer that treats
matrices apart (weight decay, Muon) needs no knowledge of heads. Attention is in `attention.py`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ryot_jax.kernels import NormSpec, dense, mlp, norm_mlp
from ryot_jax.model.config import ModelConfig
from ryot_jax.optimizations import KernelPlan


def subkey(key: jax.Array | None, index: int | jax.Array) -> jax.Array | None:
    """Key number `index` derived from `key`; None stays None (deterministic)."""
    return None if key is None else jax.random.fold_in(key, index)


class Projection(nnx.Module):
    """Affine map E -> O. Weights start normal with standard deviation gain/sqrt(E), biases at zero."""

    def __init__(self, width_in: int, width_out: int, *, use_bias: bool, rngs: nnx.Rngs, gain: float = 1.0):
        deviation = gain * width_in**-0.5
        self.kernel = nnx.Param(deviation * jax.random.normal(rngs.params(), (width_in, width_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width_out, jnp.float32)) if use_bias else None

    def __call__(self, x: jax.Array, *, plan: KernelPlan, residual: jax.Array | None = None) -> jax.Array:
        """x[..., E] -> y[..., O] in the dtype of x; with a residual their sum, in the residual's dtype."""
        return dense(x, *self.weights(), residual=residual, implementation=plan["dense"])

    def parts(self, x: jax.Array, n: int, *, plan: KernelPlan) -> list[jax.Array]:
        """The n equal parts of the outputs: n arrays y[..., O / n]."""
        kernel, bias = self.weights()
        kernels = jnp.split(kernel, n, axis=1)
        biases = [None] * n if bias is None else jnp.split(bias, n)
        return [dense(x, *weights, implementation=plan["dense"]) for weights in zip(kernels, biases, strict=True)]

    def weights(self) -> tuple[jax.Array, jax.Array | None]:
        """The weights of the layer: kernel_EO and bias_O."""
        return self.kernel[...], None if self.bias is None else self.bias[...]


class Norm(nnx.Module):
    """LayerNorm (arXiv:1607.06450) or RMSNorm (arXiv:1910.07467) over the last axis, computed in float32."""

    def __init__(self, cfg: ModelConfig):
        self.centre = cfg.norm == "layer"
        self.scale = nnx.Param(jnp.ones(cfg.d_model, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(cfg.d_model, jnp.float32)) if cfg.use_bias else None

    def __call__(self, x_BTD: jax.Array, *, plan: KernelPlan) -> jax.Array:
        """x_BTD -> y_BTD in the dtype between the ops: the plan's `activations`, or else that of x."""
        return self.of(x_BTD, plan).alone(x_BTD)

    def of(self, x_BTD: jax.Array, plan: KernelPlan) -> NormSpec:
        """The specification of the norm of x, for ops that fuse it."""
        return NormSpec(
            self.scale[...],
            None if self.bias is None else self.bias[...],
            centre=self.centre,
            dtype=jnp.dtype(plan["activations"] or x_BTD.dtype),
            implementation=plan["norm"],
        )


class Mlp(nnx.Module):
    """Position-wise network of width F: gelu (tanh form), swiglu (arXiv:2002.05202) or relu2 (arXiv:2109.08668).

    swiglu has three matrices of D x F instead of two; gate and value share one product.
    """

    def __init__(self, cfg: ModelConfig, *, output_gain: float, rngs: nnx.Rngs):
        self.kind = cfg.mlp
        width = 2 * cfg.d_ff if cfg.mlp == "swiglu" else cfg.d_ff
        self.up = Projection(cfg.d_model, width, use_bias=cfg.use_bias, rngs=rngs)
        self.down = Projection(cfg.d_ff, cfg.d_model, use_bias=cfg.use_bias, rngs=rngs, gain=output_gain)

    def __call__(self, x_BTD: jax.Array, *, plan: KernelPlan, residual: jax.Array | None = None) -> jax.Array:
        """x_BTD -> y_BTD in the dtype of x; with a residual their sum, in the residual's dtype."""
        return mlp(x_BTD, *self._weights(), kind=self.kind, residual=residual, implementation=plan["dense"])

    def of_norm(self, x_BTD: jax.Array, norm: Norm, *, plan: KernelPlan) -> jax.Array:
        """The sum x + mlp(norm(x))."""
        return norm_mlp(x_BTD, norm.of(x_BTD, plan), *self._weights(), kind=self.kind, implementation=plan["dense"])

    def _weights(self) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
        (up_DF, up_bias_F), (down_FD, down_bias_D) = self.up.weights(), self.down.weights()
        return up_DF, down_FD, up_bias_F, down_bias_D
