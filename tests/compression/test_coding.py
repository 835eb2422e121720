"""Entropy coding: symbols come back, in about as many bytes as their entropy."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ryot_jax.compression import coding
from ryot_jax.compression.coding import Distribution


def round_trip(symbols, classes):
    """The bytes; the symbols are decoded with distributions that went through their bytes as well."""
    distributions = coding.unpack_distributions(coding.pack_distributions(coding.pooled([(symbols, classes)])))
    data = coding.encode(symbols, classes, distributions)
    decoded = coding.decode(data, classes, distributions)
    np.testing.assert_array_equal(decoded, symbols)
    assert decoded.shape == symbols.shape and decoded.dtype == np.int64
    return data


@st.composite
def symbols_and_classes(draw):
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=12))
    widest = draw(st.sampled_from([0, 1, 3, 200, 40_000]))
    middle = draw(st.integers(-40_000, 40_000))
    symbols = draw(arrays.arrays(np.int64, shape, elements=st.integers(middle - widest, middle + widest)))
    classes = draw(arrays.arrays(np.int64, shape, elements=st.integers(-6, 1100), fill=st.just(3)))
    return symbols, classes


@settings(max_examples=80, deadline=None)
@given(symbols_and_classes())
def test_any_integers_of_any_classes_come_back(case):
    round_trip(*case)


@pytest.mark.parametrize(
    "symbols",
    [[], [7], [-3, -3, -3], [0, 65_535], [-65_535, 65_535], [0] * 1000 + [30_000]],
    ids=["none", "one", "the same", "far apart", "farther apart", "one among many"],
)
def test_few_and_far_symbols_come_back(symbols):
    symbols = np.asarray(symbols, np.int64)
    data = round_trip(symbols, np.zeros_like(symbols))
    if len(np.unique(symbols)) < 2:
        assert data == b""  # what is certain takes no bits


def large_draws():
    rng = np.random.default_rng(0)
    n = 200_000
    return {
        "normal": np.round(rng.normal(scale=3, size=n)),
        "nearly all zero": rng.random(n) < 0.01,
        "one bit": rng.integers(0, 2, n),
        "uniform": rng.integers(-100, 100, n),
        "heavy tails": np.clip(np.round(rng.standard_t(2, n)), -300, 300),
        "skew": rng.geometric(0.3, n),
    }


@pytest.mark.parametrize("name", large_draws())
def test_the_bytes_are_within_a_per_cent_of_the_entropy(name):
    symbols = large_draws()[name].astype(np.int64)
    data = round_trip(symbols, np.zeros_like(symbols))
    assert len(data) <= 1.01 * coding.entropy_bits(symbols) / 8 + 16


def test_a_class_is_coded_with_its_own_distribution():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 50_000)
    symbols = np.round(rng.normal(scale=np.array([0.3, 3, 30])[classes])).astype(np.int64)
    apart, together = round_trip(symbols, classes), round_trip(symbols, np.zeros_like(classes))
    assert len(apart) <= 1.01 * coding.entropy_bits(symbols, classes) / 8 + 16
    assert len(apart) < 0.85 * len(together)


def test_entropy_is_that_of_the_counts():
    rng = np.random.default_rng(1)
    symbols, classes = rng.integers(-3, 4, (30, 40)), rng.integers(0, 2, (30, 40))

    def by_hand(values):
        p = np.array([np.mean(values == value) for value in set(values.tolist())])
        return -len(values) * np.sum(p * np.log2(p))

    assert coding.entropy_bits(symbols) == pytest.approx(by_hand(symbols.ravel()), rel=1e-12)
    wanted = by_hand(symbols[classes == 0]) + by_hand(symbols[classes == 1])
    assert coding.entropy_bits(symbols, classes) == pytest.approx(wanted, rel=1e-12)
    assert coding.entropy_bits(np.arange(8)) == 24.0
    assert coding.entropy_bits(np.zeros(5)) == coding.entropy_bits(np.array([])) == 0.0


def test_costs_are_sixteenths_of_a_bit_of_the_frequencies():
    symbols = np.repeat([-2, -1, 1], [4, 2, 2])
    found = coding.fit(symbols)
    assert found.lowest == -2
    # One bit, two bits, as little as can be for what does not occur, two bits.
    assert found.costs.tolist() == [16, 32, 255, 32]


def test_distributions_pack_and_unpack():
    rng = np.random.default_rng(2)
    wanted = {
        int(name): Distribution(int(lowest), rng.integers(0, 256, length).astype(np.uint8))
        for name, lowest, length in ((-6, -40_000, 1), (0, 0, 300), (640, 65_535, 70_000), (1117, -1, 2))
    }
    found = coding.unpack_distributions(coding.pack_distributions(wanted))
    assert found.keys() == wanted.keys()
    for name, distribution in wanted.items():
        assert found[name].lowest == distribution.lowest
        np.testing.assert_array_equal(found[name].costs, distribution.costs)
        assert found[name].costs.dtype == np.uint8
    assert coding.unpack_distributions(coding.pack_distributions({})) == {}


def test_a_smooth_distribution_takes_less_than_half_a_byte_a_symbol():
    symbols = np.round(np.random.default_rng(3).normal(scale=30, size=100_000)).astype(np.int64)
    distribution = coding.fit(symbols)
    assert len(coding.pack_distributions({0: distribution})) < 0.8 * len(distribution.costs)


def test_the_model_is_made_of_whole_numbers_that_all_machines_agree_on():
    # Between a weight and the next tie lies more than any machine's error of exp2.
    exact = np.exp2(np.longdouble(32) - np.arange(256, dtype=np.longdouble) / 16)
    assert np.abs(exact % 1 - 0.5).min() > 1e-3
    np.testing.assert_array_equal(coding._WEIGHTS, np.round(exact).astype(np.float64))
    assert 65_536 * 2 * coding._WEIGHTS[0] < 2**53  # any sum of them is exact


@pytest.mark.parametrize("axes", ["rows", "columns", "both"])
def test_classes_separate_rows_and_columns_of_different_spread(axes):
    rng = np.random.default_rng(4)
    rows = 2.0 ** rng.integers(-2, 5, 60) if axes in ("rows", "both") else np.ones(60)
    columns = 2.0 ** rng.integers(-2, 5, 80) if axes in ("columns", "both") else np.ones(80)
    levels = np.round(rng.normal(size=(60, 80)) * rows[:, None] * columns)
    classes = coding.classify(levels)
    of_elements = classes.of_elements(levels.shape)
    assert (classes.rows.shape, classes.columns.shape) == ((60,), (80,))
    assert (classes.rows.dtype, classes.columns.dtype) == (np.int8, np.int8)
    # Rows twice as large are two classes apart: half octaves of the root mean square, known to 5 per cent or so.
    # Rounding to integers adds to those below one.
    for found, spread in ((classes.rows, rows), (classes.columns, columns)):
        if len(set(spread)) > 1:
            large = spread >= 2
            offset = found[large] - 2 * np.log2(spread[large])
            assert np.ptp(offset) <= 2
    assert coding.entropy_bits(levels, of_elements) < 0.9 * coding.entropy_bits(levels)


def test_classes_of_even_spread_cost_next_to_nothing_and_gain_nothing():
    levels = np.round(np.random.default_rng(5).normal(scale=3, size=(100, 200)))
    found = coding.classify(levels)
    assert np.ptp(found.rows) <= 1 and np.ptp(found.columns) <= 1
    assert coding.entropy_bits(levels, found.of_elements(levels.shape)) == pytest.approx(
        coding.entropy_bits(levels), rel=0.01
    )


@pytest.mark.parametrize(("shape", "sides"), [((24, 24), (24, 24)), ((23, 50), (23, 1)), ((50, 23), (1, 23))])
def test_axes_with_too_few_codes_have_no_classes(shape, sides):
    levels = np.random.default_rng(6).normal(scale=5, size=shape)
    found = coding.classify(levels)
    assert (len(found.rows), len(found.columns)) == sides
    assert found.of_elements(shape).shape == shape
    # The one class of an axis without any is that of the whole matrix.
    overall = np.round(np.log2(np.mean(levels**2)))
    assert np.abs(np.median(found.of_elements(shape)) - overall) <= 1


def test_classes_of_tiny_and_huge_codes_are_bounded():
    levels = np.zeros((30, 40))
    levels[3] = 1e6
    of_elements = coding.classify(levels).of_elements(levels.shape)
    assert np.all(of_elements[3] == 30)
    assert np.all(np.delete(of_elements, 3, axis=0) == -6)
