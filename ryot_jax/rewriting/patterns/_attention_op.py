"""Calls of the op for attention with axes in any order, and with what a mask of padding leaves open."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from ryot_jax import kernels


@dataclasses.dataclass(frozen=True)
class Layout:
    """The axes of queries, in the pattern's order: batch, queries, width.

    Attributes:
      n_batch: the number of axes of batch.
      head: the one of them that is the op's axis of heads; None: none of them.
      query: the axis of places in the sequence.
      group: the axis of queries of one place that share keys, or None.
      weights_first: whether the result's width is its last axis, not the first one after batch.
      shape: shape of the result.
      dtype: dtype of the result.
    """

    n_batch: int
    head: int | None
    query: int
    group: int | None
    weights_first: bool
    shape: tuple[int, ...]
    dtype: str


def call(
    layout: Layout,
    causal: bool,
    window: int | None,
    scale: float,
    fills_infinity: bool,
    implementation: str,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *hiding: jax.Array,
) -> jax.Array:
    """Attention by the op.

    Args:
      layout: the axes of the operands.
      causal: as in the op.
      window: as in the op.
      scale: factor of the products of queries and keys.
      fills_infinity: whether hidden scores are minus infinity, so that a query that sees no key gets NaN.
      implementation: as in the op.
      q: queries, [*batch, *queries, K].
      k: keys, [*batch, S, K].
      v: values, of the keys' shape.
      *hiding: parts of the mask, [*batch, *queries, S] with axes of size 1.
    """
    n, parts = layout.n_batch, list(hiding)
    if layout.head is not None:  # the axis of heads is the last one of batch
        q, k, v, *parts = (jnp.moveaxis(x, layout.head, n - 1) for x in (q, k, v, *parts))
    else:
        q, k, v, *parts = (jnp.expand_dims(x, n) for x in (q, k, v, *parts))
    swaps = layout.group is not None and layout.group < layout.query
    if layout.group is None:
        q, *parts = (jnp.expand_dims(x, -2) if x is q else x[..., None, :] for x in (q, *parts))
    elif swaps:
        q, *parts = (jnp.swapaxes(x, -3, -2) for x in (q, *parts))
    *batch, heads, T, group, K = q.shape  # q[..., H, T, R, K]: R queries of a place share keys k[..., H, S, K]
    S, rows = k.shape[-2], math.prod(batch)
    q = q.reshape(rows, heads, T, group, K).transpose(0, 2, 1, 3, 4).reshape(rows, T, heads * group, K)
    k, v = (x.reshape(rows, heads, S, K).transpose(0, 2, 1, 3) for x in (k, v))
    factor = scale * math.sqrt(K)
    if not math.isclose(factor, 1.0, rel_tol=1e-6):
        q = q * jnp.asarray(factor, q.dtype)
    # Parts of the mask, [rows, T or 1, S or 1].
    flat = [
        jnp.broadcast_to(part, (*batch, *part.shape[-4:])).reshape(rows, part.shape[-3], part.shape[-1]) != 0
        for part in parts
    ]
    padding = None
    for part in flat:
        if part.shape[1] == 1:
            keys = jnp.broadcast_to(part[:, 0], (rows, S))
            padding = keys if padding is None else padding & keys
    o = kernels.attention(q, k, v, causal=causal, window=window, mask_BS=padding, implementation=implementation)
    if flat:
        o = _for_blind_queries(o, v, flat, causal, window, group, fills_infinity)
    o = o.reshape(*batch, T, heads, group, K)
    o = jnp.moveaxis(o, -3, -4)  # [..., H, T, R, K]
    if layout.group is None:
        o = jnp.squeeze(o, -2)
    elif swaps:
        o = jnp.swapaxes(o, -3, -2)
    o = jnp.squeeze(o, n) if layout.head is None else jnp.moveaxis(o, n - 1, layout.head)
    if not layout.weights_first:
        o = jnp.moveaxis(o, -1, n)
    return o.reshape(layout.shape).astype(layout.dtype)


def _for_blind_queries(
    o: jax.Array,
    v: jax.Array,
    parts: list[jax.Array],
    causal: bool,
    window: int | None,
    group: int,
    fills_infinity: bool,
) -> jax.Array:
    """What a softmax over nothing but fill values gives to a query that sees no key: the mean of all values."""
    rows, T, S = o.shape[0], o.shape[1], v.shape[1]
    seen = functools.reduce(jnp.logical_and, parts)
    if causal:
        distance = jnp.arange(T)[:, None] - jnp.arange(S)
        seen = seen & (distance >= 0) & (distance < (window or T))
    sees = jnp.broadcast_to(jnp.any(seen, axis=-1), (rows, T))[:, :, None, None]
    mean = jnp.repeat(jnp.mean(v, axis=1, keepdims=True, dtype=jnp.float32), group, axis=2).astype(o.dtype)
    return jnp.where(sees, o, jnp.nan if fills_infinity else mean)
