"""Attention by its definition: all scores, then the masks; differentiated by JAX."""

import jax
import jax.numpy as jnp

from ryot_jax.kernels.declaration import Implementation
from ryot_jax.kernels.operands import accumulator
from ryot_jax.kernels.ops.attention._visible import Functions, Visible


def masked(
    q_BQHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, visible_QS: jax.Array | None, mask_BS: jax.Array | None
) -> jax.Array:
    """Attention of every query to every key, with the masks applied to the scores."""
    accumulate = accumulator(q_BQHK.dtype)
    group = q_BQHK.shape[2] // k_BSGK.shape[2]
    # No axis of groups: XLA:CPU takes a third more time with one, even of size 1.
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
        # A query that sees no key gets zero weights, not a softmax over nothing, whose gradient would be NaN.
        sees = jnp.any(visible, axis=-1, keepdims=True)
        scores_BHQS = jnp.where(sees, jnp.where(visible, scores_BHQS, -jnp.inf), 0)
        weights_BHQS = jnp.where(sees, jax.nn.softmax(scores_BHQS, axis=-1), 0)
    # Like jax.nn.dot_product_attention: scores in float32, but a bfloat16 result for bfloat16 values, rounded once from
    # float32 sums. A float32 result would give this product's backward products a float32 cotangent.
    outcome = v_BSHK.dtype if v_BSHK.dtype == jnp.bfloat16 else accumulate
    o_BQHK = jnp.einsum("bhqs,bshk->bqhk", weights_BHQS.astype(v_BSHK.dtype), v_BSHK, preferred_element_type=outcome)
    return o_BQHK.astype(v_BSHK.dtype)


def reference(
    visible: Visible, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask_BS: jax.Array | None
) -> jax.Array:
    """Attention by its definition; the reference of the op."""
    visible_TS = visible.matrix(range(q_BTHK.shape[1]), range(k_BSGK.shape[1]))
    return masked(q_BTHK, k_BSGK, v_BSGK, visible_TS, mask_BS)


IMPLEMENTATION = Implementation(function=Functions(reference), is_compiled_by_xla=True)
