"""Multi-head attention: grouped heads, causal and sliding-window masks, padding.

`reference` scores every query against every key and masks what must not be seen; `xla` and `cpu` never compute most
of what the causal mask or the window takes away.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels import cpu
from ryot_jax.kernels.operands import accumulator, choose, operand
from ryot_jax.kernels.ops.attention.mosaic import flash_attention, packed_flash_attention

# Of the `xla` implementation: four blocks of queries compute 5/8 of the causal score matrix, and more of them are
# slower products; narrow windows are worth more blocks, but each is unrolled into the program.
_QUERY_BLOCKS, _MAX_QUERY_BLOCKS = 4, 16


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
    """softmax(q k^T / sqrt(K) + mask) v for each head.

    Args:
      q_BTHK: queries. B sequences, T positions, H heads, K head width. Scores and softmax are float32
        (float64 where q is).
      k_BSGK: keys, S positions, G heads; G divides H, and query head h reads head h // (H // G). Same dtype.
      v_BSGK: values, of the keys' shape and dtype.
      causal: query t sees keys s <= t only; needs S = T.
      window: query t sees keys s > t - window only: its own and the window - 1 before it. Needs `causal`.
      mask_BS: bool; keys where it is False are padding, which no query sees. Their values must be finite.
      implementation: 'reference', 'xla' (blocks of queries against the keys that they can see), 'cpu' (C++, float32
        and bfloat16; Dao et al. 2022, arXiv:2205.14135, keeps one number per query for the backward pass), 'cudnn'
        (the same on NVIDIA GPUs from compute capability 8.0 on; float16 and bfloat16, heads of multiples of 8) or
        'mosaic' (our own for compute capability 9; float16 and bfloat16, heads of 64 or 128, no window, no mask).

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
    return choose(_IMPLEMENTATIONS, implementation, q_BTHK)(visible, q_BTHK, k_BSGK, v_BSGK, mask_BS)


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
    """`attention` of one array that holds the heads of queries, keys and values, in this order.

    'cpu' and 'mosaic' read and write the array in place of three copies; the others cut it apart. What is not said here
    is as in `attention`.

    Args:
      qkv_BTNK: N = n_heads + 2 n_kv_heads heads.
      n_heads: H, the heads of the queries.
      n_kv_heads: G, those of the keys, and of the values; None: as many as queries'.
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
    if implementation not in _PACKED:
        q_BTHK, k_BTGK, v_BTGK = jnp.split(qkv_BTNK, [H, H + G], axis=2)
        return attention(
            q_BTHK, k_BTGK, v_BTGK, causal=causal, window=window, mask_BS=mask_BS, implementation=implementation
        )
    visible = _checked(causal, window, mask_BS, qkv_BTNK.shape[:2])
    return choose(_PACKED, implementation, qkv_BTNK)(visible, H, qkv_BTNK, mask_BS)


class _Visible(NamedTuple):
    """Which keys a query can see, beside the padding mask."""

    causal: bool
    window: int | None

    def matrix(self, queries: range, keys: range) -> jax.Array | None:
        """visible_QS, or None where all is visible."""
        if not self.causal:
            return None
        behind_QS = (queries.start + jnp.arange(len(queries)))[:, None] - (keys.start + jnp.arange(len(keys)))[None, :]
        return behind_QS >= 0 if self.window is None else (behind_QS >= 0) & (behind_QS < self.window)

    def attributes(self) -> dict[str, np.int64]:
        """The same for a handler."""
        return {"causal": np.int64(self.causal), "window": np.int64(self.window or 0)}


def _checked(causal: bool, window: int | None, mask_BS: jax.Array | None, shape: tuple[int, ...]) -> _Visible:
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"window={window}: needs causal attention and at least the query's own key")
    if mask_BS is not None and mask_BS.shape != shape:
        raise ValueError(f"need mask[B,S] = {shape}; got {mask_BS.shape}")
    if mask_BS is not None and mask_BS.dtype != jnp.bool_:
        raise TypeError(f"need a bool mask; got {mask_BS.dtype}")
    return _Visible(causal, window)


def _masked(
    q_BQHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, visible_QS: jax.Array | None, mask_BS: jax.Array | None
) -> jax.Array:
    """Every query against every key, then the masks."""
    accumulate = accumulator(q_BQHK.dtype)
    group = q_BQHK.shape[2] // k_BSGK.shape[2]
    # Not an axis of groups: XLA:CPU needs a third more time with one, even of size 1.
    k_BSHK, v_BSHK = (x if group == 1 else jnp.repeat(x, group, axis=2) for x in (k_BSGK, v_BSGK))
    q_BQHK = q_BQHK * jnp.asarray(q_BQHK.shape[-1] ** -0.5, q_BQHK.dtype)
    scores_BHQS = jnp.einsum("bqhk,bshk->bhqs", q_BQHK, k_BSHK, preferred_element_type=accumulate)
    visible = None if visible_QS is None else visible_QS[None, None]
    if mask_BS is None:
        if visible is not None:
            scores_BHQS = jnp.where(visible, scores_BHQS, -jnp.inf)
        weights_BHQS = jax.nn.softmax(scores_BHQS, axis=-1)
    else:
        padding = mask_BS[:, None, None]
        visible = padding if visible is None else visible & padding
        # A query that sees no key: no softmax of nothing, whose gradient would be NaN, and no weights.
        sees = jnp.any(visible, axis=-1, keepdims=True)
        scores_BHQS = jnp.where(sees, jnp.where(visible, scores_BHQS, -jnp.inf), 0)
        weights_BHQS = jnp.where(sees, jax.nn.softmax(scores_BHQS, axis=-1), 0)
    # As jax.nn.dot_product_attention: scores in float32, but of bfloat16 values a bfloat16 outcome, rounded once from
    # float32 sums. A float32 one would give the backward products of this one a float32 cotangent.
    outcome = v_BSHK.dtype if v_BSHK.dtype == jnp.bfloat16 else accumulate
    o_BQHK = jnp.einsum("bhqs,bshk->bqhk", weights_BHQS.astype(v_BSHK.dtype), v_BSHK, preferred_element_type=outcome)
    return o_BQHK.astype(v_BSHK.dtype)


def _reference(
    visible: _Visible, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask_BS: jax.Array | None
) -> jax.Array:
    visible_TS = visible.matrix(range(q_BTHK.shape[1]), range(k_BSGK.shape[1]))
    return _masked(q_BTHK, k_BSGK, v_BSGK, visible_TS, mask_BS)


def _xla(
    visible: _Visible, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask_BS: jax.Array | None
) -> jax.Array:
    if not visible.causal:
        return _reference(visible, q_BTHK, k_BSGK, v_BSGK, mask_BS)
    length = q_BTHK.shape[1]
    window = length if visible.window is None else visible.window
    block = max(1, -(-length // _MAX_QUERY_BLOCKS), min(-(-length // _QUERY_BLOCKS), window))
    outputs = []
    for start in range(0, length, block):
        queries = range(start, min(start + block, length))
        keys = range(max(0, start + 1 - window), queries.stop)
        outputs.append(
            _masked(
                q_BTHK[:, queries.start : queries.stop],
                k_BSGK[:, keys.start : keys.stop],
                v_BSGK[:, keys.start : keys.stop],
                visible.matrix(queries, keys),
                None if mask_BS is None else mask_BS[:, keys.start : keys.stop],
            )
        )
    return jnp.concatenate(outputs, axis=1)


def _cudnn(
    visible: _Visible, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask_BS: jax.Array | None
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
    # A query that sees no key gets the mean of hidden values from cuDNN, and would hand a gradient to them.
    return jnp.where(_sees_a_key(visible, mask_BS, q_BTHK.shape[1])[:, :, None, None], o_BTHK, 0)


def _mosaic(
    visible: _Visible, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask_BS: jax.Array | None
) -> jax.Array:
    _require_no_mask(visible, mask_BS)
    return flash_attention(q_BTHK, k_BSGK, v_BSGK, causal=visible.causal)


def _mosaic_packed(visible: _Visible, n_heads: int, qkv_BTNK: jax.Array, mask_BT: jax.Array | None) -> jax.Array:
    _require_no_mask(visible, mask_BT)
    return packed_flash_attention(qkv_BTNK, n_heads, causal=visible.causal)


def _require_no_mask(visible: _Visible, mask_BS: jax.Array | None) -> None:
    if visible.window is not None or mask_BS is not None:
        raise NotImplementedError("implementation='mosaic' takes no window and no padding mask; use 'cudnn' or 'xla'")


def _sees_a_key(visible: _Visible, mask_BS: jax.Array, n_queries: int) -> jax.Array:
    """Whether each query sees any key, bool[B, T]."""
    if not visible.causal:
        return jnp.broadcast_to(mask_BS.any(axis=1, keepdims=True), (mask_BS.shape[0], n_queries))
    so_far_BS = jnp.cumsum(mask_BS, axis=1)
    if visible.window is None:
        return so_far_BS > 0
    before_BS = jnp.pad(so_far_BS, ((0, 0), (visible.window, 0)))[:, : so_far_BS.shape[1]]
    return so_far_BS > before_BS


def _outputs(o_shape: tuple[int, ...], dtype: jnp.dtype) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Of both forward handlers: o, and the logarithm of each query's sum of exponentials."""
    B, T, H, _ = o_shape
    return jax.ShapeDtypeStruct(o_shape, dtype), jax.ShapeDtypeStruct((B, H, T), jnp.float32)


def _like(*arrays: jax.Array) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cpu(
    visible: _Visible, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask_BS: jax.Array | None
) -> jax.Array:
    return _cpu_forward(visible, q_BTHK, k_BSGK, v_BSGK, mask_BS)[0]


def _cpu_forward(
    visible: _Visible, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask_BS: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    operands = q_BTHK, k_BSGK, v_BSGK, operand(mask_BS, jnp.bool_)
    out = _outputs(q_BTHK.shape, q_BTHK.dtype)
    o_BTHK, log_sum_exp_BHT = cpu.call("ryot_attention_forward", out, *operands, **visible.attributes())
    return o_BTHK, (*operands, o_BTHK, log_sum_exp_BHT)


def _cpu_backward(visible: _Visible, saved: tuple[jax.Array, ...], do_BTHK: jax.Array) -> tuple[jax.Array | None, ...]:
    gradients = cpu.call("ryot_attention_backward", _like(*saved[:3]), *saved, do_BTHK, **visible.attributes())
    return (*gradients, None)


_cpu.defvjp(_cpu_forward, _cpu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cpu_packed(visible: _Visible, n_heads: int, qkv_BTNK: jax.Array, mask_BT: jax.Array | None) -> jax.Array:
    return _cpu_packed_forward(visible, n_heads, qkv_BTNK, mask_BT)[0]


def _cpu_packed_forward(
    visible: _Visible, n_heads: int, qkv_BTNK: jax.Array, mask_BT: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    B, T, _, K = qkv_BTNK.shape
    operands = qkv_BTNK, operand(mask_BT, jnp.bool_)
    attributes = visible.attributes() | {"n_heads": np.int64(n_heads)}
    out = _outputs((B, T, n_heads, K), qkv_BTNK.dtype)
    o_BTHK, log_sum_exp_BHT = cpu.call("ryot_packed_attention_forward", out, *operands, **attributes)
    return o_BTHK, (*operands, o_BTHK, log_sum_exp_BHT)


def _cpu_packed_backward(
    visible: _Visible, n_heads: int, saved: tuple[jax.Array, ...], do_BTHK: jax.Array
) -> tuple[jax.Array, None]:
    attributes = visible.attributes() | {"n_heads": np.int64(n_heads)}
    (dqkv_BTNK,) = cpu.call("ryot_packed_attention_backward", _like(saved[0]), *saved, do_BTHK, **attributes)
    return dqkv_BTNK, None


_cpu_packed.defvjp(_cpu_packed_forward, _cpu_packed_backward)

_Apply = Callable[[_Visible, jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]
_IMPLEMENTATIONS: dict[str, _Apply] = {
    "reference": _reference,
    "xla": _xla,
    "cpu": _cpu,
    "cudnn": _cudnn,
    "mosaic": _mosaic,
}
_PACKED: dict[str, Callable[[_Visible, int, jax.Array, jax.Array | None], jax.Array]] = {
    "cpu": _cpu_packed,
    "mosaic": _mosaic_packed,
}
