"""What is kept, where, and what that takes."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ryot_jax.compression.calibration import Moments
from ryot_jax.compression.compressed import is_compressed
from ryot_jax.compression.file import load, save, to_bytes
from ryot_jax.compression.quantize import quantize
from ryot_jax.compression.quantized import Quantized
from ryot_jax.compression.sparse import Sparse, prune
from ryot_jax.compression.transforms import chain

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def kept_by_hand(importance, n, m):
    """Which elements to keep, group by group from the definition."""
    kept = np.zeros(importance.shape, bool)
    for row in np.ndindex(importance.shape[:-1]):
        for start in range(0, importance.shape[-1], m):
            group = importance[row][start : start + m]
            kept[row][start + np.argsort(-group, kind="stable")[:n]] = True
    return kept


def compress(transform, w, stats=None):
    return transform({"w": jnp.asarray(w)}, None if stats is None else {"w": stats})["w"]


@pytest.mark.parametrize("shape", [(6, 16), (3, 5, 8), (5, 1024)], ids=str)
@pytest.mark.parametrize("n, m", [(2, 4), (1, 2), (4, 8), (3, 8), (1, 8)])
def test_exactly_n_of_m_are_kept_and_they_are_the_largest(shape, n, m):
    w = normal(*shape)
    decoded = np.asarray(compress(prune(n=n, m=m), w).decode())
    counts = (decoded != 0).reshape(-1, m).sum(1)
    assert set(counts.tolist()) == {n}
    chex.assert_trees_all_equal(decoded, np.where(kept_by_hand(np.abs(w), n, m), w, 0))


@pytest.mark.parametrize("columns", [5, 6, 7, 9, 11])
@pytest.mark.parametrize("n, m", [(2, 4), (3, 4), (1, 5), (4, 11)])
def test_a_last_group_that_is_shorter_keeps_as_many(columns, n, m):
    w = normal(4, columns)
    compressed = compress(prune(n=n, m=m), w)
    expected = np.where(kept_by_hand(np.abs(w), n, m), w, 0)
    chex.assert_trees_all_equal(np.asarray(compressed.decode()), expected)
    assert compressed.values.size == np.count_nonzero(expected)  # none for what would fill the group up


@pytest.mark.parametrize("columns, k", [(10, 1), (10, 9), (257, 3), (300, 100), (2, 1), (70_000, 2)])
def test_exactly_k_of_a_row_are_kept_and_they_are_the_largest(columns, k):
    w = normal(3, columns)
    decoded = np.asarray(compress(prune(top_k=k), w).decode())
    chex.assert_trees_all_equal((decoded != 0).sum(1), np.full(3, k))
    chex.assert_trees_all_equal(decoded, np.where(kept_by_hand(np.abs(w), k, columns), w, 0))


@settings(max_examples=5, deadline=None)  # every shape is compiled for anew
@given(st.data())
def test_any_pattern_of_any_row(data):
    m = data.draw(st.integers(2, 20), "m")
    n = data.draw(st.integers(1, m - 1), "n")
    columns = data.draw(st.integers(n + 1, 24), "columns")
    w = normal(2, columns, seed=data.draw(st.integers(0, 99), "seed"))
    compressed = compress(prune(n=n, m=m), w)
    expected = np.where(kept_by_hand(np.abs(w), n, m), w, 0)
    chex.assert_trees_all_equal(np.asarray(compressed.decode()), expected)
    chex.assert_trees_all_equal(np.asarray(compressed.take(jnp.asarray([1, 0]))), expected[::-1])


def test_equal_elements_and_zeros_do_not_change_how_many_are_kept():
    for w in (np.zeros((3, 8), np.float32), np.ones((3, 8), np.float32)):
        compressed = compress(prune(n=2, m=4), w)
        chex.assert_shape(compressed.values, (3, 4))
        decoded = np.asarray(compressed.decode())
        chex.assert_trees_all_equal(decoded.sum(1), np.full(3, 4 * w.max()))


def test_with_stats_what_the_loss_minds_is_kept():
    """The moments of inputs that differ in size: Wanda's |w| times their norm."""
    rng = np.random.default_rng(0)
    w = normal(12, 16)
    gradients = rng.normal(size=(400, 12, 16)) * np.exp(rng.normal(size=16)) * np.exp(rng.normal(size=12))[:, None]
    full = Moments(np.einsum("nrc,nsc->rs", gradients, gradients), np.einsum("nrc,nrd->cd", gradients, gradients))
    diagonals = Moments(np.diag(full.rows), np.diag(full.columns))
    importance = np.abs(w) * np.sqrt(full.sensitivity())
    for transform, n, m in ((prune(n=2, m=4, damping=1e-6), 2, 4), (prune(top_k=5, damping=1e-6), 5, 16)):
        expected = np.where(kept_by_hand(importance, n, m), w, 0)
        plain = np.asarray(compress(transform, w).decode())
        assert not np.array_equal(plain, expected)
        for stats in (full, diagonals):
            decoded = np.asarray(compress(transform, w, stats).decode())
            chex.assert_trees_all_equal(decoded, expected)
            assert diagonals.rise(decoded - w) < 0.8 * diagonals.rise(plain - w)


def test_no_other_choice_has_a_smaller_rise():
    """By the sensitivities alone, which is what optimal brain damage goes by."""
    w = normal(1, 8)
    stats = Moments(np.ones(1), np.exp(normal(8, seed=1)).astype(np.float64))
    rise = stats.rise(np.asarray(compress(prune(n=2, m=4, damping=1e-6), w, stats).decode()) - w)
    halves = [list(itertools.combinations(range(start, start + 4), 2)) for start in (0, 4)]
    for first, second in itertools.product(*halves):
        other = np.zeros_like(w)
        other[0, [*first, *second]] = w[0, [*first, *second]]
        assert stats.rise(other - w) >= rise * (1 - 1e-9)


def test_rows_and_arrays_without_gradients_fall_back_to_magnitudes():
    w = normal(3, 8)
    expected = np.asarray(compress(prune(n=2, m=4), w).decode())
    for stats in (Moments(np.zeros(3), np.zeros(8)), Moments(np.asarray([0.0, 0.0, 8.0]), np.ones(8))):
        chex.assert_trees_all_equal(np.asarray(compress(prune(n=2, m=4), w, stats).decode()), expected)


@pytest.mark.parametrize(
    "transform, columns, row_bits",
    [
        (prune(n=2, m=4), 64, 64),  # as many either way
        (prune(n=1, m=4), 64, 32),  # 2 bits an index
        (prune(n=4, m=8), 64, 64),  # 12 bits a group as indices, 8 as a bitmap
        (prune(n=1, m=16), 64, 16),
        (prune(top_k=4), 1024, 40),  # 10 bits an index
        (prune(top_k=500), 1024, 1024),
        (prune(n=2, m=4), 7, 8),  # 4 indices of 2 bits would be longer than 7 bits; both fill a byte
    ],
)
def test_positions_take_what_they_are_said_to(transform, columns, row_bits):
    compressed = compress(transform, normal(6, columns))
    assert compressed.positions.dtype == jnp.uint8
    assert compressed.bits().side == 6 * row_bits == 8 * compressed.positions.nbytes
    assert compressed.bits().payload == 32 * compressed.values.size


@pytest.mark.parametrize(
    "transform, shape",
    [(prune(n=2, m=4), (5, 2)), (prune(n=2, m=4), (5, 1)), (prune(top_k=6), (5, 6)), (prune(top_k=9), (5, 6))],
)
def test_rows_with_nothing_to_lose_are_left_as_they_are(transform, shape):
    w = jnp.asarray(normal(*shape))
    assert transform({"w": w})["w"] is w


@pytest.mark.parametrize("transform", [prune(n=2, m=4), prune(n=4, m=8)], ids=["indices", "bitmap"])
def test_take_decodes_its_rows_alone(transform):
    compressed = compress(transform, normal(1000, 64))
    program = jax.jit(lambda c, ids: c.take(ids)).lower(compressed, jnp.arange(3)).compile()
    assert program.cost_analysis()["flops"] < 20_000  # some tens for each of 3 * 64 elements; there are 64,000 in all


def test_vectors_are_rows_where_they_are_asked_for():
    w = normal(9)
    assert not is_compressed(compress(prune(n=1, m=3), w))
    compressed = compress(prune(n=1, m=3, min_ndim=1), w)
    expected = np.where(kept_by_hand(np.abs(w), 1, 3), w, 0)
    chex.assert_trees_all_equal(np.asarray(compressed.decode()), expected)
    chex.assert_trees_all_equal(np.asarray(compressed.take(jnp.asarray([[7, 2]]))), expected[[[7, 2]]])
    assert compressed.take(jnp.zeros((0, 2), int)).shape == (0, 2, *expected.shape[1:])


def test_the_choice_is_made_anew_as_parameters_move():
    transform, before = prune(n=1, m=2), {"w": jnp.asarray([[1.0, 2.0, 4.0, 3.0]])}
    state = transform.init(before, None)
    felt = jax.jit(transform.fake)({"w": before["w"][:, ::-1]}, state)
    chex.assert_trees_all_equal(felt["w"], jnp.asarray([[0.0, 4.0, 2.0, 0.0]]))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"n": 2},
        {"m": 4},
        {"n": 2, "m": 4, "top_k": 3},
        {"n": 2, "top_k": 3},
        {"n": 4, "m": 4},
        {"n": 0, "m": 4},
        {"n": -1, "m": 4},
        {"top_k": 0},
    ],
    ids=str,
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError):
        prune(**arguments)


def test_values_keep_their_dtype_and_may_be_quantized():
    w = jnp.asarray(normal(8, 16), jnp.bfloat16)
    compressed = compress(prune(n=2, m=4), w)
    assert compressed.values.dtype == jnp.bfloat16
    quantized = compress(chain(prune(n=2, m=4), quantize(8)), w)
    assert isinstance(quantized.values, Quantized)
    chex.assert_trees_all_equal(quantized.decode() != 0, compressed.decode() != 0)
    chex.assert_trees_all_equal(quantized.positions, compressed.positions)


@pytest.mark.parametrize(
    "transform",
    [prune(n=2, m=4), prune(n=4, m=8), prune(top_k=3), chain(prune(n=2, m=4), quantize(5))],
    ids=["indices", "bitmap", "rows", "quantized"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_file_gives_the_same_bits_back(tmp_path, transform, dtype):
    params = transform({"w": jnp.asarray(normal(20, 30), dtype), "deep": jnp.asarray(normal(3, 5, 16), dtype)})
    size = save(tmp_path / "model.ryot", params)
    loaded, _ = load(tmp_path / "model.ryot")
    assert isinstance(loaded["w"], Sparse)
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, params)
    chex.assert_trees_all_equal(loaded, params)
    chex.assert_trees_all_equal(jax.jit(lambda c: c.decode())(loaded["w"]), params["w"].decode())
    content = (tmp_path / "model.ryot").read_bytes()
    assert (len(content), content) == (size.total, to_bytes(params)[0])
