"""Signs and the scale that suits them best."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.compression.binary import Binary, binary
from ryot_jax.compression.compressed import is_compressed
from ryot_jax.compression.file import load, save, to_bytes
from ryot_jax.compression.quantized import PER_OCTAVE, scale_of

# Scales are powers of 2^(1/8): the nearest is at most half a step away, and the mean and the table are in float32.
NEAREST = 2.0 ** (0.5 / PER_OCTAVE) * (1 + 1e-4)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def compress(w, **options):
    return binary(**options)({"w": jnp.asarray(w)})["w"]


@pytest.mark.parametrize("shape", [(13, 9), (4, 64), (2, 3, 11), (5, 1), (1, 1)], ids=str)
def test_every_element_becomes_its_sign_times_the_mean_of_its_row(shape):
    w = normal(*shape)
    decoded = np.asarray(compress(w).decode(), np.float64)
    chex.assert_trees_all_equal(np.sign(decoded), np.sign(w).astype(np.float64))
    ratio = np.abs(decoded) / np.abs(w.astype(np.float64)).mean(-1, keepdims=True)
    assert ratio.max() < NEAREST
    assert ratio.min() > 1 / NEAREST
    assert np.all(np.abs(decoded) == np.abs(decoded)[..., :1])


def test_the_scale_is_the_one_with_the_least_square_error():
    w = normal(50, 37) * np.exp(normal(50, 1, seed=1))
    compressed = compress(w)

    def errors(exponents):
        decoded = Binary(compressed.signs, exponents, w.shape).decode()
        return np.square(np.asarray(decoded, np.float64) - w).sum(1)

    best = errors(compressed.exponents)
    for by in (-3, -1, 1, 3):
        assert np.all(errors(compressed.exponents + jnp.int16(by)) > best * (1 - 2e-3)), by
    # Two neighbours may be about as good as each other (hence 0.2 % above), but not for many rows.
    for by in (-1, 1):
        assert np.mean(errors(compressed.exponents + jnp.int16(by)) > best) > 0.95
    # Nor is the root mean square, which keeps a row's norm, as good.
    rms = np.sqrt(np.square(w.astype(np.float64)).mean(1, keepdims=True))
    assert np.square(np.sign(w) * rms - w).sum() > best.sum()


def test_zero_counts_as_positive():
    decoded = np.asarray(compress(np.asarray([[0.0, -0.0, 1.0, -1.0]], np.float32)).decode())
    chex.assert_trees_all_equal(np.sign(decoded), np.asarray([[1, 1, 1, -1]], np.float32))


def test_rows_of_extreme_size_stay_finite():
    w = normal(4, 9) * np.asarray([0, 1e-30, 1, 1e30], np.float32)[:, None]
    decoded = np.asarray(compress(w).decode())
    chex.assert_tree_all_finite(decoded)
    chex.assert_trees_all_close(np.abs(decoded).mean(1), np.abs(w).mean(1), rtol=NEAREST - 1, atol=1e-37)


@pytest.mark.parametrize("shape", [(13, 9), (4, 64), (2, 3, 11)], ids=str)
def test_it_takes_a_bit_an_element_in_whole_bytes_and_sixteen_a_row(shape):
    rows = int(np.prod(shape[:-1]))
    bits = compress(normal(*shape)).bits()
    assert bits.payload == rows * -(-shape[-1] // 8) * 8
    assert bits.side == rows * 16


def test_the_first_element_is_in_the_lowest_bit():
    compressed = compress(np.asarray([[-1, 1, 1, 1, 1, 1, 1, -1, -1]], np.float32))
    assert np.asarray(compressed.signs).tolist() == [[0b10000001, 0b1]]
    chex.assert_trees_all_equal(np.asarray(scale_of((compressed.exponents,), (1, 9))), np.ones((1, 1), np.float32))


def test_take_looks_up_the_bytes_of_its_rows_alone():
    compressed = compress(normal(1000, 64))
    program = jax.jit(lambda c, ids: c.take(ids)).lower(compressed, jnp.arange(3)).compile()
    assert program.cost_analysis()["flops"] < 20_000  # a few for each of 3 * 64 elements; there are 64,000 in all


def test_vectors_are_one_row_where_they_are_asked_for():
    w = normal(9)
    assert not is_compressed(compress(w))
    compressed = compress(w, min_ndim=1)
    chex.assert_shape(compressed.exponents, (1, 1))
    decoded = np.asarray(compressed.decode())
    chex.assert_trees_all_equal(np.sign(decoded), np.sign(w))
    chex.assert_trees_all_equal(np.asarray(compressed.take(jnp.asarray([[7, 2]]))), decoded[[[7, 2]]])
    assert compressed.take(jnp.zeros((0, 2), int)).shape == (0, 2, *decoded.shape[1:])


def test_empty_arrays_are_left_as_they_are():
    assert not is_compressed(compress(np.zeros((0, 5), np.float32)))
    assert not is_compressed(compress(np.zeros((5, 0), np.float32)))


def test_the_scale_follows_parameters_as_they_move():
    transform, before = binary(), {"w": jnp.asarray(normal(6, 8))}
    state = transform.init(before, None)
    felt = jax.jit(transform.fake)({"w": 4 * before["w"]}, state)
    chex.assert_trees_all_close(felt["w"], 4 * transform.apply(before, state)["w"].decode(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_file_gives_the_same_bits_back(tmp_path, dtype):
    params = binary()({"w": jnp.asarray(normal(20, 30), dtype), "deep": [jnp.asarray(normal(3, 5, 16), dtype)]})
    size = save(tmp_path / "model.ryot", params)
    loaded, _ = load(tmp_path / "model.ryot")
    assert isinstance(loaded["w"], Binary)
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, params)
    chex.assert_trees_all_equal(loaded, params)
    chex.assert_trees_all_equal(jax.jit(lambda c: c.decode())(loaded["w"]), params["w"].decode())
    content = (tmp_path / "model.ryot").read_bytes()
    assert (len(content), content) == (size.total, to_bytes(params)[0])
