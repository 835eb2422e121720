"""Codes times scales, bit for bit, and the codes and scales that are nearest."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.compression.compressed import Bits
from ryot_jax.compression.quantized import PER_OCTAVE, exponents_of, narrowed, nearest, quantized, scale_of

# (array, exponents of one scale): one for all, a row, a column, pieces that fill an axis and pieces that do not.
SHAPES = [
    ((7, 10), (1, 1)),
    ((7, 10), (7, 1)),
    ((7, 10), (1, 10)),
    ((7, 10), (7, 5)),
    ((7, 10), (7, 3)),
    ((7, 10), (4, 10)),
    ((7, 10), (2, 4)),
    ((2, 3, 9), (2, 3, 2)),
    ((11,), (3,)),
    ((11,), (11,)),
    ((), ()),
]


def exponents(shape, seed=0, low=-80, high=40):
    return np.random.default_rng(seed).integers(low, high, shape)


def codes_of(shape, n_bits, seed=1):
    return np.random.default_rng(seed).integers(0, 2**n_bits, shape)


def spread_by_hand(exponent, shape):
    """The exponent of each element, by its position: pieces of ceil(n / s), the last one shorter."""
    total = np.zeros(shape, int)
    for index in np.ndindex(*shape):
        piece = tuple(i // math.ceil(n / s) for i, n, s in zip(index, shape, np.shape(exponent), strict=True))
        total[index] = exponent[piece]
    return total


def scale_by_hand(exponent):
    """2^(e / 8) with a mantissa of 16 bits, float64."""
    mantissa = np.round(2.0 ** (15 + np.arange(PER_OCTAVE) / PER_OCTAVE)) / 2.0**15
    return np.ldexp(mantissa[exponent % PER_OCTAVE], exponent // PER_OCTAVE)


def test_a_scale_is_a_power_of_the_eighth_root_of_two_with_sixteen_bits():
    e = np.arange(-1000, 1000)
    found = np.float64(scale_of([e.reshape(-1, 1)], (2000, 3)))
    chex.assert_trees_all_equal(found[:, 0], scale_by_hand(e))
    chex.assert_trees_all_close(found[:, 0], 2.0 ** (e / PER_OCTAVE), rtol=2.0**-16)
    assert np.all(found[:, 0] * 2.0 ** (15 - np.floor(e / PER_OCTAVE)) % 1 == 0)


@pytest.mark.parametrize("n_bits", [1, 4, 8])
@pytest.mark.parametrize(("shape", "pieces"), SHAPES)
def test_decode_is_codes_times_scales_bit_for_bit(shape, pieces, n_bits):
    codes, e, offset = codes_of(shape, n_bits), exponents(pieces), (2**n_bits - 1) / 2
    found = quantized(codes, [e], n_bits, offset)
    # Levels of 8 bits times scales of 16: exact in float32.
    wanted = (codes - offset) * scale_by_hand(spread_by_hand(e, shape))
    chex.assert_trees_all_equal(np.float64(found.decode()), wanted)
    chex.assert_trees_all_equal(np.asarray(found.integers()), codes.astype(np.uint16))
    chex.assert_trees_all_equal(jax.jit(lambda q: q.decode())(found), found.decode())
    assert found.shape == shape and found.size == math.prod(shape)


def test_scales_multiply_in_float32_and_so_do_wide_codes():
    shape, offset = (6, 9), 30_000
    codes, rows, columns = codes_of(shape, 16), exponents((6, 1)), exponents((1, 9), 5)
    found = quantized(codes, [rows, columns], 16, offset)
    scale = np.float32(scale_by_hand(rows) * scale_by_hand(columns))
    wanted = np.float32((codes - offset) * np.float64(scale))
    chex.assert_trees_all_equal(np.asarray(found.decode()), wanted)
    chex.assert_trees_all_equal(jax.jit(lambda q: q.decode())(found), found.decode())


@pytest.mark.parametrize(("shape", "pieces"), [case for case in SHAPES if case[0]])
def test_rows_are_those_of_the_whole_array(shape, pieces):
    found = quantized(codes_of(shape, 5), [exponents(pieces)], 5, 15.5)
    ids = jnp.asarray([[shape[0] - 1, 0], [1, 1]])
    for take in (lambda q: q.take(ids), jax.jit(lambda q: q.take(ids))):
        chex.assert_trees_all_equal(take(found), found.decode()[ids])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_dtype_is_a_rounding_of_the_float32_product(dtype):
    found = quantized(codes_of((5, 4), 8), [exponents((5, 1), low=-20, high=20)], 8, 127.5)
    assert found.decode(dtype).dtype == dtype
    chex.assert_trees_all_equal(found.decode(dtype), found.decode().astype(dtype))
    ids = jnp.asarray([3])
    chex.assert_trees_all_equal(found.take(ids, dtype), found.decode(dtype)[ids])


def test_memory_is_the_packed_codes_and_16_bits_a_scale():
    found = quantized(codes_of((7, 10), 3), [exponents((7, 3)), exponents((1, 10))], 3, 3.5)
    assert found.bits() == Bits(8 * 3 * math.ceil(70 / 8), 16 * (21 + 10))


@pytest.mark.parametrize("n_bits", [1, 2, 4])
@pytest.mark.parametrize("offset", [0.0, 1.5, 1.0])
@pytest.mark.parametrize(("shape", "pieces"), [((9, 20), (9, 3)), ((13,), (13,)), ((), ())])
def test_no_code_lies_nearer_than_the_nearest(n_bits, offset, shape, pieces):
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 3
    e = [exponents_of(np.random.default_rng(1).uniform(0.2, 2, pieces))]
    codes = np.asarray(nearest(jnp.asarray(w), e, n_bits, offset))
    assert codes.dtype == np.uint16 and codes.max() < 2**n_bits
    scale = np.broadcast_to(np.float64(scale_of(e, shape)), shape)
    errors = np.abs((np.arange(2**n_bits).reshape(-1, *(1,) * len(shape)) - offset) * scale - w)
    chex.assert_trees_all_close(np.abs((codes - offset) * scale - w), errors.min(0), rtol=1e-6)  # a tie in float32
    if shape == (9, 20):
        assert (codes == 2**n_bits - 1).any() and (w > (2**n_bits - 1 - offset) * scale).any()  # some are cut off


@pytest.mark.parametrize("resolution", [1, 2, 8])
def test_exponents_are_the_nearest_multiples(resolution):
    scales = 10 ** np.random.default_rng(0).uniform(-30, 30, 1000)
    e = np.asarray(exponents_of(scales, resolution))
    assert e.dtype == np.int16
    assert np.all(e % resolution == 0)
    # Half a step, and the error of a log2 in float32 of numbers up to 100.
    assert np.abs(e / PER_OCTAVE - np.log2(scales)).max() <= resolution / 2 / PER_OCTAVE + 1e-5


def test_scales_that_are_not_positive_get_one_that_is():
    assert np.all(np.asarray(scale_of([exponents_of(np.array([0.0, -1.0]))], (2,))) > 0)


@pytest.mark.parametrize(
    ("codes", "n_bits"),
    [([32768, 32769, 32767], 2), ([32768, 32768], 1), ([32768 + 255], 8), ([32768 - 256], 9), ([0, 65535], 16)],
)
def test_narrowed_codes_take_the_fewest_bits_that_hold_them_and_zero(codes, n_bits):
    codes, e = np.asarray(codes), [np.array([3])]
    found = narrowed(codes, e, 32768)
    assert found.n_bits == n_bits
    chex.assert_trees_all_equal(found.decode(), quantized(codes, e, 16, 32768).decode())
    assert 0 <= found.offset < 2**n_bits and float(found.offset).is_integer()
