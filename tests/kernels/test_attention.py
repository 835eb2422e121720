"""Causal attention against a float64 reference written in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import attention, cpu

IMPLEMENTATIONS = [
    "reference",
    "xla",
    pytest.param("cpu", marks=pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels")),
]
# B, T, H, K: the C++ kernel takes 24 queries at a time and panels of 16 or 32 columns; the blocked one T/4
# queries.
SIZES = [
    (1, 1, 1, 1),
    (2, 3, 1, 2),
    (2, 7, 3, 5),
    (1, 25, 2, 8),
    (2, 33, 2, 16),
    (1, 131, 2, 33),
    (3, 64, 4, 32),
]
TOLERANCE = 3e-6  # float32 sums of up to 131 terms, sqrt(131) * 6e-8, and the kernels' exp at 2e-7


def _inputs(sizes, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return tuple((scale * rng.normal(size=sizes)).astype(np.float32) for _ in range(4))  # q, k, v, cotangent


def _float64(q_BTHK, k_BTHK, v_BTHK, do_BTHK):
    """Output and gradients from the textbook formulas, one head at a time."""
    o, dq, dk, dv = (np.zeros(q_BTHK.shape) for _ in range(4))
    batch, length, heads, width = q_BTHK.shape
    for b in range(batch):
        for h in range(heads):
            q, k, v, do = (a[b, :, h].astype(np.float64) for a in (q_BTHK, k_BTHK, v_BTHK, do_BTHK))
            scores = q @ k.T / np.sqrt(width)
            scores[np.triu_indices(length, 1)] = -np.inf
            p = np.exp(scores - scores.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            dp = do @ v.T
            ds = p * (dp - (dp * p).sum(axis=1, keepdims=True)) / np.sqrt(width)
            o[b, :, h], dq[b, :, h], dk[b, :, h], dv[b, :, h] = p @ v, ds @ k, ds.T @ q, p.T @ do
    return o, dq, dk, dv


def _run(implementation):
    def forward_and_backward(q, k, v, do):
        o, vjp = jax.vjp(lambda *qkv: attention(*qkv, implementation=implementation), q, k, v)
        return o, *vjp(do)

    return jax.jit(forward_and_backward)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("sizes", SIZES)
def test_output_and_gradients_match_float64(implementation, sizes):
    inputs = _inputs(sizes)
    for actual, expected in zip(_run(implementation)(*inputs), _float64(*inputs), strict=True):
        error = np.linalg.norm(np.asarray(actual, np.float64) - expected)
        assert error <= TOLERANCE * max(np.linalg.norm(expected), 1.0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_large_scores_do_not_overflow(implementation):
    inputs = _inputs((1, 40, 2, 8), scale=30.0)
    outputs = _run(implementation)(*inputs)
    chex.assert_tree_all_finite(outputs)
    np.testing.assert_allclose(outputs[0], _float64(*inputs)[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_position_sees_a_later_one(implementation):
    q, k, v, _ = _inputs((2, 50, 2, 8))
    before = attention(q, k, v, implementation=implementation)
    k[:, 30:], v[:, 30:] = 7.0, -7.0
    after = attention(q, k, v, implementation=implementation)
    chex.assert_trees_all_equal(before[:, :30], after[:, :30])
    assert not np.allclose(before[:, 30:], after[:, 30:])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_nan_stays_visible(implementation):
    q, k, v, _ = _inputs((1, 20, 1, 4))
    k[0, 5] = np.nan
    o_BTHK = attention(q, k, v, implementation=implementation)
    assert np.isnan(o_BTHK[0, 5:]).all()
    chex.assert_tree_all_finite(o_BTHK[0, :5])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_works_under_vmap_and_remat(implementation):
    q, k, v, do = _inputs((2, 9, 2, 4))
    run = _run(implementation)
    expected = run(q, k, v, do)
    batched = jax.vmap(run)(*(a[None] for a in (q, k, v, do)))
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[0], batched), expected, rtol=1e-6, atol=1e-6)

    def loss(q):
        return jnp.sum(do * attention(q, k, v, implementation=implementation))

    chex.assert_trees_all_close(jax.grad(jax.checkpoint(loss))(q), expected[1], rtol=1e-5, atol=1e-6)


def test_blocked_attention_skips_most_of_the_masked_half():
    arrays = _inputs((2, 64, 2, 8))
    flops = {name: _run(name).lower(*arrays).compile().cost_analysis()["flops"] for name in ("reference", "xla")}
    assert flops["xla"] < 0.75 * flops["reference"]  # 10/16 of the blocks, and some work outside the scores


@pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels")
def test_the_cpu_kernel_repeats_itself_to_the_bit():
    inputs = _inputs((5, 70, 3, 20))
    first = _run("cpu")(*inputs)
    for _ in range(5):
        chex.assert_trees_all_equal(_run("cpu")(*inputs), first)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        attention(jnp.zeros((1, 2, 3, 4)), jnp.zeros((1, 2, 3, 5)), jnp.zeros((1, 2, 3, 4)))


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="'flash' is not one of"):
        attention(*(jnp.zeros((1, 2, 3, 4)),) * 3, implementation="flash")


def test_the_cpu_kernel_refuses_other_dtypes():
    with pytest.raises(TypeError, match="takes float32"):
        attention(*(jnp.zeros((1, 2, 3, 4), jnp.bfloat16),) * 3, implementation="cpu")
