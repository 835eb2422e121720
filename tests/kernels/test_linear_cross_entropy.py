"""linear_cross_entropy against a float64 reference written in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import cpu, linear_cross_entropy

IMPLEMENTATIONS = [
    "reference",
    "xla",
    pytest.param("cpu", marks=pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels")),
]
# Odd, tiny and chunk-crossing sizes: rows N, width D, vocabulary V. The C++ kernel works on 48 rows and
# panels of 16 or 32 columns, cut at a depth of 256; the scanned one on 512 rows.
SIZES = [(1, 1, 2), (5, 3, 7), (37, 19, 53), (49, 33, 65), (600, 16, 31), (97, 300, 257), (128, 64, 96)]

# A float32 sum of k terms is off by about sqrt(k) * 6e-8 relative to its terms' norm; k reaches 600 here, and
# the exp of the kernels adds 2e-7.
TOLERANCE = 5e-6


def _inputs(sizes, seed=0, ignored=0.2):
    n, d, v = sizes
    rng = np.random.default_rng(seed)
    x_ND = rng.normal(size=(n, d)).astype(np.float32)
    w_VD = rng.normal(size=(v, d)).astype(np.float32)
    targets_N = np.where(rng.random(n) < ignored, -1, rng.integers(0, v, n)).astype(np.int32)
    return x_ND, w_VD, targets_N


def _float64(x_ND, w_VD, targets_N):
    """Loss sum and its gradients, term by term."""
    x_ND, w_VD = x_ND.astype(np.float64), w_VD.astype(np.float64)
    logits_NV = x_ND @ w_VD.T
    top_N1 = logits_NV.max(axis=1, keepdims=True)
    exp_NV = np.exp(logits_NV - top_N1)
    sum_N1 = exp_NV.sum(axis=1, keepdims=True)
    valid_N = targets_N >= 0
    rows = np.arange(len(targets_N))
    losses_N = (top_N1 + np.log(sum_N1))[:, 0] - logits_NV[rows, targets_N]
    dlogits_NV = exp_NV / sum_N1
    dlogits_NV[rows, targets_N] -= 1
    dlogits_NV[~valid_N] = 0
    return losses_N[valid_N].sum(), dlogits_NV @ w_VD, dlogits_NV.T @ x_ND


def _assert_near(actual, expected):
    scale = max(np.linalg.norm(expected), 1e-30)
    assert np.linalg.norm(np.asarray(actual, np.float64) - expected) / scale < TOLERANCE


def _loss_and_gradients(implementation, cotangent=1.0):
    def loss(x, w, t):
        return cotangent * linear_cross_entropy(x, w, t, implementation=implementation)[0]

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("sizes", SIZES)
def test_loss_and_gradients_match_float64(implementation, sizes):
    inputs = _inputs(sizes)
    loss, (dx_ND, dw_VD) = _loss_and_gradients(implementation)(*inputs)
    expected = _float64(*inputs)
    # One-target losses cancel (log-sum-exp minus logit), so the loss is compared on the scale of the logits.
    assert abs(float(loss) - expected[0]) < TOLERANCE * sizes[0] * max(1.0, np.abs(inputs[0] @ inputs[1].T).max())
    _assert_near(dx_ND, expected[1])
    _assert_near(dw_VD, expected[2])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_without_differentiation_the_loss_is_the_same(implementation):
    inputs = _inputs((97, 20, 77))
    loss, count = linear_cross_entropy(*inputs, implementation=implementation)
    expected, _, _ = _float64(*inputs)
    np.testing.assert_allclose(loss, expected, rtol=TOLERANCE)
    assert count == np.sum(inputs[2] >= 0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_any_cotangent_scales_the_gradients(implementation):
    inputs = _inputs((50, 9, 21))
    _, plain = _loss_and_gradients(implementation)(*inputs)
    _, scaled = _loss_and_gradients(implementation, cotangent=-2.5)(*inputs)
    chex.assert_trees_all_close(scaled, jax.tree.map(lambda g: -2.5 * g, plain), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_all_rows_ignored_gives_zero(implementation):
    x_ND, w_VD, _ = _inputs((60, 8, 11))
    loss, gradients = _loss_and_gradients(implementation)(x_ND, w_VD, np.full(60, -1, np.int32))
    assert loss == 0
    chex.assert_trees_all_equal(gradients, jax.tree.map(jnp.zeros_like, gradients))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_target_beyond_the_vocabulary_makes_the_loss_nan(implementation):
    x_ND, w_VD, targets_N = _inputs((10, 4, 6), ignored=0)
    targets_N[3] = 6
    assert np.isnan(_loss_and_gradients(implementation)(x_ND, w_VD, targets_N)[0])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_non_finite_activations_reach_the_loss(implementation, poison):
    x_ND, w_VD, targets_N = _inputs((10, 4, 6), ignored=0)
    x_ND[2, 1] = poison
    assert not np.isfinite(_loss_and_gradients(implementation)(x_ND, w_VD, targets_N)[0])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_large_logits_do_not_overflow(implementation):
    x_ND, w_VD, targets_N = _inputs((20, 6, 30))
    inputs = 300 * x_ND, w_VD, targets_N
    loss, (dx_ND, _) = _loss_and_gradients(implementation)(*inputs)
    expected = _float64(*inputs)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
    _assert_near(dx_ND, expected[1])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_works_under_vmap_remat_and_scan(implementation):
    x_ND, w_VD, targets_N = _inputs((24, 5, 13))

    def loss(x_MD, targets_M):
        return linear_cross_entropy(x_MD, w_VD, targets_M, implementation=implementation)[0]

    x_3MD, targets_3M = x_ND.reshape(3, 8, 5), targets_N.reshape(3, 8)
    expected = jnp.stack([loss(x, t) for x, t in zip(x_3MD, targets_3M, strict=True)])
    gradient = jax.grad(loss)
    expected_dx = jnp.stack([gradient(x, t) for x, t in zip(x_3MD, targets_3M, strict=True)])
    chex.assert_trees_all_close(jax.vmap(loss)(x_3MD, targets_3M), expected, rtol=1e-6)
    chex.assert_trees_all_close(jax.vmap(gradient)(x_3MD, targets_3M), expected_dx, rtol=1e-5)
    chex.assert_trees_all_close(jax.lax.map(lambda xt: loss(*xt), (x_3MD, targets_3M)), expected, rtol=1e-6)
    chex.assert_trees_all_close(jax.grad(jax.checkpoint(loss))(x_3MD[0], targets_3M[0]), expected_dx[0], rtol=1e-5)


def test_bfloat16_activations_are_no_worse_than_the_reference_in_bfloat16():
    x_ND, w_VD, targets_N = _inputs((300, 32, 64))
    exact = _float64(x_ND, w_VD, targets_N)[1]

    def error(implementation):
        gradients = _loss_and_gradients(implementation)(x_ND.astype(jnp.bfloat16), w_VD, targets_N)[1]
        assert gradients[0].dtype == jnp.bfloat16 and gradients[1].dtype == jnp.float32
        return np.linalg.norm(np.asarray(gradients[0], np.float64) - exact) / np.linalg.norm(exact)

    assert error("xla") <= 2 * error("reference") + 1e-3  # 1e-3: a few bfloat16 roundings (2^-9) of the output
    assert error("xla") < 2e-2


def test_chunked_implementations_do_not_hold_all_logits():
    x_ND, w_VD, targets_N = _inputs((2048, 8, 1000))

    def hlo(implementation):
        return _loss_and_gradients(implementation).lower(x_ND, w_VD, targets_N).compile().as_text()

    assert "f32[2048,1000]" in hlo("reference")
    assert "f32[2048,1000]" not in hlo("xla")
    assert "f32[512,1000]" in hlo("xla")


@pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels")
def test_the_cpu_kernel_repeats_itself_to_the_bit():
    inputs = _inputs((1000, 40, 130))
    first = _loss_and_gradients("cpu")(*inputs)
    for _ in range(5):
        chex.assert_trees_all_equal(_loss_and_gradients("cpu")(*inputs), first)


@pytest.mark.parametrize(
    ("shapes", "error"),
    [
        (((4, 3), (5, 2), (4,)), "do not fit"),
        (((4, 3), (5, 3), (3,)), "do not fit"),
        (((4,), (5, 3), (4,)), "need x"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, error):
    x, w, t = shapes
    with pytest.raises(ValueError, match=error):
        linear_cross_entropy(jnp.zeros(x), jnp.zeros(w), jnp.zeros(t, jnp.int32))


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="'cdnn' is not one of"):
        linear_cross_entropy(jnp.zeros((2, 2)), jnp.zeros((2, 2)), jnp.zeros(2, jnp.int32), implementation="cdnn")


def test_the_cpu_kernel_refuses_other_dtypes():
    with pytest.raises(TypeError, match="takes float32"):
        linear_cross_entropy(
            jnp.zeros((2, 2), jnp.bfloat16), jnp.zeros((2, 2)), jnp.zeros(2, jnp.int32), implementation="cpu"
        )
