"""tokamax's kernels (github.com/openxla/tokamax) as implementations of our ops, if it is installed.

    pip install -e '.[tokamax]'     # Python 3.12 or later, jax 0.11 or later

It chooses among its own implementations, as by default.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def functions() -> dict[str, Callable[..., Any]]:
    """The functions by op, in the form of `Benchmark.function`; empty if tokamax is not installed."""
    if importlib.util.find_spec("tokamax") is None:
        return {}
    import tokamax

    def attention(_: str, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array) -> jax.Array:
        return tokamax.dot_product_attention(q_BTHK, k_BSGK, v_BSGK, is_causal=True)

    def norm(_: str, x_ND: jax.Array, scale_D: jax.Array, bias_D: jax.Array) -> tuple[jax.Array, jax.Array]:
        return tokamax.layer_norm(x_ND, scale_D, bias_D, epsilon=1e-5).astype(x_ND.dtype), x_ND

    def linear_cross_entropy(_: str, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
        loss = tokamax.linear_softmax_cross_entropy_loss(x_ND, targets_N, w_VD.astype(x_ND.dtype).T)
        return loss.astype(jnp.float32)

    return {"attention": attention, "norm": norm, "linear_cross_entropy": linear_cross_entropy}
