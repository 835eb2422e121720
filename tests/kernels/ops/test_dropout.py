"""Dropout: what it does to numbers, and the statistics of the hashed mask.

The keys are fixed, so each statistic is one number. Bounds are five standard deviations of what independent draws
would give: among the hundred or so of them a right mask passes all but once in ten thousand keys.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import dropout
from tests.kernels.ops import base

IMPLEMENTATIONS = base.names("dropout")
ROWS, COLUMNS = 512, 1000
KEYS = [jax.random.key(0), jax.random.key(1), jax.random.fold_in(jax.random.key(0), 1), jax.random.key(2**32 - 1)]


def _dropped(rate, key, shape=(ROWS, COLUMNS), implementation="hash"):
    """Where the mask is zero, as float64."""
    ones = jnp.ones(shape, jnp.float32)
    mask = jax.jit(lambda key: dropout(ones, rate, key, implementation=implementation) == 0)(key)
    return np.asarray(mask, np.float64)


def _scores(sums, n, rate):
    """Sums of n draws each, in standard deviations from their mean."""
    return (sums - n * rate) / np.sqrt(n * rate * (1 - rate))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_stays_is_scaled_and_gradients_see_the_same_mask(implementation, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 50, 7)), dtype)
    y, vjp = jax.vjp(lambda x: dropout(x, 0.25, KEYS[0], implementation=implementation), x)
    dx = vjp(jnp.ones_like(y))[0]
    kept = np.asarray(y != 0)
    assert 0.6 < kept.mean() < 0.9 and y.dtype == dx.dtype == dtype
    # One rounding of 1 / (1 - rate) and one of the product.
    expected = np.where(kept, np.asarray(x, np.float64) / 0.75, 0)
    chex.assert_trees_all_close(np.asarray(y, np.float64), expected, rtol=2.0 * jnp.finfo(dtype).eps)
    chex.assert_trees_all_close(np.asarray(dx, np.float64), kept / 0.75, rtol=2.0 * jnp.finfo(dtype).eps)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_without_a_key_or_at_rate_zero_it_is_the_identity(implementation):
    x = jnp.arange(6.0)
    assert dropout(x, 0.3, None, implementation=implementation) is x
    assert dropout(x, 0.0, KEYS[0], implementation=implementation) is x


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nan_stays_or_is_dropped_as_any_number(implementation):
    y = dropout(jnp.full((40, 40), jnp.nan), 0.5, KEYS[0], implementation=implementation)
    assert np.isin(y, [0.0]).any() and np.isnan(y).any() and (np.isnan(y) | (y == 0)).all()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("key", range(len(KEYS)))
def test_the_hashed_mask_has_the_mean_and_the_variances_of_independent_draws(rate, key):
    dropped = _dropped(rate, KEYS[key])
    assert abs(_scores(dropped.sum(), dropped.size, rate)) < 5
    for axis, n in ((0, ROWS), (1, COLUMNS)):
        scores = _scores(dropped.sum(axis=axis), n, rate)
        # The mean square of m scores is 1 +- sqrt(2/m).
        assert abs(np.mean(scores**2) - 1) < 5 * np.sqrt(2 / len(scores))
        assert np.abs(scores).max() < 5.5


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_hashed_masks_of_neighbours_rows_and_keys_do_not_correlate(rate):
    masks = [(_dropped(rate, key) - rate) / np.sqrt(rate * (1 - rate)) for key in KEYS]
    bound = 5 / np.sqrt(masks[0].size)
    for distance in (1, 2, 3, 8, 64, 256):
        assert abs(np.mean(masks[0][:, distance:] * masks[0][:, :-distance])) < 1.3 * bound
        assert abs(np.mean(masks[0][distance:] * masks[0][:-distance])) < 1.5 * bound
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert abs(np.mean(one * other)) < bound
            # Nor are they one mask in another order, shifted or with indices that differ in a few bits.
            flat, size = one.ravel()[: 2**18], 2**18
            for permutation in (1, 2, 3, 7, 255, 2**17):
                assert abs(np.mean(flat * other.ravel()[np.arange(size) ^ permutation])) < 5 / np.sqrt(size)


def test_hashed_patterns_of_eight_neighbours_are_equally_frequent():
    """All 256 patterns of eight dropped or kept neighbours, by a chi-squared test."""
    patterns = _dropped(0.5, KEYS[1], (2**18, 8)) @ 2 ** np.arange(8)
    counts = np.bincount(patterns.astype(int), minlength=256)
    expected = 2**18 / 256
    chi_squared = np.sum((counts - expected) ** 2) / expected
    assert abs(chi_squared - 255) < 5 * np.sqrt(2 * 255)


def test_a_batch_of_keys_gives_independent_masks():
    """As under vmap over microbatches, or a fold_in per layer and step."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEYS[0], jnp.arange(64))
    masks = np.asarray(jax.vmap(lambda key: dropout(jnp.ones(4096), 0.5, key, implementation="hash"))(keys)) - 1.0
    correlations = masks @ masks.T / 4096 - np.eye(64)
    assert np.abs(correlations).max() < 6 / np.sqrt(4096)  # the largest of 2016


def test_the_hashed_mask_is_that_of_its_formula():
    """MurmurHash3's finalizer with other constants, in Python's integers: no float or sign slips in."""
    words = [int(word) for word in jax.random.key_data(KEYS[2])]

    def fold(h):
        for word in words:
            h = (h ^ word) * 0x9E3779B1 % 2**32
            h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
            h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
            h ^= h >> 16
        return h

    def keeps(index):
        h = (index ^ fold(0x243F6A88)) * 0x9E3779B1 % 2**32
        h = (h ^ (h >> 15) ^ fold(0xB7E15162)) * 0x85EBCA77 % 2**32
        h = (h ^ (h >> 13)) * 0xC2B2AE3D % 2**32
        return h ^ (h >> 16) >= round(0.3 * 2**32)

    expected = np.array([keeps(i) for i in range(210)]).reshape(5, 6, 7)
    np.testing.assert_array_equal(_dropped(0.3, KEYS[2], (5, 6, 7)) == 0, expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_works_under_transformations(assert_works_under_transformations, implementation):
    x_3 = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 5)), jnp.float32)
    assert_works_under_transformations(lambda x: dropout(x, 0.4, KEYS[0], implementation=implementation), x_3)


def test_the_backward_pass_keeps_the_key_alone():
    def kept(implementation):
        _, vjp = jax.vjp(lambda x: dropout(x, 0.4, KEYS[0], implementation=implementation), jnp.ones((64, 64)))
        return [leaf.shape for leaf in jax.tree.leaves(vjp)]

    assert kept("hash") == [(2,)]
    assert (64, 64) in kept("reference")


@pytest.mark.parametrize("key", [jax.random.PRNGKey(3), jax.random.key(3, impl="rbg")], ids=["raw", "rbg"])
def test_other_kinds_of_keys_work(key):
    assert abs(_scores(_dropped(0.5, key).sum(), ROWS * COLUMNS, 0.5)) < 5


def test_what_makes_no_sense_is_refused():
    x = jnp.ones(3)
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"need a rate in \[0, 1\)"):
            dropout(x, rate, KEYS[0])
    with pytest.raises(ValueError, match="'philox' is not one of"):
        dropout(x, 0.1, KEYS[0], implementation="philox")
    with pytest.raises(TypeError, match="float dtypes"):
        dropout(x.astype(jnp.int32), 0.1, KEYS[0])
