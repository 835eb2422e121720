"""Calls of the op for attention with axes in any order, and with what a mask of padding leaves open."""

import dataclasses
import functools
import math
from collections.abc import Sequence

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


@dataclasses.dataclass(frozen=True)
class AttentionAbout:
    """Attention: the axes of its operands, and what the op is told.

    Attributes:
      layout: the axes.
      causal: as in the op.
      window: as in the op.
      factor: what queries are multiplied with before the op; None: nothing.
      fills_infinity: whether hidden scores are minus infinity, so that a query that sees no key gets NaN.
    """

    layout: Layout
    causal: bool
    window: int | None
    factor: float | None
    fills_infinity: bool


def factor_of(scale: float, width: int) -> float | None:
    """The number to multiply queries of this width with, for products times `scale`; None: 1, but for rounding."""
    factor = scale * math.sqrt(width)
    return None if math.isclose(factor, 1.0, rel_tol=1e-6) else factor


def call(
    about: AttentionAbout, implementation: str, q: jax.Array, k: jax.Array, v: jax.Array, *hiding: jax.Array
) -> jax.Array:
    """Attention by the op.

    Args:
      about: what the op is told.
      implementation: as in the op.
      q: queries, [*batch, *queries, K].
      k: keys, [*batch, S, K].
      v: values, of the keys' shape.
      *hiding: parts of the mask, [*batch, *queries, S] with axes of size 1.
    """
    layout = about.layout
    q, k, v = _heads_last(layout, q), _heads_of_keys(layout, k), _heads_of_keys(layout, v)
    *batch, heads, T, group, K = q.shape  # q[..., H, T, R, K]: R queries of a place share keys k[..., H, S, K]
    S, rows = k.shape[-2], math.prod(batch)
    q = q.reshape(rows, heads, T, group, K).transpose(0, 2, 1, 3, 4).reshape(rows, T, heads * group, K)
    k, v = (x.reshape(rows, heads, S, K).transpose(0, 2, 1, 3) for x in (k, v))
    if about.factor is not None:
        q = q * jnp.asarray(about.factor, q.dtype)
    parts = _parts(layout, batch, hiding)
    o = kernels.attention(
        q,
        k,
        v,
        causal=about.causal,
        window=about.window,
        mask_BS=_padding(parts, rows, S),
        implementation=implementation,
    )
    if parts:
        o = _for_blind_queries(o, v, parts, about, group)
    return _as_result(layout, batch, group, o)


def call_packed(
    about: AttentionAbout,
    batch: tuple[int, ...],
    sizes: tuple[int, int, int, int],
    implementation: str,
    qkv: jax.Array,
    *hiding: jax.Array,
) -> jax.Array:
    """Attention by the op on queries, keys and values in one array.

    Args:
      about: what the op is told, without a factor.
      batch: sizes of the axes of batch, without that of heads.
      sizes: T, H, G and K as in `kernels.packed_attention`.
      implementation: as in the op.
      qkv: [*batch, T, (H + 2 G) K], in any shape.
      *hiding: as in `call`.
    """
    T, H, G, K = sizes
    rows = math.prod(batch)
    qkv = qkv.reshape(rows, T, H + 2 * G, K)
    parts = _parts(about.layout, batch, hiding)
    o = kernels.packed_attention(
        qkv,
        H,
        n_kv_heads=G,
        causal=about.causal,
        window=about.window,
        mask_BS=_padding(parts, rows, T),
        implementation=implementation,
    )
    if parts:
        o = _for_blind_queries(o, qkv[:, :, H + G :], parts, about, H // G)
    return _as_result(about.layout, batch, H // G, o)


def _heads_last(layout: Layout, x: jax.Array) -> jax.Array:
    """Queries or a part of the mask as [*batch, heads, T, group, K]."""
    x = _heads_of_keys(layout, x)
    if layout.group is None:
        return jnp.expand_dims(x, -2)
    return jnp.swapaxes(x, -3, -2) if layout.group < layout.query else x


def _heads_of_keys(layout: Layout, x: jax.Array) -> jax.Array:
    """Keys or values as [*batch, heads, S, K]."""
    n = layout.n_batch
    return jnp.expand_dims(x, n) if layout.head is None else jnp.moveaxis(x, layout.head, n - 1)


def _parts(layout: Layout, batch: Sequence[int], hiding: Sequence[jax.Array]) -> list[jax.Array]:
    """Parts of the mask, [rows, T or 1, S or 1]; none of them differs between heads."""
    turned = [_heads_last(layout, part) for part in hiding]
    rows = math.prod(batch)
    return [
        jnp.broadcast_to(part, (*batch, *part.shape[-4:])).reshape(rows, part.shape[-3], part.shape[-1]) != 0
        for part in turned
    ]


def _padding(parts: Sequence[jax.Array], rows: int, S: int) -> jax.Array | None:
    """The keys that no query sees, of the parts that say nothing of queries."""
    keys = [jnp.broadcast_to(part[:, 0], (rows, S)) for part in parts if part.shape[1] == 1]
    return functools.reduce(jnp.logical_and, keys) if keys else None


def _as_result(layout: Layout, batch: Sequence[int], group: int, o: jax.Array) -> jax.Array:
    """The op's result with the axes of the value that it stands for."""
    n, (_, T, heads, K) = layout.n_batch, o.shape
    o = o.reshape(*batch, T, heads // group, group, K)
    o = jnp.moveaxis(o, -3, -4)  # [..., H, T, R, K]
    if layout.group is None:
        o = jnp.squeeze(o, -2)
    elif layout.group < layout.query:
        o = jnp.swapaxes(o, -3, -2)
    o = jnp.squeeze(o, n) if layout.head is None else jnp.moveaxis(o, n - 1, layout.head)
    if not layout.weights_first:
        o = jnp.moveaxis(o, -1, n)
    return o.reshape(layout.shape).astype(layout.dtype)


def _for_blind_queries(
    o: jax.Array, v: jax.Array, parts: list[jax.Array], about: AttentionAbout, group: int
) -> jax.Array:
    """What a softmax over nothing but fill values gives to a query that sees no key: the mean of all values."""
    rows, T, S = o.shape[0], o.shape[1], v.shape[1]
    seen = functools.reduce(jnp.logical_and, parts)
    if about.causal:
        distance = jnp.arange(T)[:, None] - jnp.arange(S)
        seen = seen & (distance >= 0) & (distance < (about.window or T))
    sees = jnp.broadcast_to(jnp.any(seen, axis=-1), (rows, T))[:, :, None, None]
    mean = jnp.repeat(jnp.mean(v, axis=1, keepdims=True, dtype=jnp.float32), group, axis=2).astype(o.dtype)
    return jnp.where(sees, o, jnp.nan if about.fills_infinity else mean)
