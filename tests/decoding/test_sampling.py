"""Tokens are drawn with the probabilities of the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.decoding.sampling import Sampling, _first_above, greedy, sample, uniforms
from ryot_jax.runtime.errors import ConfigError

LOGITS_V = np.log([0.2, 0.4, 0.07, 0.3, 0.03])
DRAWS = 20_000


def frequencies(settings):
    logits_BV = jnp.tile(jnp.asarray(LOGITS_V, jnp.float32)[None], (DRAWS, 1))
    uniform_B = uniforms(jax.random.key(0), jnp.arange(DRAWS), jnp.zeros((DRAWS, 1), jnp.int32))[:, 0]
    tokens_B = sample(logits_BV, uniform_B, settings, settings.temperature)
    assert tokens_B.shape == (DRAWS,) and tokens_B.dtype == jnp.int32
    return np.bincount(tokens_B, minlength=5) / DRAWS


@pytest.mark.parametrize(
    ("settings", "weight_V"),
    [
        (Sampling(1.0), np.exp(LOGITS_V)),
        (Sampling(0.5), np.exp(2 * LOGITS_V)),
        (Sampling(1.0, top_k=3), [0.2, 0.4, 0, 0.3, 0]),
        (Sampling(1.0, top_k=5), np.exp(LOGITS_V)),
        (Sampling(1.0, top_p=0.65), [0, 0.4, 0, 0.3, 0]),
        (Sampling(1.0, top_p=0.75), [0.2, 0.4, 0, 0.3, 0]),
        (Sampling(1.0, top_p=1e-6), [0, 1, 0, 0, 0]),
        (Sampling(1.0, min_p=0.3), [0.2, 0.4, 0, 0.3, 0]),
        (Sampling(1.0, min_p=1.0), [0, 1, 0, 0, 0]),
        # 0.4 / 0.9 and 0.3 / 0.9 are the nucleus of what top_k leaves; of all five, 0.2 would belong to it.
        (Sampling(1.0, top_k=3, top_p=0.75), [0, 0.4, 0, 0.3, 0]),
        (Sampling(1.0, top_k=4, top_p=0.99, min_p=0.7), [0, 0.4, 0, 0.3, 0]),
    ],
    ids=str,
)
def test_frequencies_are_those_of_the_filtered_softmax(settings, weight_V):
    probability_V = np.asarray(weight_V) / np.sum(weight_V)
    error_V = np.sqrt(probability_V * (1 - probability_V) / DRAWS)
    assert (np.abs(frequencies(settings) - probability_V) <= 5 * error_V).all(), "more than five standard errors off"


def test_top_k_keeps_exactly_k_of_equal_logits():
    uniform_B = jnp.linspace(0, 0.999, 1000)
    tokens_B = sample(jnp.zeros((1000, 8)), uniform_B, Sampling(1.0, top_k=3), 1.0)
    assert len(np.unique(tokens_B)) == 3


@pytest.mark.parametrize("V", [1, 5, 32, 33, 2048, 2051])
def test_a_number_falls_where_the_running_sum_says(V):
    rng = np.random.default_rng(V)
    # With zeros, first and last ones too; integers, whose sums are exact.
    weights_V = rng.integers(0, 4, V) * (rng.random(V) < 0.5)
    weights_V[V // 2] = 3
    total = weights_V.sum()
    number_B = np.arange(total)
    wanted_B = np.searchsorted(np.cumsum(weights_V), number_B, side="right")
    weights_BV = jnp.tile(jnp.asarray(weights_V, jnp.float32)[None], (total, 1))
    found_B = _first_above(weights_BV, jnp.asarray((number_B + 0.5) / total, jnp.float32))
    np.testing.assert_array_equal(found_B, wanted_B)
    ends = _first_above(weights_BV[:2], jnp.array([0.0, np.nextafter(np.float32(1), np.float32(0))]))
    assert weights_V[np.asarray(ends)].all(), "a token of probability zero"


def test_no_token_of_probability_zero_is_drawn_whatever_rounding_does():
    logits_V = np.full(2051, -np.inf, np.float32)
    logits_V[[7, 900, 2000]] = 0.1, 0.2, -3
    uniform_B = jnp.concatenate(
        [jnp.linspace(0, 1, 4001)[:-1], jnp.array([np.nextafter(np.float32(1), np.float32(0))])]
    )
    tokens_B = sample(jnp.tile(jnp.asarray(logits_V)[None], (4001, 1)), uniform_B, Sampling(1.0), 1.0)
    assert set(np.asarray(tokens_B).tolist()) == {7, 900, 2000}


def test_greedy_takes_the_most_likely_and_the_lowest_id_of_equals():
    np.testing.assert_array_equal(greedy(jnp.array([[1.0, 3.0, 2.0], [5.0, 5.0, 0.0]])), [1, 0])


def test_numbers_depend_on_key_sequence_and_place():
    def draw(seed, sequences, places):
        return np.asarray(uniforms(jax.random.key(seed), jnp.array(sequences), jnp.array(places)))

    first = draw(0, [0, 1], [[0, 1, 2], [0, 1, 2]])
    assert len(np.unique(first)) == 6 and not np.isin(first, draw(1, [0, 1], [[0, 1, 2], [0, 1, 2]])).any()
    np.testing.assert_array_equal(draw(0, [1], [[2, 0]])[0], first[1, [2, 0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -1.0}, "temperature = -1.0"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_k": -1}, "top_k = -1"),
        ({"top_p": 0.0}, "top_p = 0.0"),
        ({"top_p": 1.1}, "top_p = 1.1"),
        ({"min_p": -0.1}, "min_p = -0.1"),
        ({"min_p": float("nan")}, "min_p = nan"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**change)
