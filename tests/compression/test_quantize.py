"""Quantizers: their grids are the best there are, and errors cost what was asked for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy.stats import norm

from ryot_jax.compression.calibration import Moments
from ryot_jax.compression.coding import entropy_bits
from ryot_jax.compression.compressed import is_compressed
from ryot_jax.compression.feedback import factor
from ryot_jax.compression.quantize import _BEST_STEP, balanced, best_clip, quantize
from ryot_jax.compression.quantized import PER_OCTAVE, Quantized

DAMPING = 0.05


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def mean_square(x):
    return float(np.mean(np.square(np.asarray(x, np.float64))))


def distortion(step, bits):
    """Mean square error of a normal variable on 2^bits levels that are `step` apart, from its integrals by parts."""
    levels = (np.arange(2**bits) - (2**bits - 1) / 2) * step
    edges = np.concatenate([[-40.0], (levels[1:] + levels[:-1]) / 2, [40.0]])  # 40 deviations: beyond is nothing
    share, mean = np.diff(norm.cdf(edges)), -np.diff(norm.pdf(edges))
    square = share - np.diff(edges * norm.pdf(edges))
    return np.sum(square - 2 * levels * mean + levels**2 * share)


@pytest.mark.parametrize("bits", _BEST_STEP)
def test_the_steps_are_those_of_least_error_for_a_normal_distribution(bits):
    step = _BEST_STEP[bits]
    best = scipy.optimize.minimize_scalar(
        distortion, bounds=(step / 2, step * 2), args=(bits,), method="bounded", options={"xatol": 1e-7}
    )
    # The table has four decimals.
    assert step == pytest.approx(best.x, abs=0.6e-4)
    assert set(_BEST_STEP) == set(range(1, 9))


@pytest.mark.parametrize("bits", _BEST_STEP)
def test_the_error_of_normal_numbers_is_the_least_that_theory_allows(bits):
    step, x = _BEST_STEP[bits], np.random.default_rng(0).normal(size=(300, 400))
    w = jnp.asarray(x / np.sqrt(np.mean(x**2, 0)) / step, jnp.float32)  # the best step is one, which is a scale
    found = quantize(bits)({"w": w})["w"]
    assert found.n_bits == bits
    chex.assert_trees_all_equal(found.exponents, (jnp.zeros((1, 400), jnp.int16),))
    # With 8 bits a tenth of the error is that of a few numbers beyond the grid: they make it vary by a few per cent.
    assert mean_square(found.decode() - w) == pytest.approx(distortion(step, bits) / step**2, rel=0.05)


def test_a_bit_more_makes_the_error_four_times_smaller():
    w = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, size=(200, 300)), jnp.float32)
    # sqrt(3) deviations are the whole range of a uniform distribution: nothing is cut off.
    errors = [mean_square(quantize(bits, clip=2.0)({"w": w})["w"].decode() - w) for bits in range(4, 9)]
    # Where the range ends within a cell, with 16 levels, the error is not quite uniform.
    chex.assert_trees_all_close(np.divide(errors[:-1], errors[1:]), np.full(4, 4.0), rtol=0.05)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("clip", [1.0, 2.5])
def test_clip_is_half_the_range_in_deviations(bits, clip):
    w = normal(50, 1000)
    decoded = quantize(bits, clip=clip)({"w": w})["w"].decode()
    deviation = np.sqrt(np.mean(np.square(np.float64(w)), 0))
    # The outermost level lies half a step within the range; scales are 2^(1/16) off at most.
    reached = np.log2(np.abs(np.float64(decoded)).max(0) / (clip * deviation * (1 - 2.0**-bits)))
    cut = (np.abs(w) > 1.1 * clip * deviation).any(0)
    assert cut.sum() > 100
    assert np.abs(reached[cut]).max() <= 1 / 16 + 1e-6 and reached.max() <= 1 / 16 + 1e-6


@pytest.mark.parametrize("bits", _BEST_STEP)
def test_the_best_clip_is_the_range_that_is_taken_without_one(bits):
    w = {"w": normal(300, 400)}
    chex.assert_trees_all_equal(quantize(bits, clip=best_clip(bits))(w), quantize(bits)(w))


@pytest.mark.parametrize(
    ("shape", "group", "scales"),
    [
        ((20, 30), 0, (1, 30)),
        ((30, 20), 0, (30, 1)),
        ((20, 30), 5, (4, 30)),
        ((30, 20), 7, (30, 3)),
        ((30, 20), 64, (30, 1)),
        ((30, 20), 1, (30, 20)),
        ((3, 9, 11), 4, (3, 3, 11)),
    ],
)
def test_groups_lie_along_the_shorter_side_and_have_scales_of_their_own(shape, group, scales):
    w = normal(*shape) * jnp.exp(normal(*shape, seed=1))
    (exponents,) = quantize(4, group=group)({"w": w})["w"].exponents
    assert exponents.shape == scales
    axis = next(i for i in (len(shape) - 2, len(shape) - 1) if shape[i] == min(shape[-2:]))
    columns = np.moveaxis(np.float64(w), axis, -1)
    piece = -(-shape[axis] // scales[axis])
    deviations = [
        np.sqrt(np.mean(columns[..., start : start + piece] ** 2, -1)) for start in range(0, shape[axis], piece)
    ]
    wanted = np.moveaxis(PER_OCTAVE * np.log2(_BEST_STEP[4] * np.stack(deviations, -1)), -1, axis)
    assert np.abs(np.asarray(exponents) - wanted).max() <= 0.5 + 1e-4  # the nearest, but for float32


def test_a_large_element_spoils_its_own_group_alone():
    w = normal(64, 40).at[:, 3].multiply(50.0)
    errors = [mean_square((quantize(4, group=n)({"w": w})["w"].decode() - w)[:, 8:]) for n in (0, 8)]
    assert errors[1] < 0.1 * errors[0]


def test_arrays_of_few_axes_are_left_as_they_are():
    params = {"w": normal(8, 8), "b": normal(8), "scale": jnp.float32(3)}
    found = quantize(4)(params)
    assert is_compressed(found["w"]) and found["b"] is params["b"] and found["scale"] is params["scale"]
    assert is_compressed(quantize(4, min_ndim=1)(params)["b"])
    assert not is_compressed(quantize(4, min_ndim=3)(params)["w"])


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_widths_that_no_grid_is_known_for_are_refused(bits):
    with pytest.raises(ValueError, match="must lie in 1 to 8"):
        quantize(bits)


@pytest.mark.parametrize("feedback", ["rows", "columns", "both"])
def test_feedback_needs_moments_and_lowers_the_predicted_rise(correlated, feedback):
    w, moments = normal(24, 20), correlated(24, 20)
    with pytest.raises(ValueError, match="needs the stats of `calibrate`"):
        quantize(4, feedback=feedback)({"w": w})
    with pytest.raises(ValueError, match="needs the stats of `calibrate`"):
        quantize(4, feedback=feedback)({"w": w}, {"another": moments})
    nearest = quantize(4)({"w": w})["w"]
    found = quantize(4, feedback=feedback)({"w": w}, {"w": moments})["w"]
    chex.assert_trees_all_equal(found.exponents, nearest.exponents)
    assert moments.rise(found.decode() - w) < 0.8 * moments.rise(nearest.decode() - w)
    # Without moments that differ by direction it is the nearest code.
    even = Moments(np.eye(24), np.eye(20) * 24 / 20)
    chex.assert_trees_all_equal(quantize(4, feedback=feedback)({"w": w}, {"w": even})["w"], nearest)


def test_compiled_rounding_is_the_same_bit_for_bit(correlated):
    w, stats = {"w": normal(24, 20)}, {"w": correlated(24, 20)}
    plain, with_feedback, even = quantize(3, group=6), quantize(3, group=6, feedback="both"), balanced(1e-5)
    state = plain.init(w, None)
    chex.assert_trees_all_equal(jax.jit(plain.apply)(w, state), plain.apply(w, state))
    for transform in (with_feedback, even):
        state = transform.init(w, stats)
        compiled = jax.jit(transform.traceable)(w, state)
        chex.assert_trees_all_equal(compiled, transform.traceable(w, state))
        # What runs within a program takes the nearest code.
        assert not np.array_equal(compiled["w"].decode(), transform.apply(w, state)["w"].decode())
    nearest = quantize(3, group=6)
    chex.assert_trees_all_equal(
        jax.jit(with_feedback.traceable)(w, with_feedback.init(w, stats)), nearest.apply(w, nearest.init(w, None))
    )


def step_of(compressed):
    """The step of each element: what a code of one more adds."""
    exponents = sum(np.broadcast_to(np.int64(e), compressed.shape) for e in compressed.exponents)
    return 2.0 ** (exponents / PER_OCTAVE)


@pytest.mark.parametrize("feedback", ["none", "rows", "columns", "both"])
@pytest.mark.parametrize("resolution", [1, 2, 4])
def test_every_parameters_error_is_expected_to_cost_the_same(correlated, feedback, resolution):
    moments, rise = correlated(30, 20), 1e-5
    found = balanced(rise, feedback=feedback, scale_resolution=resolution)({"w": normal(30, 20)}, {"w": moments})["w"]
    factors = factor(moments, DAMPING, sides=feedback)
    costs = factors.rows_D[:, None] * factors.columns_D * step_of(found) ** 2 / factors.trace / 24
    # Two scales are rounded to half a multiple of `resolution` eighths, and a third to half an eighth; costs go by
    # their squares.
    assert np.abs(np.log2(costs / rise)).max() <= 2 * (resolution + 0.5) / PER_OCTAVE + 1e-3
    assert len(np.unique(found.exponents[0])) > 1 and len(np.unique(found.exponents[1])) > 1


@pytest.mark.parametrize("shape", [(60, 50), (5, 12, 50)])
def test_the_predicted_rise_is_what_was_asked_for(correlated, shape):
    moments, rise, w = correlated(60, 50), 1e-6, normal(*shape)
    found = balanced(rise, scale_resolution=1)({"w": w}, {"w": moments})["w"]
    assert found.shape == shape
    side = [m + DAMPING * np.diag(m).mean() * np.eye(len(m)) for m in (moments.rows, moments.columns)]
    predicted = Moments(*side).rise(found.decode() - w)
    # 3000 squares of uniform numbers, 2 per cent, and a common factor of the steps rounded to a sixteenth of an octave.
    assert predicted / (rise * w.size) == pytest.approx(1.0, rel=0.13)
    # Moments less their damping mind less.
    assert moments.rise(found.decode() - w) < predicted


@pytest.mark.parametrize("shape", [(40,), (1,), ()])
def test_vectors_and_numbers_get_a_step_for_each_element(shape):
    rng = np.random.default_rng(0)
    n = int(np.prod(shape))
    columns = rng.uniform(0.1, 10, n)
    moments, w, rise = Moments(np.array([columns.sum()]), columns), normal(*shape), 1e-5
    found = balanced(rise)({"w": w}, {"w": moments})["w"]
    assert isinstance(found, Quantized) and found.decode().shape == found.shape == shape
    costs = (columns + DAMPING * columns.mean()) * np.ravel(step_of(found)) ** 2 / 24
    assert np.abs(np.log2(costs / rise)).max() <= 2 / PER_OCTAVE + 1e-3  # scales are multiples of a quarter octave
    assert np.all(np.abs(found.decode() - w) <= step_of(found) / 2 * (1 + 1e-3))


def test_four_times_the_rise_takes_a_bit_less_for_each_parameter(correlated):
    w, stats = {"w": normal(60, 50)}, {"w": correlated(60, 50)}
    fine, coarse = (balanced(rise)(w, stats)["w"] for rise in (1e-4, 4e-4))
    chex.assert_trees_all_equal(coarse.exponents[0], fine.exponents[0] + PER_OCTAVE)
    chex.assert_trees_all_equal(coarse.exponents[1], fine.exponents[1])
    bits = [entropy_bits(np.asarray(q.integers())) / 3000 for q in (fine, coarse)]
    # Moments that are all larger, as of another loss's unit, are a matter of the same one scale.
    larger = Moments(1e6 * stats["w"].rows, 1e6 * stats["w"].columns)
    chex.assert_trees_all_equal(balanced(1e-4)(w, {"w": larger})["w"].exponents[1], fine.exponents[1])
    # The entropy of a sample of 3000 on some hundred levels misses a few hundredths of a bit of the true one.
    assert bits[0] - bits[1] == pytest.approx(1.0, abs=0.1)


def test_codes_take_no_more_bits_than_the_largest_needs(correlated):
    w = normal(30, 20).at[4, 5].set(300.0)  # a large element is not cut off
    found = balanced(1e-3)({"w": w}, {"w": correlated(30, 20)})["w"]
    codes = np.asarray(found.integers(), int)
    assert 2 ** (found.n_bits - 1) <= np.ptp(codes) < 2**found.n_bits
    assert float(found.decode()[4, 5]) == pytest.approx(300.0, abs=2 * step_of(found)[4, 5])


@pytest.mark.parametrize("shape", [(30, 20), (20,), ()])
def test_a_rise_that_is_too_small_for_16_bits_takes_the_finest_steps_that_hold_the_array(correlated, shape):
    w = normal(*shape)
    moments = correlated(30, 20)
    if len(shape) < 2:
        columns = np.linspace(1, 20, w.size)
        moments = Moments(columns.sum(keepdims=True), columns)
    found = balanced(1e-30)({"w": w}, {"w": moments})["w"]
    codes = np.asarray(found.integers(), int) - found.offset
    assert 2**13 < np.abs(codes).max() < 2**15 - 1  # none is cut off
    # Feedback adds some steps to the half of one.
    assert np.all(np.abs(found.decode() - w) <= 8 * step_of(found))


def test_an_array_that_the_loss_does_not_mind_takes_one_code():
    found = balanced(1e-6)({"w": normal(6, 5)}, {"w": Moments(np.zeros((6, 6)), np.zeros((5, 5)))})["w"]
    assert found.n_bits == 1 and len(np.unique(found.integers())) == 1
    chex.assert_trees_all_equal(found.decode(), jnp.zeros((6, 5)))


@pytest.mark.parametrize("rise", [0.0, -1e-3, float("nan")])
def test_a_rise_that_is_not_above_zero_is_refused(rise):
    with pytest.raises(ValueError, match="must be above zero"):
        balanced(rise)


@pytest.mark.parametrize("feedback", ["none", "both"])
def test_balanced_steps_need_moments_of_every_array(correlated, feedback):
    with pytest.raises(ValueError, match="needs the stats of `calibrate`"):
        balanced(1e-3, feedback=feedback)({"w": normal(4, 3), "b": normal(3)}, {"w": correlated(4, 3)})
