"""Causal self-attention: one fused projection to queries, keys and values, the kernel, one projection back."""

import jax
import jax.numpy as jnp
from flax import nnx

from ryot_jax.kernels import KernelPlan, attention
from ryot_jax.model.cache import LayerCache, append, attend
from ryot_jax.model.config import ModelConfig
from ryot_jax.model.layers import Projection
from ryot_jax.model.positions import rotate


class SelfAttention(nnx.Module):
    """Multi-head causal attention; `qkv` maps D to [3, H, K] flattened."""

    def __init__(self, cfg: ModelConfig, *, output_gain: float, rngs: nnx.Rngs):
        self.n_heads = cfg.n_heads
        self.rotary = cfg.positions == "rotary"
        self.qkv = Projection(cfg.d_model, 3 * cfg.d_model, use_bias=cfg.use_bias, rngs=rngs)
        self.out = Projection(cfg.d_model, cfg.d_model, use_bias=cfg.use_bias, rngs=rngs, gain=output_gain)

    def __call__(self, x_BTD: jax.Array, *, plan: KernelPlan) -> jax.Array:
        """x_BTD -> y_BTD, over whole sequences."""
        q_BTHK, k_BTHK, v_BTHK = self._heads(x_BTD, jnp.arange(x_BTD.shape[1]), plan)
        o_BTHK = attention(q_BTHK, k_BTHK, v_BTHK, implementation=plan.attention)
        return self.out(o_BTHK.reshape(x_BTD.shape), plan=plan)

    def decode(
        self, x_BSD: jax.Array, cache: LayerCache, length: jax.Array, *, plan: KernelPlan
    ) -> tuple[jax.Array, LayerCache]:
        """x_BSD -> y_BSD for S positions that follow the first `length` of the cache, and the longer cache."""
        q_BSHK, k_BSHK, v_BSHK = self._heads(x_BSD, length + jnp.arange(x_BSD.shape[1]), plan)
        cache = append(cache, k_BSHK, v_BSHK, length)
        return self.out(attend(q_BSHK, cache, length).reshape(x_BSD.shape), plan=plan), cache

    def _heads(self, x_BTD: jax.Array, positions_T: jax.Array, plan: KernelPlan) -> tuple[jax.Array, ...]:
        B, T, _ = x_BTD.shape
        # Three products with parts of the weights, not parts of one product: those would be copied, and their gradients
        # put together again, which takes XLA:CPU 8 % of a step of the scaled run.
        q_BTHK, k_BTHK, v_BTHK = (y.reshape(B, T, self.n_heads, -1) for y in self.qkv.parts(x_BTD, 3, plan=plan))
        if self.rotary:
            q_BTHK, k_BTHK = rotate(q_BTHK, positions_T), rotate(k_BTHK, positions_T)
        return q_BTHK, k_BTHK, v_BTHK
