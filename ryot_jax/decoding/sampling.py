"""The choice of the next token from logits: pure functions of arrays."""

import jax
import jax.numpy as jnp


def greedy(logits_BV: jax.Array) -> jax.Array:
    """The most likely token of each row, int32[B]; the lowest id among equals."""
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


def sample(logits_BV: jax.Array, key: jax.Array, *, temperature: jax.Array | float, top_k: int = 0) -> jax.Array:
    """Draw a token of each row, int32[B], from softmax(logits / temperature).

    `temperature` is above zero; `top_k` > 0 keeps the k most likely tokens (exactly k, whatever the ties), 0 all.
    """
    scaled_BV = logits_BV / temperature
    if top_k == 0:
        return jax.random.categorical(key, scaled_BV, axis=-1).astype(jnp.int32)
    best_Bk, tokens_Bk = jax.lax.top_k(scaled_BV, top_k)
    choice_B = jax.random.categorical(key, best_Bk, axis=-1)
    return jnp.take_along_axis(tokens_Bk, choice_B[:, None], axis=1)[:, 0].astype(jnp.int32)
