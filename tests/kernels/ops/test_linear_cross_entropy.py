"""linear_cross_entropy against its definition in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import linear_cross_entropy
from tests.kernels.ops import base

IMPLEMENTATIONS = base.names("linear_cross_entropy")
# Odd, tiny and chunk-crossing sizes: rows N, width D, vocabulary V. The C++ kernel works on chunks of rows and panels
# of 16 or 32 columns; the scanned one on 512 rows.
SIZES = [(1, 1, 2), (5, 3, 7), (49, 33, 65), (97, 300, 257), (600, 16, 31)]
TERMS = [
    {"label_smoothing": 0.1},
    {"z_loss": 1e-2},
    {"soft_cap": 4.0},
    {"label_smoothing": 0.2, "z_loss": 1e-2, "soft_cap": 10.0},
]
# A float32 sum of k terms is off by about sqrt(k) * 6e-8 relative to its terms' norm; k reaches 600 here, and
# the exp of the kernels adds 2e-7.
TOLERANCE = 5e-6


def _operands(sizes, *, ignored=0.2, dtype="float32", scale=1.0):
    n, d, v = sizes
    rng = np.random.default_rng(0)
    x_ND = jnp.asarray(scale * rng.normal(size=(n, d)), jnp.float32).astype(dtype)
    w_VD = jnp.asarray(rng.normal(size=(v, d)), jnp.float32)
    targets_N = jnp.asarray(np.where(rng.random(n) < ignored, -1, rng.integers(0, v, n)), jnp.int32)
    return x_ND, w_VD, targets_N


def op(implementation, reduction="sum", **terms):
    def run(x_ND, w_VD, targets_N):
        outcome = linear_cross_entropy(
            x_ND, w_VD, targets_N, reduction=reduction, implementation=implementation, **terms
        )
        return outcome[0] if reduction == "sum" else outcome

    return jax.jit(run)


def definition(reduction="sum", label_smoothing=0.0, z_loss=0.0, soft_cap=None):
    def run(x_ND, w_VD, targets_N):
        logits_NV = x_ND @ w_VD.T
        if soft_cap is not None:
            logits_NV = soft_cap * jnp.tanh(logits_NV / soft_cap)
        V = w_VD.shape[0]
        top_N1 = jax.lax.stop_gradient(logits_NV.max(-1, keepdims=True))
        z_N1 = top_N1 + jnp.log(jnp.exp(logits_NV - top_N1).sum(-1, keepdims=True))
        wanted_NV = (1 - label_smoothing) * (jnp.arange(V)[None, :] == targets_N[:, None]) + label_smoothing / V
        losses_N = (wanted_NV * (z_N1 - logits_NV)).sum(-1) + z_loss * z_N1[:, 0] ** 2
        losses_N = jnp.where(targets_N >= 0, losses_N, 0)
        return losses_N.sum() if reduction == "sum" else losses_N

    return run


def value_and_gradients(implementation, **options):
    return jax.jit(jax.value_and_grad(op(implementation, **options), argnums=(0, 1)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("sizes", SIZES)
def test_losses_and_gradients_match_float64(errors_against_float64, implementation, reduction, sizes):
    operands = _operands(sizes)
    loss, *gradients = errors_against_float64(op(implementation, reduction), definition(reduction), *operands)
    assert max(gradients) < TOLERANCE, gradients
    # A loss cancels (log-sum-exp minus logit): it is compared on the scale of the logits.
    size = max(1.0, float(jnp.max(jnp.abs(operands[0] @ operands[1].T))))
    assert loss < TOLERANCE * size, loss


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_the_other_terms_match_float64(errors_against_float64, implementation, reduction, terms):
    operands = _operands((49, 17, 67))
    errors = errors_against_float64(op(implementation, reduction, **terms), definition(reduction, **terms), *operands)
    assert max(errors) < TOLERANCE, errors


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_float64_is_computed_in_float64(errors_against_float64, implementation, reduction):
    x_ND, w_VD, targets_N = _operands((40, 8, 30))
    operands = np.asarray(x_ND, np.float64), np.asarray(w_VD, np.float64), targets_N
    errors = errors_against_float64(op(implementation, reduction), definition(reduction), *operands)
    assert max(errors) < 1e-14, errors


@pytest.mark.parametrize("dtype", ["bfloat16"])
@pytest.mark.parametrize("implementation", ["xla", "cpu"])
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("terms", [{}, TERMS[-1]], ids=["plain", "all terms"])
def test_bfloat16_is_no_worse_than_the_reference(assert_no_worse_in_bfloat16, implementation, reduction, terms, dtype):
    operands = _operands((131, 33, 65), dtype=dtype)
    arms = (op(name, reduction, **terms) for name in (implementation, "reference"))
    assert_no_worse_in_bfloat16(*arms, definition(reduction, **terms), *operands)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_without_differentiation_the_loss_is_the_same(implementation):
    operands = _operands((97, 20, 77))
    loss, count = linear_cross_entropy(*operands, implementation=implementation)
    np.testing.assert_allclose(loss, value_and_gradients(implementation)(*operands)[0], rtol=TOLERANCE)
    losses_N = linear_cross_entropy(*operands, reduction="none", implementation=implementation)
    np.testing.assert_allclose(loss, jnp.sum(losses_N), rtol=TOLERANCE)
    assert count == jnp.sum(operands[2] >= 0) and count.dtype == losses_N.dtype == jnp.float32


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_all_rows_ignored_gives_zero(implementation):
    x_ND, w_VD, _ = _operands((60, 8, 11))
    targets_N = jnp.full(60, -1)
    loss, gradients = value_and_gradients(implementation)(x_ND, w_VD, targets_N)
    chex.assert_trees_all_equal((loss, gradients), jax.tree.map(jnp.zeros_like, (loss, gradients)))
    losses_N, vjp = jax.vjp(lambda *xw: op(implementation, "none")(*xw, targets_N), x_ND, w_VD)
    chex.assert_trees_all_equal((losses_N, vjp(losses_N + 1)), (jnp.zeros(60), gradients))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_ignored_rows_and_rows_of_weight_zero_have_no_gradient(implementation):
    x_ND, w_VD, targets_N = _operands((30, 8, 11))
    ignored = np.asarray(targets_N) < 0
    dx_ND = value_and_gradients(implementation)(x_ND, w_VD, targets_N)[1][0]
    assert not np.any(dx_ND[ignored]) and np.all(np.any(dx_ND[~ignored], axis=-1))
    _, vjp = jax.vjp(lambda x_ND: op(implementation, "none")(x_ND, w_VD, targets_N), x_ND)
    assert not np.any(vjp(jnp.zeros(30).at[4].set(2.0))[0][np.arange(30) != 4])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_target_beyond_the_vocabulary_makes_its_loss_nan(implementation):
    x_ND, w_VD, targets_N = _operands((10, 4, 6), ignored=0)
    targets_N = targets_N.at[3].set(6).at[8].set(2**30)
    assert np.isnan(value_and_gradients(implementation)(x_ND, w_VD, targets_N)[0])
    losses_N = op(implementation, "none")(x_ND, w_VD, targets_N)
    assert np.isnan(losses_N).nonzero()[0].tolist() == [3, 8]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_reach_their_loss(implementation, poison):
    x_ND, w_VD, targets_N = _operands((10, 4, 6), ignored=0)
    x_ND = x_ND.at[2, 1].set(poison)
    assert not np.isfinite(value_and_gradients(implementation)(x_ND, w_VD, targets_N)[0])
    losses_N = op(implementation, "none")(x_ND, w_VD, targets_N)
    assert np.isfinite(losses_N).tolist() == [n != 2 for n in range(10)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_large_logits_do_not_overflow(errors_against_float64, implementation):
    errors = errors_against_float64(op(implementation), definition(), *_operands((20, 6, 30), scale=300))
    assert max(errors) < 1e-4  # logits of size 1000 are 6e-5 apart, and the softmax has their absolute error


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_it_works_under_transformations(assert_works_under_transformations, implementation, reduction):
    x_ND, w_VD, targets_N = _operands((24, 5, 13))
    run = op(implementation, reduction)
    assert_works_under_transformations(lambda x_MD: run(x_MD, w_VD, targets_N[:8]), x_ND.reshape(3, 8, 5))


def test_gradients_come_in_the_dtype_of_each_operand():
    x_ND, w_VD, targets_N = _operands((8, 5, 13))
    for implementation in ("reference", "xla"):
        for reduction in ("sum", "none"):
            run = op(implementation, reduction)
            gradients = jax.grad(lambda *xw: jnp.sum(run(*xw, targets_N)), argnums=(0, 1))(  # noqa: B023
                x_ND.astype(jnp.bfloat16), w_VD.astype(jnp.float16)
            )
            assert [str(g.dtype) for g in gradients] == ["bfloat16", "float16"]


def test_chunked_implementations_do_not_hold_all_logits():
    x_ND, w_VD, targets_N = _operands((2048, 8, 1000))

    def hlo(implementation, reduction="sum"):
        run = jax.grad(lambda *xw: jnp.sum(op(implementation, reduction)(*xw, targets_N)), argnums=(0, 1))
        return jax.jit(run).lower(x_ND, w_VD).compile().as_text()

    assert "f32[2048,1000]" in hlo("reference")
    for reduction in ("sum", "none"):
        assert "f32[2048,1000]" not in hlo("xla", reduction)
        assert "f32[512,1000]" in hlo("xla", reduction)


def test_only_separate_losses_make_the_logits_twice():
    x_ND, w_VD, targets_N = _operands((64, 8, 100))

    def products(reduction):
        run = jax.value_and_grad(lambda *xw: jnp.sum(op("xla", reduction)(*xw, targets_N)), argnums=(0, 1))
        return jax.jit(run).lower(x_ND, w_VD).as_text().count("stablehlo.dot_general")

    assert (products("sum"), products("none")) == (3, 4)


@pytest.mark.parametrize("implementation", ["cpu"])
def test_the_cpu_kernel_repeats_itself_to_the_bit(implementation):
    operands = _operands((1000, 40, 130))
    run = value_and_gradients(implementation)
    first = run(*operands)
    for _ in range(5):
        chex.assert_trees_all_equal(run(*operands), first)


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


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"implementation": "cdnn"}, "'cdnn' is not one of"),
        ({"reduction": "mean"}, "reduction='mean'"),
        ({"label_smoothing": 1.5}, "label_smoothing in"),
        ({"soft_cap": 0.0}, "soft_cap > 0"),
    ],
)
def test_unknown_options_are_refused(options, error):
    with pytest.raises(ValueError, match=error):
        linear_cross_entropy(*_operands((2, 2, 2)), **options)


def test_other_dtypes_are_refused():
    x_ND, w_VD, targets_N = _operands((2, 2, 2))
    with pytest.raises(TypeError, match="takes float32 and bfloat16"):
        linear_cross_entropy(x_ND.astype(jnp.float16), w_VD, targets_N, implementation="cpu")
    with pytest.raises(TypeError, match="need integer targets"):
        linear_cross_entropy(x_ND, w_VD, targets_N.astype(jnp.float32))
