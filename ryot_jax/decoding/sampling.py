"""The choice of the next token from logits: pure functions of arrays.

A token is drawn with one uniform number by the inverse of its distribution function. The number depends on the key,
the sequence and the position alone: so a token drawn after a draft was right is the one that would have been drawn
without any draft (see `generate.py`).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.runtime.errors import ConfigError

_BLOCK = 32  # numbers whose sums are added up first; of the same order as the square root of a vocabulary


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The choice of tokens. Filters apply in the order of the fields, each to the tokens that the one before has left.

    Attributes:
      temperature: of the softmax; 0 is greedy, whatever the others say.
      top_k: keeps the k most likely tokens (exactly k, whatever the ties); 0: all.
      top_p: keeps the most likely tokens until their probabilities reach p (nucleus, arXiv:1904.09751); 1: all.
      min_p: keeps tokens at least p times as likely as the most likely one (arXiv:2407.01082); 0: all.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature >= 0.0):
            raise ConfigError(f"temperature = {self.temperature}: must be finite and at least 0 (0 is greedy)")
        if self.top_k < 0:
            raise ConfigError(f"top_k = {self.top_k}: must be at least 0 (0: all tokens)")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"top_p = {self.top_p}: must be above 0 and at most 1 (1: all tokens)")
        if not 0.0 <= self.min_p <= 1.0:
            raise ConfigError(f"min_p = {self.min_p}: must lie in 0 (all tokens) to 1")

    @property
    def is_greedy(self) -> bool:
        """Whether tokens are chosen greedily, without random draws."""
        return self.temperature == 0.0


GREEDY = Sampling()


def greedy(logits: jax.Array) -> jax.Array:
    """The most likely token, int32, over the last axis; the lowest id among equals."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def probabilities(
    logits: jax.Array, settings: Sampling, temperature: jax.Array | float
) -> tuple[jax.Array, jax.Array | None]:
    """Weights w[..., k] (not normalized) of the tokens that the filters leave, and their ids [..., k] (None: 0, 1, ..).

    `temperature` takes the place of the settings' own, so that it can be traced.
    """
    scaled = logits / temperature
    V, tokens = logits.shape[-1], None
    if 0 < settings.top_k < V:
        scaled, tokens = jax.lax.top_k(scaled, settings.top_k)
    elif settings.top_p < 1.0:
        scaled, tokens = jax.lax.top_k(scaled, V)
    weights = jnp.exp(scaled - jnp.max(scaled, axis=-1, keepdims=True))
    if settings.top_p < 1.0:  # sorted, most likely first
        before = jnp.cumsum(weights, axis=-1) - weights
        weights = jnp.where(before < settings.top_p * jnp.sum(weights, axis=-1, keepdims=True), weights, 0.0)
    if settings.min_p > 0.0:
        weights = jnp.where(weights >= settings.min_p, weights, 0.0)  # the most likely one's weight is 1
    return weights, tokens


def sample(logits: jax.Array, uniform: jax.Array, settings: Sampling, temperature: jax.Array | float) -> jax.Array:
    """Draws tokens, int32[...], from logits [..., V] with numbers [...] that are uniform in [0, 1)."""
    weights, tokens = probabilities(logits, settings, temperature)
    choice = _first_above(weights, uniform)
    return choice if tokens is None else jnp.take_along_axis(tokens, choice[..., None], axis=-1)[..., 0]


def uniforms(key: jax.Array, sequence_B: jax.Array, index_BS: jax.Array) -> jax.Array:
    """One number in [0, 1) for each sequence and each of its tokens' numbers."""

    def of_token(sequence: jax.Array, index: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, sequence), index))

    return jax.vmap(lambda sequence, index_S: jax.vmap(lambda index: of_token(sequence, index))(index_S))(
        sequence_B, index_BS
    )


def _first_above(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """The first index whose running sum exceeds `uniform` times the sum of all, int32[...].

    In two stages, sums of blocks and sums within the block: XLA takes a running sum of V terms in log2(V) passes.
    """
    V = weights.shape[-1]
    blocks = -(-V // _BLOCK)
    padding = [(0, 0)] * (weights.ndim - 1) + [(0, blocks * _BLOCK - V)]
    weights_NK = jnp.pad(weights, padding).reshape(*weights.shape[:-1], blocks, _BLOCK)
    sums_N = jnp.sum(weights_NK, axis=-1)
    running_N = jnp.cumsum(sums_N, axis=-1)
    target = uniform * running_N[..., -1]
    block = _first_true(running_N > target[..., None], sums_N > 0)[..., None]
    before = jnp.take_along_axis(running_N - sums_N, block, axis=-1)
    inside_K = jnp.take_along_axis(weights_NK, block[..., None], axis=-2)[..., 0, :]
    rest = jnp.maximum(target[..., None] - before, 0.0)
    inside = _first_true(jnp.cumsum(inside_K, axis=-1) > rest, inside_K > 0)
    return block[..., 0] * _BLOCK + inside


def _first_true(found: jax.Array, allowed: jax.Array) -> jax.Array:
    """The first index that is found; where rounding left none, the last one that is allowed."""
    last = found.shape[-1] - 1 - jnp.argmax(allowed[..., ::-1], axis=-1)
    return jnp.where(jnp.any(found, axis=-1), jnp.argmax(found, axis=-1), last).astype(jnp.int32)
