"""Statistics against brute force and hand calculation, and the false-positive rate on simulated A/A runs."""

import itertools
import math

import chex
import numpy as np
import pytest

from ryot_jax.comparison.statistics import paired_difference, sign_flip_p, speed_up, t_interval

RATIOS = np.array([1.31, 1.02, 0.97, 1.24, 1.11])


def test_speed_up_is_the_geometric_mean_with_a_t_interval_on_logs():
    found = speed_up(RATIOS * 3.0, np.full(5, 3.0))
    logs = np.log(RATIOS)
    # 2.776445 is the 97.5 % quantile of Student's t with 4 degrees of freedom, from a table.
    half = 2.7764451 * logs.std(ddof=1) / math.sqrt(5)
    chex.assert_trees_all_close(found.estimate, math.exp(logs.mean()), rtol=1e-12)
    chex.assert_trees_all_close(found.ci95, (math.exp(logs.mean() - half), math.exp(logs.mean() + half)), rtol=1e-7)
    assert (found.pairs, found.median) == (5, pytest.approx(1.11))


def test_swapping_the_arms_inverts_the_speed_up():
    there, back = speed_up(RATIOS, np.ones(5)), speed_up(np.ones(5), RATIOS)
    chex.assert_trees_all_close(there.estimate, 1 / back.estimate, rtol=1e-12)
    chex.assert_trees_all_close(there.ci95, (1 / back.ci95[1], 1 / back.ci95[0]), rtol=1e-12)


@pytest.mark.parametrize("n", [2, 5, 10])
def test_sign_flip_p_equals_enumeration_of_all_signs(n):
    values = np.random.default_rng(n).normal(0.3, 1.0, n)
    means = [np.mean(values * signs) for signs in itertools.product((-1, 1), repeat=n)]
    brute = np.mean(np.abs(means) >= abs(values.mean()) - 1e-12)
    chex.assert_trees_all_close(sign_flip_p(values), brute, rtol=1e-9)


def test_sign_flip_p_of_sixteen_like_signs_is_the_least_there_is():
    assert sign_flip_p(np.linspace(0.1, 0.2, 16)) == pytest.approx(2 / 2**16)
    assert sign_flip_p(np.linspace(0.1, 0.2, 40)) < 1e-4


def test_paired_difference_is_optimized_minus_baseline():
    baseline = np.array([3.0, 4.0, 5.0, 6.0])
    found = paired_difference(baseline, baseline + np.array([0.1, 0.2, 0.3, 0.4]))
    # Standard error sqrt(0.05 / 3) / 2 = 0.0645497, t quantile with 3 degrees of freedom 3.182446.
    chex.assert_trees_all_close(found.estimate, 0.25, rtol=1e-12)
    chex.assert_trees_all_close(found.ci95, (0.25 - 0.2054260, 0.25 + 0.2054260), atol=1e-6)
    assert found.pairs == 4 and found.correlation == pytest.approx(1.0)


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0, 2.0], [1.0, math.nan], [1.0, math.inf]])
def test_no_interval_is_claimed_where_the_data_allow_none(values):
    assert t_interval(values) is None


def test_degenerate_speed_ups_say_what_they_can_and_no_more():
    one = speed_up([2.0], [1.0])
    assert (one.estimate, one.ci95, one.p_sign_flip) == (pytest.approx(2.0), None, 1.0)
    for baseline, optimized in (([], []), ([1.0, math.nan], [1.0, 1.0]), ([1.0, 1.0], [0.0, 1.0])):
        assert speed_up(baseline, optimized).estimate is None
    assert speed_up([2.0, 2.0], [1.0, 1.0]).ci95 is None
    assert paired_difference([1.0, math.nan], [1.0, 1.0]).estimate is None
    with pytest.raises(ValueError, match="one length"):
        speed_up([1.0, 2.0], [1.0])


def _drifting_run(rng, pairs: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of both arms in blocks that alternate in random order on a machine whose speed wanders."""
    speed = np.ones(2 * pairs)
    for i in range(1, 2 * pairs):
        speed[i] = 1.0 + 0.9 * (speed[i - 1] - 1.0) + 0.02 * rng.standard_t(5)
    seconds = np.exp(speed) * (1.0 + 0.005 * rng.standard_t(5, 2 * pairs))
    first, second = seconds[0::2], seconds[1::2]
    swap = rng.integers(0, 2, pairs).astype(bool)
    baseline, optimized = np.where(swap, second, first), np.where(swap, first, second)
    return baseline * (1.0 + effect), optimized


def test_identical_arms_on_a_drifting_machine_rarely_look_different():
    rng = np.random.default_rng(0)
    simulations = 400
    wrong = covered = 0
    for _ in range(simulations):
        low, high = speed_up_interval(*_drifting_run(rng, 16, 0.0))
        wrong += not low <= 1.0 <= high
        low, high = speed_up_interval(*_drifting_run(rng, 16, 0.05))
        covered += low <= 1.05 <= high
    # Nominal 5 %; the standard error of a rate from 400 runs is 1.1 %.
    assert wrong / simulations <= 0.08
    assert covered / simulations >= 0.92


def speed_up_interval(baseline: np.ndarray, optimized: np.ndarray) -> tuple[float, float]:
    """The interval alone: the sign-flip test would take most of the simulation's time."""
    low, high = t_interval(np.log(baseline / optimized))
    return math.exp(low), math.exp(high)
