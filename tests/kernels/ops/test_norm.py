"""Layer norm and RMS norm, with and without the residual sum, against their definitions in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import layer_norm, rms_norm
from ryot_jax.kernels.gpu import pallas
from tests.kernels.ops import base

IMPLEMENTATIONS = base.names("norm")
NORMS = {"layer": layer_norm, "rms": rms_norm}
EPSILON = 1e-5
# float32: about ten roundings a number (6e-8 each), sums of up to 300 terms, and what cancels in the gradient of x.
TOLERANCE = 2e-6
SIZES = [((1,), 1), ((2, 3), 7), ((131,), 33), ((300,), 130)]


def definition(kind):
    """(y, s) of x, scale, bias and residual."""

    def norm(x, scale, bias, residual):
        s = x if residual is None else x + residual
        centred = s - s.mean(-1, keepdims=True) if kind == "layer" else s
        y = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * scale
        return y if bias is None else y + bias, s

    return norm


def op(kind, implementation, **options):
    def norm(x, scale, bias, residual):
        return NORMS[kind](
            x, scale, bias, residual=residual, with_sum=True, epsilon=EPSILON, implementation=implementation, **options
        )

    return norm


def _operands(leading, d, dtype="float32"):
    rng = np.random.default_rng(0)
    x, scale, bias, residual = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((*leading, d), (d,), (d,), (*leading, d))
    )
    return (x + 0.5).astype(dtype), scale, bias, residual


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("sizes", SIZES)
def test_outcomes_and_gradients_match_float64(errors_against_float64, implementation, kind, sizes):
    errors = errors_against_float64(op(kind, implementation), definition(kind), *_operands(*sizes))
    assert max(errors) < TOLERANCE, errors


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", NORMS)
def test_bias_residual_and_sum_may_be_absent(errors_against_float64, implementation, kind):
    def without_sum(x, scale, bias, residual):
        def norm(*, bias=None, residual=None, with_sum=False):
            return NORMS[kind](
                x, scale, bias, residual=residual, with_sum=with_sum, epsilon=EPSILON, implementation=implementation
            )

        return norm(), norm(bias=bias), norm(residual=residual), norm(with_sum=True)

    def definitions(x, scale, bias, residual):
        norm = definition(kind)
        plain = norm(x, scale, None, None)
        return plain[0], norm(x, scale, bias, None)[0], norm(x, scale, None, residual)[0], plain

    errors = errors_against_float64(without_sum, definitions, *_operands((9,), 17))
    assert max(errors) < TOLERANCE, errors


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_float64_is_computed_in_float64(errors_against_float64, implementation):
    operands = (np.asarray(array, np.float64) for array in _operands((5,), 40))
    assert max(errors_against_float64(op("layer", implementation), definition("layer"), *operands)) < 1e-14


@pytest.mark.parametrize("dtype", ["bfloat16"])
@pytest.mark.parametrize("implementation", ["xla", "cpu"])
@pytest.mark.parametrize("kind", NORMS)
def test_bfloat16_is_no_worse_than_the_reference(assert_no_worse_in_bfloat16, implementation, kind, dtype):
    x, scale, bias, residual = _operands((131,), 33, dtype)
    # A block's branch in bfloat16 joins a stream in float32; or both are bfloat16, and then s has to be rounded.
    options = {"dtype": jnp.bfloat16} if kind == "layer" else {}
    residual = residual if kind == "layer" else residual.astype(dtype)
    assert_no_worse_in_bfloat16(
        op(kind, implementation, **options),
        op(kind, "reference", **options),
        definition(kind),
        x,
        scale,
        bias,
        residual,
    )


@pytest.mark.parametrize("dtype", ["bfloat16"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_sum_has_the_promoted_dtype_and_y_the_one_asked_for(implementation, dtype):
    full, scale, _, stream = _operands((4,), 8)
    low = full.astype(dtype)
    for x, residual, asked, expected in (
        (full, stream, None, ("float32", "float32")),
        (low, stream, None, ("float32", "float32")),
        (low, stream, dtype, (dtype, "float32")),
        (full, None, dtype, (dtype, "float32")),
        (low, low, None, (dtype, dtype)),
        (low, None, "float32", ("float32", dtype)),
    ):
        for norm in (layer_norm, rms_norm):
            y, s = norm(x, scale, residual=residual, with_sum=True, dtype=asked, implementation=implementation)
            assert (y.dtype, s.dtype) == expected
            wanted = norm(x, scale, residual=residual, with_sum=True, dtype=asked)
            chex.assert_trees_all_close((y, s), wanted, rtol=2**-7, atol=1e-6)  # a bfloat16 rounding or two


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_come_in_the_dtype_of_each_operand(implementation):
    x, scale, bias, residual = _operands((4,), 8)
    operands = x, scale.astype(jnp.float16), bias.astype(jnp.bfloat16), residual
    gradients = jax.grad(lambda *a: jnp.sum(op("layer", implementation)(*a)[0]), argnums=(0, 1, 2, 3))(*operands)
    assert [str(g.dtype) for g in gradients] == ["float32", "float16", "bfloat16", "float32"]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_large_mean_does_not_cancel_the_variance(errors_against_float64, implementation):
    x, scale, bias, residual = _operands((5,), 40)
    errors = errors_against_float64(op("layer", implementation), definition("layer"), x + 1000, scale, bias, residual)
    # Numbers near 1000 are 6e-5 apart. mean(s^2) - mean(s)^2 would be off by 6e-2.
    assert max(errors) < 3e-4, errors


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", NORMS)
def test_tiny_and_constant_rows_stay_finite(implementation, kind):
    x, scale, bias, _ = _operands((3,), 12)
    x = x.at[0].set(0).at[1].set(3).at[2].multiply(1e-20)
    outcomes, vjp = jax.vjp(lambda *a: op(kind, implementation)(*a, None), x, scale, bias)
    chex.assert_tree_all_finite((outcomes, vjp(outcomes)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_row_that_is_not_finite_spoils_itself_only(implementation, kind, poison):
    x, scale, bias, residual = _operands((6,), 9)
    y, _ = op(kind, implementation)(x.at[2, 1].set(poison), scale, bias, residual)
    assert np.isnan(y[2]).any() and np.isnan(y[2]).all() == (kind == "layer" or np.isnan(poison))
    chex.assert_tree_all_finite(jnp.delete(y, 2, axis=0))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", NORMS)
def test_it_works_under_transformations(assert_works_under_transformations, implementation, kind):
    x, scale, bias, residual = _operands((3, 8), 5)

    def both_uses(x):
        y, s = op(kind, implementation)(x, scale, bias, residual[0])
        return y * s

    assert_works_under_transformations(both_uses, x)


def test_xla_keeps_no_array_but_its_operand():
    x, scale, bias, _ = _operands((64,), 32)

    def kept(implementation):
        _, vjp = jax.vjp(lambda *a: layer_norm(*a, implementation=implementation), x, scale, bias)
        return sorted(leaf.shape for leaf in jax.tree.leaves(vjp) if leaf.size)

    assert kept("xla") == [(32,), (64, 1), (64, 1), (64, 32)]
    assert kept("reference").count((64, 32)) > 1


@pytest.mark.parametrize("implementation", ["cpu"])
def test_the_cpu_kernel_repeats_itself_to_the_bit(implementation):
    operands = _operands((1000,), 40)
    run = jax.jit(lambda *a: jax.vjp(op("layer", implementation), *a)[1]((a[3], a[3])))
    first = run(*operands)
    for _ in range(5):
        chex.assert_trees_all_equal(run(*operands), first)


def test_operands_that_do_not_fit_are_refused():
    x, scale, bias, residual = _operands((4,), 8)
    for norm in (layer_norm, rms_norm):
        with pytest.raises(ValueError, match="need x"):
            norm(x, scale[:7])
        with pytest.raises(ValueError, match="need x"):
            norm(x, scale, bias[:, None])
        with pytest.raises(ValueError, match="need a residual"):
            norm(x, scale, residual=residual[:3])
        with pytest.raises(ValueError, match="'apex' is not one of"):
            norm(x, scale, implementation="apex")
        with pytest.raises(TypeError, match="takes float32 and bfloat16"):
            norm(x, scale, dtype=jnp.float16, implementation="cpu")


# Triton masks what its blocks have beyond an array; Mosaic takes widths of its lanes.
@pytest.mark.parametrize(
    ("implementation", "sizes"),
    [("mosaic", ((2, 7), 128)), ("triton", ((2, 7), 128)), ("triton", ((131,), 33)), ("triton", ((1,), 1))],
)
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_kernels_of_gpus_are_the_definition_where_they_are_interpreted(
    errors_against_float64, implementation, kind, sizes
):
    with pallas.interpreted():
        errors = errors_against_float64(op(kind, implementation), definition(kind), *_operands(*sizes))
    assert max(errors) < TOLERANCE, errors


def test_no_rows_are_no_error():
    operands = _operands((0,), 128)
    for implementation in ("mosaic", "triton"):
        with pallas.interpreted():
            outcomes, vjp = jax.vjp(op("layer", implementation), *operands)
            assert [gradient.shape for gradient in vjp(outcomes)] == [(0, 128), (128,), (128,), (0, 128)]


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("with_residual", [False, True])
def test_triton_without_bias_and_in_bfloat16_is_no_worse_than_the_reference(
    assert_no_worse_in_bfloat16, kind, with_residual
):
    x, scale, _, residual = _operands((9,), 70, dtype="bfloat16")

    def arm(norm):
        return lambda x, scale, residual: norm(x, scale, None, residual if with_residual else None)

    ops = (arm(norm) for norm in (op(kind, "triton"), op(kind, "reference"), definition(kind)))
    with pallas.interpreted():
        assert_no_worse_in_bfloat16(*ops, x, scale, residual)


def test_triton_s_large_mean_does_not_cancel_the_variance(errors_against_float64):
    x, scale, bias, residual = _operands((20,), 50)
    with pallas.interpreted():
        errors = errors_against_float64(op("layer", "triton"), definition("layer"), x + 1000, scale, bias, residual)
    assert max(errors) < 100 * TOLERANCE, errors  # x itself is rounded at 6e-5
