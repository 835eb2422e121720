"""Rounding with feedback against its definition in float64, element by element, and its purpose: less weighed error."""

import chex
import numpy as np
import pytest

from ryot_jax.compression.calibration import Moments
from ryot_jax.compression.feedback import factor, round_with_feedback

SIDES = ["none", "rows", "columns", "both"]
DAMPING = 0.05


def damped(moments):
    """In full, with the damping added by hand."""

    def full(side):
        matrix = side if side.ndim == 2 else np.diag(side)
        return matrix + DAMPING * np.diag(matrix).mean() * np.eye(len(matrix))

    return Moments(full(moments.rows), full(moments.columns))


def unit(U, n):
    return np.eye(n) + (0 if U is None else U)


def weights(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def error_of(codes, w, step, offset):
    return (codes.astype(np.float64) - offset) * step - w


@pytest.mark.parametrize("sides", SIDES)
def test_factors_multiply_to_the_damped_moments(correlated, sides):
    moments = correlated(9, 6)
    factors, wanted = factor(moments, DAMPING, sides=sides), damped(moments)
    for U, D, full, feedback in (
        (factors.rows_U, factors.rows_D, wanted.rows, sides in ("rows", "both")),
        (factors.columns_U, factors.columns_D, wanted.columns, sides in ("columns", "both")),
    ):
        assert (U is not None) == feedback
        if feedback:
            chex.assert_trees_all_equal(np.tril(U), np.zeros_like(U))  # strictly upper
            whole = unit(U, len(D))
            chex.assert_trees_all_close(whole @ np.diag(D) @ whole.T, full, rtol=1e-10)
        else:
            chex.assert_trees_all_close(D, np.diag(full), rtol=1e-12)
    assert factors.trace == pytest.approx(wanted.trace, rel=1e-12)


def test_a_diagonal_side_has_no_feedback_and_a_side_without_gradients_has_steps():
    moments = Moments(np.array([3.0, 0.0, 1.0]), np.diag([4.0, 0.0]))
    factors = factor(moments, 0.0)
    assert factors.rows_U is None
    chex.assert_trees_all_equal(factors.columns_U, np.zeros((2, 2)))
    chex.assert_tree_all_finite(factors.step_scales())
    assert min(scale.min() for scale in factors.step_scales()) > 0
    # Where there is no gradient at all no step is too coarse.
    nothing = factor(Moments(np.zeros(3), np.zeros((2, 2))), DAMPING)
    rows, columns = nothing.step_scales()
    chex.assert_tree_all_finite((rows, columns))
    assert rows.min() * columns.min() > 1e6


@pytest.mark.parametrize("sides", SIDES)
def test_step_scales_make_every_elements_error_cost_the_same(correlated, sides):
    moments = correlated(9, 6)
    factors = factor(moments, DAMPING, sides=sides)
    rows, columns = factors.step_scales()
    t = 0.3
    step = t * rows[:, None] * columns
    costs = factors.rows_D[:, None] * factors.columns_D * step**2 / factors.trace
    chex.assert_trees_all_close(costs, np.full((9, 6), t**2), rtol=1e-12)
    # An error that feedback leaves is eta = (I + U^R)^T E (I + U^C), uniform within a step. With feedback along no or
    # one side, the other one's moments count as diagonal.
    wanted = damped(moments)
    weighed = Moments(
        wanted.rows if factors.rows_U is not None else np.diag(factors.rows_D),
        wanted.columns if factors.columns_U is not None else np.diag(factors.columns_D),
    )
    rng = np.random.default_rng(0)
    rises = []
    for _ in range(200):
        eta = rng.uniform(-0.5, 0.5, size=(9, 6)) * step
        error = np.linalg.solve(unit(factors.rows_U, 9).T, eta) @ np.linalg.inv(unit(factors.columns_U, 6))
        rises.append(weighed.rise(error))
        wanted_rise = 0.5 * np.sum(factors.rows_D[:, None] * factors.columns_D * eta**2) / factors.trace
        assert rises[-1] == pytest.approx(wanted_rise, rel=1e-9)
    # t^2 / 24 a parameter: squares of 200 * 54 uniform numbers, whose mean is known to 0.9 per cent (one sigma).
    assert np.mean(rises) / 54 == pytest.approx(t**2 / 24, rel=0.03)


def by_definition(w, step, factors, n_bits, offset):
    """(codes, least distance to a tie): eta = (I + U^R)^T E (I + U^C) of each element made small in its turn."""
    w, step = np.float64(w), np.broadcast_to(np.float64(step), w.shape)
    rows, columns = unit(factors.rows_U, w.shape[0]), unit(factors.columns_U, w.shape[1])
    error, codes, margin = np.zeros(w.shape), np.zeros(w.shape, int), np.inf
    for i, j in np.ndindex(w.shape):
        # E_ij is zero so far, and so are all later ones: this is what is already fixed.
        fixed = rows[:, i] @ error @ columns[:, j]
        scaled = (w[i, j] - fixed) / step[i, j] + offset
        codes[i, j] = np.clip(np.round(scaled), 0, 2**n_bits - 1)
        margin = min(margin, abs(scaled % 1 - 0.5))
        error[i, j] = (codes[i, j] - offset) * step[i, j] - w[i, j]
    return codes, margin


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize(("n_bits", "offset", "step"), [(2, 1.5, 0.9), (4, 7.5, 0.3), (16, 2**15, 0.05)])
def test_codes_are_those_of_the_definition(correlated, sides, n_bits, offset, step):
    factors = factor(correlated(9, 7), DAMPING, sides=sides)
    steps = np.float32(step * np.random.default_rng(1).uniform(0.5, 1.5, size=(9, 7)))
    compared = 0
    for seed in range(20):
        w = weights(9, 7, seed)
        wanted, margin = by_definition(w, steps, factors, n_bits, offset)
        codes = round_with_feedback(w, steps, factors, n_bits, offset)
        assert codes.dtype == np.uint16
        # float32 numbers near 2^15 are 2^-8 apart: it decides ties that are nearer than that as it likes.
        if margin > 2.0**-8:
            chex.assert_trees_all_equal(codes.astype(int), wanted)
            compared += 1
    assert compared >= 3


def test_the_arms_of_that_comparison_differ(correlated):
    w = weights(9, 7)
    found = {
        round_with_feedback(w, 0.3, factor(correlated(9, 7), DAMPING, sides=sides), 4, 7.5).tobytes() for sides in SIDES
    }
    assert len(found) == len(SIDES)


@pytest.mark.parametrize("seed", range(3))
def test_feedback_lowers_the_weighed_error_and_along_both_sides_the_most(correlated, seed):
    moments, w = correlated(40, 30, seed), weights(40, 30, seed)
    rise = {}
    for sides in SIDES:
        codes = round_with_feedback(w, 0.2, factor(moments, DAMPING, sides=sides), 8, 127.5)
        rise[sides] = moments.rise(error_of(codes, w, 0.2, 127.5))
    assert rise["both"] < min(rise["rows"], rise["columns"])
    assert max(rise["rows"], rise["columns"]) < 0.7 * rise["none"]


@pytest.mark.parametrize("matrices", [False, True])
def test_diagonal_moments_give_the_nearest_codes(matrices):
    rng = np.random.default_rng(0)
    sides = rng.uniform(1, 5, 20), rng.uniform(1, 5, 12)
    moments = Moments(*(np.diag(side) if matrices else side for side in sides))
    w, step = weights(20, 12), np.float32(rng.uniform(0.1, 0.3, size=(20, 1)))
    codes = round_with_feedback(w, step, factor(moments, DAMPING), 4, 7.5)
    chex.assert_trees_all_equal(codes, np.clip(np.round(w / step + 7.5), 0, 15).astype(np.uint16))


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("n_bits", [1, 3, 8, 16])
def test_codes_stay_in_range(correlated, sides, n_bits):
    w, top = weights(12, 10) * 100, 2**n_bits - 1
    codes = round_with_feedback(w, 1e-3, factor(correlated(12, 10), DAMPING, sides=sides), n_bits, top / 2)
    assert codes.shape == w.shape
    assert (codes.min(), codes.max()) == (0, top)
