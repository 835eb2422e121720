"""Tokens are drawn with the probabilities of the formula."""

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.decoding.sampling import greedy, sample

LOGITS_V = np.log([0.4, 0.3, 0.2, 0.07, 0.03])
DRAWS = 20_000


def frequencies(temperature, top_k):
    logits_BV = jnp.tile(jnp.asarray(LOGITS_V, jnp.float32)[None], (DRAWS, 1))
    tokens_B = sample(logits_BV, jax.random.key(0), temperature=temperature, top_k=top_k)
    assert tokens_B.shape == (DRAWS,) and tokens_B.dtype == jnp.int32
    return np.bincount(tokens_B, minlength=5) / DRAWS


def assert_drawn_from(frequency_V, probability_V):
    error_V = np.sqrt(probability_V * (1 - probability_V) / DRAWS)
    assert (np.abs(frequency_V - probability_V) <= 5 * error_V).all(), "more than five standard errors off"


def test_temperature_one_draws_from_the_softmax():
    assert_drawn_from(frequencies(1.0, 0), np.exp(LOGITS_V))


def test_temperature_divides_the_logits():
    weights_V = np.exp(LOGITS_V / 0.5)
    assert_drawn_from(frequencies(0.5, 0), weights_V / weights_V.sum())


def test_top_k_renormalizes_over_the_k_most_likely():
    assert_drawn_from(frequencies(1.0, 3), np.array([0.4, 0.3, 0.2, 0.0, 0.0]) / 0.9)


def test_top_k_keeps_exactly_k_of_equal_logits():
    tokens_B = sample(jnp.zeros((1000, 8)), jax.random.key(1), temperature=1.0, top_k=3)
    assert len(np.unique(tokens_B)) == 3


def test_greedy_takes_the_most_likely_and_the_lowest_id_of_equals():
    np.testing.assert_array_equal(greedy(jnp.array([[1.0, 3.0, 2.0], [5.0, 5.0, 0.0]])), [1, 0])
