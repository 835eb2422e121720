"""The public functions of the op: `attention` and `packed_attention`."""

import jax
import jax.numpy as jnp

from ryot_jax.kernels.operands import choose
from ryot_jax.kernels.ops.attention import OP
from ryot_jax.kernels.ops.attention._visible import Visible


def attention(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    *,
    causal: bool = True,
    window: int | None = None,
    mask_BS: jax.Array | None = None,
    implementation: str = "reference",
) -> jax.Array:
    """Multi-head attention: softmax(q k^T / sqrt(K) + mask) v for each head.

    Args:
      q_BTHK: queries. B sequences, T positions, H heads, K head width. Scores and softmax are float32
        (float64 where q is).
      k_BSGK: keys, S positions, G heads; G divides H, and query head h reads head h // (H // G). Same dtype.
      v_BSGK: values, of the keys' shape and dtype.
      causal: query t sees keys s <= t only; needs S = T.
      window: query t sees keys s > t - window only: its own and the window - 1 before it. Needs `causal`.
      mask_BS: bool; keys where it is False are padding, which no query sees. Their values must be finite.
      implementation: 'reference', 'xla' (blocks of queries against the keys that they can see), 'cpu' (C++, float32
        and bfloat16; keeps one number per query for the backward pass, Dao et al. 2022, arXiv:2205.14135), 'cudnn'
        (the same on NVIDIA GPUs from compute capability 8.0 on; float16 and bfloat16, head widths that are multiples of
        8) or 'mosaic' (our own for compute capability 9; float16 and bfloat16, head widths 64 and 128, no window, no
        mask).

    Returns:
      o_BTHK: weighted values, in q's dtype; zeros, with zero gradients, for a query that sees no key.
      Differentiable in q, k, v (once for 'cpu', 'cudnn' and 'mosaic').

    Raises:
      ValueError: shapes or options do not fit together, or the implementation is not known.
      TypeError: the implementation cannot take the dtypes.
      NotImplementedError: it cannot run on this device, or not with these options.
    """
    if q_BTHK.ndim != 4 or k_BSGK.ndim != 4 or k_BSGK.shape != v_BSGK.shape:
        raise ValueError(f"need q[B,T,H,K], k and v[B,S,G,K]; got {q_BTHK.shape}, {k_BSGK.shape}, {v_BSGK.shape}")
    (B, T, H, K), (_, S, G, _) = q_BTHK.shape, k_BSGK.shape
    if k_BSGK.shape != (B, S, G, K) or G == 0 or H % G:
        raise ValueError(f"q{q_BTHK.shape} and k{k_BSGK.shape} do not fit together; the heads of k divide those of q")
    if causal and S != T:
        raise ValueError(f"causal attention needs as many keys as queries; got {S} and {T}")
    visible = _checked(causal, window, mask_BS, (B, S))
    if len(dtypes := {str(array.dtype) for array in (q_BTHK, k_BSGK, v_BSGK)}) > 1:
        raise TypeError(f"need q, k, v of one dtype; got {sorted(dtypes)}")
    o_BTHK: jax.Array = choose(OP, implementation, q_BTHK).separate(visible, q_BTHK, k_BSGK, v_BSGK, mask_BS)
    return o_BTHK


def packed_attention(
    qkv_BTNK: jax.Array,
    n_heads: int,
    *,
    n_kv_heads: int | None = None,
    causal: bool = True,
    window: int | None = None,
    mask_BS: jax.Array | None = None,
    implementation: str = "reference",
) -> jax.Array:
    """Attention on one array that holds the heads of queries, keys and values, in this order.

    'cpu' and 'mosaic' read and write the array directly instead of through three copies; the others split it.
    Everything else is as in `attention`.

    Args:
      qkv_BTNK: N = n_heads + 2 n_kv_heads heads.
      n_heads: H, the heads of the queries.
      n_kv_heads: G, the heads of the keys, and of the values; None: as many as the queries'.
      causal: as in `attention`.
      window: as in `attention`.
      mask_BS: as in `attention`, with S = T.
      implementation: as in `attention`.

    Returns:
      o_BTHK, in the dtype of qkv.

    Raises:
      ValueError: shapes or options do not fit together, or the implementation is not known.
      TypeError: the implementation cannot take the dtypes.
      NotImplementedError: it cannot run on this device, or not with these options.
    """
    H, G = n_heads, n_heads if n_kv_heads is None else n_kv_heads
    if qkv_BTNK.ndim != 4 or H < 1 or G < 1 or H % G or qkv_BTNK.shape[2] != H + 2 * G:
        raise ValueError(f"need qkv[B,T,H+2G,K] where G divides H; got {qkv_BTNK.shape} for H = {H}, G = {G}")
    if not reads_packed(implementation):
        q_BTHK, k_BTGK, v_BTGK = jnp.split(qkv_BTNK, [H, H + G], axis=2)
        return attention(
            q_BTHK, k_BTGK, v_BTGK, causal=causal, window=window, mask_BS=mask_BS, implementation=implementation
        )
    visible = _checked(causal, window, mask_BS, qkv_BTNK.shape[:2])
    o_BTHK: jax.Array = choose(OP, implementation, qkv_BTNK).packed(visible, H, qkv_BTNK, mask_BS)
    return o_BTHK


def reads_packed(implementation: str) -> bool:
    """Whether this implementation of `packed_attention` reads the packed array directly instead of splitting it."""
    return implementation in OP.implementations and OP.implementations[implementation].function.packed is not None


def _checked(causal: bool, window: int | None, mask_BS: jax.Array | None, shape: tuple[int, ...]) -> Visible:
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"window={window}: needs causal attention and at least the query's own key")
    if mask_BS is not None and mask_BS.shape != shape:
        raise ValueError(f"need mask[B,S] = {shape}; got {mask_BS.shape}")
    if mask_BS is not None and mask_BS.dtype != jnp.bool_:
        raise TypeError(f"need a bool mask; got {mask_BS.dtype}")
    return Visible(causal, window)
