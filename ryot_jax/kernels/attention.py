"""Causal multi-head attention.

`reference` scores every query against every key and masks half of it away; `xla` and `cpu` never compute most
of that half. Masks other than the causal one, windows and grouped heads are not here.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ryot_jax.kernels import cpu

_QUERY_BLOCKS = 4  # of the `xla` implementation: computes 5/8 of the score matrix; more blocks are slower products


def attention(
    q_BTHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array, *, implementation: str = "reference"
) -> jax.Array:
    """softmax(q k^T / sqrt(K) + causal mask) v for each head.

    Args:
      q_BTHK: queries. B sequences, T positions, H heads, K head width. Scores and softmax are float32
        (float64 where q is).
      k_BTHK: keys, same shape and dtype.
      v_BTHK: values, same shape and dtype.
      implementation: 'reference', 'xla' (blocks of queries against the keys that they can see) or 'cpu' (C++
        in float32; Dao et al. 2022, arXiv:2205.14135, keeps one number per query for the backward pass).

    Returns:
      o_BTHK: weighted values, in v's dtype. Differentiable in q, k, v (once for 'cpu').

    Raises:
      ValueError: shapes differ, or the implementation is not known.
      TypeError: the implementation cannot take the dtypes.
    """
    if q_BTHK.ndim != 4 or not q_BTHK.shape == k_BTHK.shape == v_BTHK.shape:
        raise ValueError(f"need q, k, v of one shape [B,T,H,K]; got {q_BTHK.shape}, {k_BTHK.shape}, {v_BTHK.shape}")
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(f"implementation={implementation!r} is not one of {sorted(_IMPLEMENTATIONS)}")
    return _IMPLEMENTATIONS[implementation](q_BTHK, k_BTHK, v_BTHK)


def _masked(q_BQHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, first_query: int) -> jax.Array:
    """Queries first_query, first_query + 1, ... against keys 0, 1, ..."""
    queries, keys = q_BQHK.shape[1], k_BSHK.shape[1]
    accumulate = jnp.promote_types(q_BQHK.dtype, jnp.float32)
    q_BQHK = q_BQHK * jnp.asarray(q_BQHK.shape[-1] ** -0.5, q_BQHK.dtype)
    scores_BHQS = jnp.einsum("bqhk,bshk->bhqs", q_BQHK, k_BSHK, preferred_element_type=accumulate)
    visible_QS = first_query + jnp.arange(queries)[:, None] >= jnp.arange(keys)[None, :]
    weights_BHQS = jax.nn.softmax(jnp.where(visible_QS[None, None], scores_BHQS, -jnp.inf), axis=-1)
    o_BQHK = jnp.einsum("bhqs,bshk->bqhk", weights_BHQS.astype(v_BSHK.dtype), v_BSHK, preferred_element_type=accumulate)
    return o_BQHK.astype(v_BSHK.dtype)


def _reference(q_BTHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array) -> jax.Array:
    return _masked(q_BTHK, k_BTHK, v_BTHK, first_query=0)


def _xla(q_BTHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array) -> jax.Array:
    length = q_BTHK.shape[1]
    block = max(1, -(-length // _QUERY_BLOCKS))
    outputs = []
    for start in range(0, length, block):
        end = min(start + block, length)
        outputs.append(_masked(q_BTHK[:, start:end], k_BTHK[:, :end], v_BTHK[:, :end], first_query=start))
    return jnp.concatenate(outputs, axis=1)


def _cpu_forward(q_BTHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    dtypes = {str(array.dtype) for array in (q_BTHK, k_BTHK, v_BTHK)}
    if dtypes != {"float32"}:
        raise TypeError(f"implementation='cpu' takes float32; got {sorted(dtypes)}")
    batch, length, heads, _ = q_BTHK.shape
    out = (
        jax.ShapeDtypeStruct(q_BTHK.shape, jnp.float32),
        jax.ShapeDtypeStruct((batch, heads, length), jnp.float32),
    )
    o_BTHK, log_sum_exp_BHT = cpu.call("ryot_attention_forward", out, q_BTHK, k_BTHK, v_BTHK)
    return o_BTHK, (q_BTHK, k_BTHK, v_BTHK, o_BTHK, log_sum_exp_BHT)


def _cpu_backward(residuals: tuple[jax.Array, ...], do_BTHK: jax.Array) -> tuple[jax.Array, ...]:
    out = [jax.ShapeDtypeStruct(do_BTHK.shape, jnp.float32)] * 3
    return tuple(cpu.call("ryot_attention_backward", out, *residuals, do_BTHK))


@jax.custom_vjp
def _cpu(q_BTHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array) -> jax.Array:
    return _cpu_forward(q_BTHK, k_BTHK, v_BTHK)[0]


_cpu.defvjp(_cpu_forward, _cpu_backward)

_IMPLEMENTATIONS: dict[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "reference": _reference,
    "xla": _xla,
    "cpu": _cpu,
}
