"""The embedding look-up and its scattered gradient, against NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import embedding
from tests.kernels.ops import base

IMPLEMENTATIONS = base.names("embedding")


def _inputs(shape, vocabulary, width):
    """Table, tokens (many of them repeated) and cotangent."""
    rng = np.random.default_rng(0)
    tokens = np.minimum(rng.integers(0, vocabulary, shape), rng.integers(0, vocabulary, shape)).astype(np.int32)
    table, dy = (rng.normal(size=size).astype(np.float32) for size in ((vocabulary, width), (*shape, width)))
    return table, tokens, dy


def _run(implementation, dtype=None):
    def run(table, tokens, dy):
        y, vjp = jax.vjp(lambda table: embedding(table, tokens, dtype=dtype, implementation=implementation), table)
        return y, vjp(dy.astype(y.dtype))[0]

    return jax.jit(run)


def _scattered(table, tokens, dy):
    """The table's gradient in float64."""
    gradient = np.zeros(table.shape)
    inside = (tokens >= 0) & (tokens < len(table))
    np.add.at(gradient, tokens[inside], np.asarray(dy, np.float64)[inside])
    return gradient


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("sizes", [((1,), 1, 1), ((2, 3), 7, 5), ((3, 131), 33, 70), ((600,), 1000, 3)])
def test_rows_and_scattered_gradient_match_numpy(implementation, sizes):
    table, tokens, dy = _inputs(*sizes)
    y, gradient = _run(implementation)(table, tokens, dy)
    chex.assert_trees_all_equal(y, table[tokens])
    expected = _scattered(table, tokens, dy)
    error = np.linalg.norm(gradient - expected)
    assert error <= 2e-6 * np.linalg.norm(expected)  # sums of up to a few hundred float32 numbers
    assert gradient.dtype == np.float32 and gradient.shape == table.shape


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (2, 7, 9)])
def test_positions_are_added_and_their_gradient_is_summed_over_sequences(implementation, shape):
    table, tokens, dy = _inputs(shape, 11, 5)
    positions = np.random.default_rng(1).normal(size=(shape[-1], 5)).astype(np.float32)

    @jax.jit
    def run(table, positions):
        y, vjp = jax.vjp(lambda *a: embedding(a[0], tokens, a[1], implementation=implementation), table, positions)
        return y, *vjp(jnp.asarray(dy))

    y, dtable, dpositions = run(table, positions)
    chex.assert_trees_all_equal(y, table[tokens] + positions)
    summed = np.asarray(dy, np.float64).reshape(-1, *positions.shape).sum(axis=0)
    # Sums of up to 14 float32 numbers.
    for gradient, expected in ((dtable, _scattered(table, tokens, dy)), (dpositions, summed)):
        assert np.linalg.norm(gradient - expected) <= 1e-6 * np.linalg.norm(expected)
    half = jax.grad(lambda p: jnp.sum(embedding(jnp.asarray(table), tokens, p, implementation=implementation)))
    assert half(positions.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_positions_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="need tokens"):
        embedding(jnp.zeros((4, 3)), jnp.zeros((2, 5), jnp.int32), jnp.zeros((6, 3)))


@pytest.mark.parametrize("dtype", ["bfloat16"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_bfloat16_outcome_is_rounded_and_its_gradient_summed_in_float32(implementation, dtype):
    table, tokens, dy = _inputs((500,), 3, 17)
    y, gradient = _run(implementation, dtype)(table, tokens, dy)
    chex.assert_trees_all_equal(y, table[tokens].astype(dtype))
    expected = _scattered(table, tokens, np.asarray(dy.astype(dtype)))
    # 200 numbers to a sum: bfloat16 sums would be off by 1e-2.
    assert np.linalg.norm(gradient - expected) <= 2e-6 * np.linalg.norm(expected)
    assert _run(implementation)(table.astype(dtype), tokens, dy)[1].dtype == dtype


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_ids_outside_of_the_vocabulary_give_nan_and_no_gradient(implementation):
    table, tokens, dy = _inputs((50,), 9, 4)
    tokens[[3, 11, 12]] = 9, -1, 2**31 - 1
    y, gradient = _run(implementation)(table, tokens, dy)
    assert np.isnan(y).all(axis=1).nonzero()[0].tolist() == [3, 11, 12]
    assert np.isfinite(np.delete(y, [3, 11, 12], axis=0)).all()
    chex.assert_trees_all_close(np.asarray(gradient, np.float64), _scattered(table, tokens, dy), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_nan_of_the_cotangent_reaches_its_row_only(implementation):
    table, tokens, dy = _inputs((20,), 9, 4)
    dy[7, 2] = np.nan
    gradient = _run(implementation)(table, tokens, dy)[1]
    assert np.isnan(gradient[tokens[7], 2])
    assert np.isnan(gradient).sum() == 1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_works_under_transformations(assert_works_under_transformations, implementation):
    _, tokens, _ = _inputs((2, 12), 9, 4)
    tables_3VD = jnp.asarray(np.random.default_rng(1).normal(size=(3, 9, 4)), jnp.float32)
    assert_works_under_transformations(
        lambda table: embedding(table, jnp.asarray(tokens), implementation=implementation), tables_3VD
    )


@pytest.mark.parametrize("implementation", ["cpu"])
def test_the_cpu_kernel_repeats_itself_to_the_bit(implementation):
    inputs = _inputs((5000,), 40, 70)
    run = _run(implementation)
    first = run(*inputs)
    for _ in range(5):
        chex.assert_trees_all_equal(run(*inputs), first)


def test_operands_that_do_not_fit_are_refused():
    table, tokens, _ = _inputs((5,), 9, 4)
    with pytest.raises(ValueError, match="need table"):
        embedding(jnp.asarray(table[0]), jnp.asarray(tokens))
    with pytest.raises(ValueError, match="'xla' is not one of"):
        embedding(jnp.asarray(table), jnp.asarray(tokens), implementation="xla")
    with pytest.raises(TypeError, match="need integer tokens"):
        embedding(jnp.asarray(table), jnp.asarray(tokens, jnp.float32))
    with pytest.raises(TypeError, match="takes float32 and bfloat16"):
        embedding(jnp.asarray(table), jnp.asarray(tokens), dtype=jnp.float16, implementation="cpu")
