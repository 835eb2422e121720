"""The fused attention of cuDNN, for NVIDIA GPUs."""

import re

import jax
import jax.numpy as jnp

from ryot_jax.kernels.declaration import Implementation, Spec
from ryot_jax.kernels.ops.attention._visible import Functions, Visible
from ryot_jax.kernels.probes import custom_call


def _cudnn(
    visible: Visible, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask_BS: jax.Array | None
) -> jax.Array:
    if q_BTHK.dtype not in (jnp.bfloat16, jnp.float16):
        raise TypeError(f"implementation='cudnn' takes bfloat16 and float16; got {q_BTHK.dtype}")
    o_BTHK = jax.nn.dot_product_attention(
        q_BTHK,
        k_BSGK,
        v_BSGK,
        mask=None if mask_BS is None else mask_BS[:, None, None, :],
        is_causal=visible.causal,
        local_window_size=None if visible.window is None else (visible.window - 1, 0),
        implementation="cudnn",
    )
    if mask_BS is None:
        return o_BTHK
    # For a query that sees no key, cuDNN returns the mean of hidden values and passes a gradient to them.
    return jnp.where(_sees_a_key(visible, mask_BS, q_BTHK.shape[1])[:, :, None, None], o_BTHK, 0)


def _sees_a_key(visible: Visible, mask_BS: jax.Array, n_queries: int) -> jax.Array:
    """Whether each query sees any key, bool[B, T]."""
    if not visible.causal:
        return jnp.broadcast_to(mask_BS.any(axis=1, keepdims=True), (mask_BS.shape[0], n_queries))
    so_far_BS = jnp.cumsum(mask_BS, axis=1)
    if visible.window is None:
        return so_far_BS > 0
    before_BS = jnp.pad(so_far_BS, ((0, 0), (visible.window, 0)))[:, : so_far_BS.shape[1]]
    return so_far_BS > before_BS


def _refusal(spec: Spec) -> str | None:
    if spec.platform != "gpu":
        return f"cuDNN runs on NVIDIA GPUs, not on {spec.platform}"
    capability = spec.compute_capability
    if not re.fullmatch(r"\d+\.\d+", capability) or float(capability) < 8.0:
        return f"cuDNN's fused attention needs compute capability 8.0 (Ampere), this device has {capability or 'none'}"
    if spec.dtype not in ("bfloat16", "float16"):
        return f"cuDNN's fused attention takes bfloat16 and float16, not {spec.dtype}"
    if spec.seq_len % 2:
        return f"cuDNN's fused attention differentiates even lengths, not seq_len = {spec.seq_len}"
    width, most = spec.d_model // spec.n_heads, 256 if float(capability) >= 9.0 else 128
    if width % 8 or width > most:
        return f"cuDNN's fused attention takes heads of multiples of 8 up to {most} here, not of {width}"
    return None


IMPLEMENTATION = Implementation(
    function=Functions(_cudnn),
    equivalence="allclose",
    probe=custom_call("cudnn$fmha"),
    refusal=_refusal,
    where="NVIDIA GPUs from Ampere on",
)
