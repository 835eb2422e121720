"""Flash attention for NVIDIA's Hopper, forward and backward, in Pallas' Mosaic GPU.

Three kernels, each with two computing warpgroups and one that fetches. Windows, padding masks and other GPUs are left
to `attention`'s other implementations.

According to jax's own example, ptxas of CUDA 12.8.0 to 12.9.0 miscompiles causal masks. That is not checked here: the
runtime reports 12.9 for 12.9.0 and 12.9.1 alike, and ptxas is a separate program.
"""

import functools
import math

import jax
import jax.numpy as jnp

from ryot_jax.kernels.gpu import pallas
from ryot_jax.kernels.operands import OwnGradient
from ryot_jax.kernels.ops.attention._mosaic_backward import gradient_of_queries, gradients_of_keys
from ryot_jax.kernels.ops.attention._mosaic_blocks import BLOCKS, Blocks
from ryot_jax.kernels.ops.attention._mosaic_forward import forward
from ryot_jax.kernels.ops.attention._mosaic_parts import TILE, Sizes


def flash_attention(
    q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, *, causal: bool, blocks: Blocks | None = None
) -> jax.Array:
    """Attention softmax(q k^T / sqrt(K)) v for each head, as in `attention`, without scores in memory.

    The algorithm is from Dao, 2024 (arXiv:2307.08691); the division of labour, where one warpgroup's softmax runs
    while the other uses the tensor core, from Shah et al., 2024 (arXiv:2407.08608).

    Args:
      q_BTHK: queries, bfloat16 or float16. B sequences, T positions, H heads, K head width: 64 or 128.
      k_BSGK: keys, S positions, G heads; G divides H, and query head h reads head h // (H // G). Same dtype.
      v_BSGK: values, of the keys' shape and dtype.
      causal: query t sees keys s <= t only; needs S = T.
      blocks: sizes in shared memory; None: those in `BLOCKS`.

    Returns:
      o_BTHK: weighted values, in q's dtype; softmax and sums are float32. Differentiable once in q, k, v.

    Raises:
      NotImplementedError: there is no GPU of compute capability 9, or the head width is not one of these two.
      TypeError: the dtype is another one.
      ValueError: shapes do not match.
    """
    pallas.require("mosaic")
    (B, T, H, K), (_, S, G, _) = q_BTHK.shape, k_BSGK.shape
    if k_BSGK.shape != (B, S, G, K) or v_BSGK.shape != k_BSGK.shape or H % G or 0 in (T, S):
        raise ValueError(f"q{q_BTHK.shape}, k{k_BSGK.shape} and v{v_BSGK.shape} do not fit together")
    if causal and S != T:
        raise ValueError(f"causal attention needs as many keys as queries; got {S} and {T}")
    return _attention(causal, _checked(blocks, q_BTHK, k_BSGK, v_BSGK), q_BTHK, k_BSGK, v_BSGK)


def packed_flash_attention(
    qkv_BTNK: jax.Array, n_heads: int, *, causal: bool, blocks: Blocks | None = None
) -> jax.Array:
    """Flash attention on one array that holds the heads of queries, keys and values, in this order.

    The kernels read the array, and write its gradient, directly instead of through three copies of each. Everything
    else is as in `flash_attention`.

    Args:
      qkv_BTNK: N = n_heads + 2G heads.
      n_heads: H, the heads of the queries.
      causal: as in `flash_attention`.
      blocks: as in `flash_attention`.

    Returns:
      o_BTHK, in the dtype of qkv.
    """
    pallas.require("mosaic")
    _, T, N, _ = qkv_BTNK.shape
    if n_heads < 1 or n_heads >= N or (N - n_heads) % 2 or n_heads % ((N - n_heads) // 2) or T == 0:
        raise ValueError(f"need qkv[B,T,H+2G,K] where G divides H; got {qkv_BTNK.shape} for H = {n_heads}")
    return _packed_attention(causal, _checked(blocks, qkv_BTNK), n_heads, qkv_BTNK)


def _checked(blocks: Blocks | None, *arrays_BTHK: jax.Array) -> Blocks:
    """Check that the kernels can take the arrays, and return the sizes for them."""
    dtypes, K = {str(array.dtype) for array in arrays_BTHK}, arrays_BTHK[0].shape[-1]
    if dtypes not in ({"bfloat16"}, {"float16"}):
        raise TypeError(f"implementation='mosaic' takes bfloat16 or float16, one for all; got {sorted(dtypes)}")
    if K not in BLOCKS:
        raise NotImplementedError(f"implementation='mosaic' takes heads of width {sorted(BLOCKS)}; got {K}")
    return blocks or BLOCKS[K]


@functools.partial(OwnGradient, nondiff_argnums=(0, 1))
def _attention(causal: bool, blocks: Blocks, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array) -> jax.Array:
    return _attention_forward(causal, blocks, q_BTHK, k_BSGK, v_BSGK)[0]


def _attention_forward(
    causal: bool, blocks: Blocks, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    T, S = q_BTHK.shape[1], k_BSGK.shape[1]
    q, k, v = _padded(blocks, q_BTHK, k_BSGK, v_BSGK)
    o, log2_sum_BHT = forward(q, k, v, sizes=Sizes.of(causal, S, q, k), blocks=blocks)
    o_BTHK = o[:, :T]
    return o_BTHK, (q_BTHK, k_BSGK, v_BSGK, o_BTHK, log2_sum_BHT)


def _attention_backward(
    causal: bool, blocks: Blocks, saved: tuple[jax.Array, ...], do_BTHK: jax.Array
) -> tuple[jax.Array, ...]:
    q_BTHK, k_BSGK, v_BSGK, o_BTHK, log2_sum_BHT = saved
    T, S = q_BTHK.shape[1], k_BSGK.shape[1]
    q, k, v, o, do = _padded(blocks, q_BTHK, k_BSGK, v_BSGK, o_BTHK, do_BTHK)
    sizes, operands = Sizes.of(causal, S, q, k), (q, k, v, do, log2_sum_BHT, _delta(o, do))
    dq = gradient_of_queries(*operands, sizes=sizes, blocks=blocks)
    dk, dv = gradients_of_keys(*operands, sizes=sizes, blocks=blocks)
    return dq[:, :T], dk[:, :S], dv[:, :S]


_attention.defvjp(_attention_forward, _attention_backward)


@functools.partial(OwnGradient, nondiff_argnums=(0, 1, 2))
def _packed_attention(causal: bool, blocks: Blocks, n_heads: int, qkv_BTNK: jax.Array) -> jax.Array:
    return _packed_attention_forward(causal, blocks, n_heads, qkv_BTNK)[0]


def _packed_attention_forward(
    causal: bool, blocks: Blocks, n_heads: int, qkv_BTNK: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    T = qkv_BTNK.shape[1]
    (qkv,) = _padded(blocks, qkv_BTNK)
    o, log2_sum_BHT = forward(qkv, qkv, qkv, sizes=Sizes.of_packed(causal, T, n_heads, qkv), blocks=blocks)
    o_BTHK = o[:, :T]
    return o_BTHK, (qkv, o_BTHK, log2_sum_BHT)


def _packed_attention_backward(
    causal: bool, blocks: Blocks, n_heads: int, saved: tuple[jax.Array, ...], do_BTHK: jax.Array
) -> tuple[jax.Array]:
    qkv, o_BTHK, log2_sum_BHT = saved
    T = do_BTHK.shape[1]
    o, do = _padded(blocks, o_BTHK, do_BTHK)
    sizes = Sizes.of_packed(causal, T, n_heads, qkv)
    operands = qkv, qkv, qkv, do, log2_sum_BHT, _delta(o, do)
    dqkv = gradient_of_queries(*operands, sizes=sizes, blocks=blocks)
    (dqkv,) = gradients_of_keys(*operands, dqkv, sizes=sizes, blocks=blocks)
    return (dqkv[:, :T],)


_packed_attention.defvjp(_packed_attention_forward, _packed_attention_backward)


def _delta(o_BTHK: jax.Array, do_BTHK: jax.Array) -> jax.Array:
    """The term sum_s p_ts dp_ts = sum_k o_tk do_tk of the softmax gradient, for each query, in [B, H, T]."""
    return jnp.sum(o_BTHK.astype(jnp.float32) * do_BTHK.astype(jnp.float32), axis=-1).swapaxes(1, 2)


def _padded(blocks: Blocks, *arrays_BTHK: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays padded with zeros to whole tiles. Padded keys are masked; padded queries have zero cotangents."""
    whole = math.lcm(TILE, blocks.keys, blocks.dq_keys, blocks.dkv_queries)
    return tuple(jnp.pad(x, ((0, 0), (0, -x.shape[1] % whole), (0, 0), (0, 0))) for x in arrays_BTHK)
