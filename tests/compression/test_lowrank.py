"""The best product of two thin matrices, in the norm that the loss gives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.compression.calibration import Moments, calibrate
from ryot_jax.compression.compressed import is_compressed
from ryot_jax.compression.file import load, save, to_bytes
from ryot_jax.compression.lowrank import LowRank, lowrank
from ryot_jax.compression.quantize import quantize
from ryot_jax.compression.transforms import chain

# Factors in float32 (6e-8 a number): sums over up to 40 of them in a backward stable decomposition.
TOLERANCE = 1e-5
# The roots of moments that are damped by 0.05 have condition numbers of up to sqrt(R / 0.05): 28 here, on two sides.
WHITENED_TOLERANCE = 1e-3


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def moments(rows, columns, *, seed=5, decay=2.0, diagonal=False):
    """Of gradients that lie mostly in a few directions, as those of a network do."""
    rng = np.random.default_rng(seed)

    def side(n, other):
        basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
        spectrum = np.arange(1, n + 1) ** -decay
        return other * (basis * spectrum) @ basis.T / spectrum.sum()

    pair = side(rows, 3.0), side(columns, 3.0)  # of the same trace, as moments of the same gradients have
    return Moments(*(np.diag(m) if diagonal else m for m in pair))


def damped_root(second_moments, damping=0.05):
    """The symmetric root in float64, from the definition."""
    matrix = np.diag(second_moments) if second_moments.ndim == 1 else second_moments
    values, vectors = np.linalg.eigh(matrix + damping * np.diag(matrix).mean() * np.eye(len(matrix)))
    return (vectors * np.sqrt(values)) @ vectors.T


def truncated(matrix, rank):
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def decoded(transform, w, stats=None):
    compressed = transform({"w": jnp.asarray(w, jnp.float32)}, None if stats is None else {"w": stats})["w"]
    return np.asarray(compressed.decode(), np.float64)


def off(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (3, 5, 24), (31, 7)], ids=str)
@pytest.mark.parametrize("rank", [1, 4])
def test_without_stats_it_is_the_truncated_decomposition(shape, rank):
    w = normal(*shape)
    expected = truncated(w.reshape(-1, shape[-1]), rank).reshape(shape)
    assert off(decoded(lowrank(rank), w), expected) < TOLERANCE
    assert off(expected, w) > 0.1


@pytest.mark.parametrize("stats", [None, moments(40, 24)], ids=["plain", "whitened"])
def test_a_matrix_of_that_rank_is_exact(stats):
    w = normal(40, 5) @ normal(5, 24, seed=1)
    assert off(decoded(lowrank(5), w, stats), w) < (TOLERANCE if stats is None else WHITENED_TOLERANCE)
    assert off(decoded(lowrank(4), w, stats), w) > 0.05


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("shape", [(40, 24), (4, 6, 30)], ids=str)
def test_with_stats_it_is_the_truncated_decomposition_of_what_the_loss_minds(shape, diagonal):
    w, rank = normal(*shape), 3
    matrix = w.reshape(-1, shape[-1])
    stats = moments(*matrix.shape, diagonal=diagonal)
    rows, columns = damped_root(stats.rows), damped_root(stats.columns)
    whitened = truncated(rows @ matrix @ columns, rank)
    expected = np.linalg.solve(rows, whitened) @ np.linalg.inv(columns)
    assert off(decoded(lowrank(rank), w, stats).reshape(matrix.shape), expected) < WHITENED_TOLERANCE
    assert off(truncated(matrix, rank), expected) > 0.1


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("rank", [1, 4, 10])
def test_with_stats_the_predicted_rise_is_smaller(rank, diagonal):
    w = normal(40, 24)
    stats = moments(40, 24, diagonal=diagonal)
    plain, whitened = (stats.rise(decoded(lowrank(rank), w, given) - w) for given in (None, stats))
    assert whitened < 0.95 * plain
    # What is given up for it is the plain error.
    assert off(decoded(lowrank(rank), w, stats), w) > off(decoded(lowrank(rank), w), w)


def test_no_other_product_of_that_rank_has_a_smaller_rise():
    w, stats, damping = normal(40, 24), moments(40, 24), 1e-6
    best = lowrank(4, damping=damping)({"w": jnp.asarray(w, jnp.float32)}, {"w": stats})["w"]
    left, right = np.asarray(best.left, np.float64), np.asarray(best.right, np.float64)
    rise = stats.rise(left @ right - w)
    rng = np.random.default_rng(1)
    for _ in range(20):
        by = 0.01 * rng.normal(size=left.shape) * np.abs(left).mean(), 0.01 * rng.normal(size=right.shape)
        assert stats.rise((left + by[0]) @ (right + by[1] * np.abs(right).mean()) - w) > rise


def test_the_measured_rise_is_smaller_too():
    """A layer's outputs, with inputs that lie mostly in a few directions: what the moments are there for."""
    rng = np.random.default_rng(0)
    spread = np.linalg.qr(rng.normal(size=(24, 24)))[0] * np.arange(1, 25) ** -1.0
    x = rng.normal(size=(512, 24)) @ spread.T
    w = rng.normal(size=(24, 16))
    y = x @ w + rng.normal(size=(512, 16))  # noise of one: the squared error's half is a negative log-likelihood
    batch = {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(y, jnp.float32)}

    def loss(params, batch):
        return 0.5 * jnp.mean(jnp.sum((batch["x"] @ params["w"] - batch["y"]) ** 2, -1))

    params = {"w": jnp.asarray(w, jnp.float32)}
    stats = calibrate(loss, params, [batch])
    plain, whitened = (
        float(loss({"w": lowrank(3)(params, given)["w"].decode()}, batch) - loss(params, batch))
        for given in (None, stats)
    )
    assert 0 < whitened < 0.8 * plain


def test_singular_values_are_shared_evenly():
    factors = lowrank(4)({"w": jnp.asarray(normal(40, 24), jnp.float32)})["w"]
    left = np.linalg.norm(np.asarray(factors.left), axis=0)
    right = np.linalg.norm(np.asarray(factors.right), axis=1)
    chex.assert_trees_all_close(left, right, rtol=TOLERANCE)


@pytest.mark.parametrize(
    "shape, rank, left_alone",
    [((12, 12), 5, False), ((12, 12), 6, True), ((10, 15), 5, False), ((10, 15), 6, True), ((1, 9), 1, True)],
)
def test_a_matrix_that_would_take_as_many_numbers_is_left_as_it_is(shape, rank, left_alone):
    w = jnp.asarray(normal(*shape), jnp.float32)
    compressed = lowrank(rank)({"w": w})["w"]
    assert is_compressed(compressed) != left_alone
    if left_alone:
        assert compressed is w
    else:
        assert compressed.bits().total < 32 * w.size


@pytest.mark.parametrize("shape", [(40, 24), (100, 10), (7, 9)], ids=str)
@pytest.mark.parametrize("keep", [0.25, 0.5, 0.9])
def test_keep_is_the_share_of_the_numbers(shape, keep):
    w = jnp.asarray(normal(*shape), jnp.float32)
    compressed = lowrank(keep=keep)({"w": w})["w"]
    share = compressed.bits().total / (32 * w.size)
    one_more = sum(shape) / w.size
    assert compressed.left.shape[1] == 1 or share <= keep
    assert keep < share + one_more


def test_without_gradients_it_is_the_plain_decomposition():
    dead = Moments(np.zeros((40, 40)), np.zeros((24, 24)))
    w = normal(40, 24)
    assert off(decoded(lowrank(3), w, dead), truncated(w, 3)) < TOLERANCE
    # The unit of the loss does not matter, however small.
    stats = moments(40, 24)
    small = Moments(1e-30 * stats.rows, 1e-30 * stats.columns)
    assert off(decoded(lowrank(3), w, small), decoded(lowrank(3), w, stats)) < TOLERANCE


def test_zeros_are_exact():
    assert not np.any(decoded(lowrank(2), np.zeros((9, 8))))


def test_factors_have_the_arrays_dtype():
    compressed = lowrank(2)({"w": jnp.asarray(normal(9, 8), jnp.bfloat16)})["w"]
    assert compressed.left.dtype == compressed.right.dtype == jnp.bfloat16
    assert compressed.bits().total == 16 * 2 * (9 + 8)


def test_take_looks_up_rows_of_the_left_factor_alone():
    compressed = lowrank(2)({"w": jnp.asarray(normal(1000, 32), jnp.float32)})["w"]
    program = jax.jit(lambda c, ids: c.take(ids)).lower(compressed, jnp.arange(3)).compile()
    assert program.cost_analysis()["flops"] < 1000  # 2 * 3 * 2 * 32, and the checks of the ids; the whole is 128,000


def test_whitening_is_felt_within_a_compiled_program():
    params, stats = {"w": jnp.asarray(normal(40, 24), jnp.float32)}, {"w": moments(40, 24)}
    transform = lowrank(3)
    state = transform.init(params, stats)
    felt = jax.jit(transform.fake)(params, state)
    chex.assert_trees_all_close(felt["w"], transform.apply(params, state)["w"].decode(), atol=WHITENED_TOLERANCE)
    assert off(np.asarray(felt["w"]), decoded(lowrank(3), params["w"])) > 0.1


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"rank": 3, "keep": 0.5},
        {"rank": 0},
        {"rank": -1},
        {"keep": 0.0},
        {"keep": 1.0},
        {"rank": 2, "damping": 0.0},
    ],
    ids=str,
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError):
        lowrank(**arguments)


@pytest.mark.parametrize("transform", [lowrank(3), chain(lowrank(3), quantize(5))], ids=["plain", "quantized"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_file_gives_the_same_bits_back(tmp_path, transform, dtype):
    params = transform({"w": jnp.asarray(normal(20, 30), dtype), "deep": jnp.asarray(normal(3, 5, 16), dtype)})
    size = save(tmp_path / "model.ryot", params, {"rank": 3})
    loaded, metadata = load(tmp_path / "model.ryot")
    assert metadata == {"rank": 3}
    assert isinstance(loaded["w"], LowRank)
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, params)
    chex.assert_trees_all_equal(loaded, params)
    chex.assert_trees_all_equal(jax.jit(lambda c: c.decode())(loaded["w"]), params["w"].decode())
    content = (tmp_path / "model.ryot").read_bytes()
    assert (len(content), content) == (size.total, to_bytes(params, {"rank": 3})[0])
