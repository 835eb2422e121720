"""Causal self-attention: one fused projection to queries, keys and values, the kernel, one projection back."""

import jax
import jax.numpy as jnp
from flax import nnx

from ryot_jax.kernels import attention, norm_dense, packed_attention, reads_packed
from ryot_jax.model.cache import LayerCache, append, attend
from ryot_jax.model.config import ModelConfig
from ryot_jax.model.layers import Norm, Projection
from ryot_jax.model.positions import rotate
from ryot_jax.optimizations import KernelPlan


class SelfAttention(nnx.Module):
    """Multi-head causal attention; `qkv` maps D to [3, H, K] flattened."""

    def __init__(self, cfg: ModelConfig, *, output_gain: float, rngs: nnx.Rngs):
        self.n_heads = cfg.n_heads
        self.rotary = cfg.positions == "rotary"
        self.qkv = Projection(cfg.d_model, 3 * cfg.d_model, use_bias=cfg.use_bias, rngs=rngs)
        self.out = Projection(cfg.d_model, cfg.d_model, use_bias=cfg.use_bias, rngs=rngs, gain=output_gain)

    def __call__(self, x_BTD: jax.Array, *, plan: KernelPlan) -> jax.Array:
        """x_BTD -> y_BTD over whole sequences, in the dtype of x."""
        if self._is_packed(plan):
            return self._of_packed(self.qkv(x_BTD, plan=plan), plan, None)
        return self._of_parts(x_BTD, plan, None)

    def of_norm(self, x_BTD: jax.Array, norm: Norm, *, plan: KernelPlan) -> jax.Array:
        """Computes x + attention(norm(x))."""
        if self._is_packed(plan):
            kernel, bias = self.qkv.weights()
            qkv_BTE, x_BTD = norm_dense(x_BTD, norm.of(x_BTD, plan), kernel, bias, implementation=plan["dense"])
            return self._of_packed(qkv_BTE, plan, x_BTD)
        h_BTD, x_BTD = norm.of(x_BTD, plan)(x_BTD)
        return self._of_parts(h_BTD, plan, x_BTD)

    def _is_packed(self, plan: KernelPlan) -> bool:
        return reads_packed(plan["attention"]) and not self.rotary  # the others would cut the array apart

    def _of_packed(self, qkv_BTE: jax.Array, plan: KernelPlan, residual: jax.Array | None) -> jax.Array:
        B, T, E = qkv_BTE.shape
        qkv_BTNK = qkv_BTE.reshape(B, T, 3 * self.n_heads, -1)
        o_BTHK = packed_attention(qkv_BTNK, self.n_heads, implementation=plan["attention"])
        return self.out(o_BTHK.reshape(B, T, E // 3), plan=plan, residual=residual)

    def _of_parts(self, x_BTD: jax.Array, plan: KernelPlan, residual: jax.Array | None) -> jax.Array:
        # Three products with parts of the weights, not parts of one product: those would be copied, and their
        # gradients put together again, which takes XLA:CPU 8 % of a step of the scaled run.
        parts = self.qkv.parts(x_BTD, 3, plan=plan)
        q_BTHK, k_BTHK, v_BTHK = self._heads(parts, jnp.arange(x_BTD.shape[1])[None])
        o_BTHK = attention(q_BTHK, k_BTHK, v_BTHK, implementation=plan["attention"])
        return self.out(o_BTHK.reshape(x_BTD.shape), plan=plan, residual=residual)

    def decode(
        self,
        x_BSD: jax.Array,
        cache: LayerCache,
        length_B: jax.Array,
        *,
        plan: KernelPlan,
        residual: jax.Array | None = None,
    ) -> tuple[jax.Array, LayerCache]:
        """Attention of S positions that follow the first `length_B` of the cache; returns the longer cache too."""
        parts = self.qkv.parts(x_BSD, 3, plan=plan)
        q_BSHK, k_BSHK, v_BSHK = self._heads(parts, jnp.add.outer(length_B, jnp.arange(x_BSD.shape[1])))
        cache = append(cache, k_BSHK, v_BSHK, length_B)
        o_BSHK = attend(q_BSHK, cache, length_B)
        return self.out(o_BSHK.reshape(x_BSD.shape), plan=plan, residual=residual), cache

    def _heads(self, qkv: list[jax.Array], positions_BT: jax.Array) -> tuple[jax.Array, ...]:
        """Queries, keys and values [B,T,H,K] of three projections [B,T,D], turned by their positions if rotary."""
        q_BTHK, k_BTHK, v_BTHK = (y.reshape(*y.shape[:2], self.n_heads, -1) for y in qkv)
        if self.rotary:
            q_BTHK, k_BTHK = rotate(q_BTHK, positions_BT), rotate(k_BTHK, positions_BT)
        return q_BTHK, k_BTHK, v_BTHK
