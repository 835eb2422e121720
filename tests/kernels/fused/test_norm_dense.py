"""A norm with a dense layer or an MLP behind it, against the definitions in float64 and against the separate ops."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import NormSpec, cpu, dense, layer_norm, norm_dense, norm_mlp
from tests.kernels.ops.test_dense import TOLERANCE, textbook_activation
from tests.kernels.ops.test_norm import definition

IMPLEMENTATIONS = ["reference", "xla", "cpu"]
# Rows, D, F: one, odd, and such that cross the C++ kernels' vectors, panels and chunks of rows.
SIZES = [((1,), 3, 1), ((2, 3), 7, 5), ((131,), 33, 70), ((230,), 130, 33), ((2300,), 33, 70)]


def _norm_of(scale, bias, kind, implementation, dtype=None):
    return NormSpec(scale, bias, kind == "layer", dtype=dtype, implementation=implementation)


def op(kind, implementation, activation="none", dtype=None):
    def run(x, scale, bias, w, b):
        norm = _norm_of(scale, bias, kind, implementation, dtype)
        return norm_dense(x, norm, w, b, activation=activation, implementation=implementation)

    return run


def textbook(kind, activation="none"):
    def run(x, scale, bias, w, b):
        h = definition(kind)(x, scale, bias, None)[0] @ w
        return textbook_activation(h if b is None else h + b, activation), x

    return run


def _operands(leading, d, f, activation="none"):
    rng = np.random.default_rng(0)
    width = 2 * f if activation == "swiglu" else f
    x, scale, bias, w, b = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((*leading, d), (d,), (d,), (d, width), (width,))
    )
    return x + 0.5, scale, bias, w / np.sqrt(d), b


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("sizes", SIZES)
def test_outcomes_and_gradients_match_float64(errors_against_float64, implementation, kind, sizes):
    errors = errors_against_float64(op(kind, implementation), textbook(kind), *_operands(*sizes))
    assert max(errors) < 2 * TOLERANCE[implementation], errors  # a norm and a product


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("activation", ["gelu", "relu2", "swiglu"])
def test_activations_match_float64(errors_against_float64, implementation, activation):
    operands = _operands((2, 67), 70, 33, activation)
    errors = errors_against_float64(op("layer", implementation, activation), textbook("layer", activation), *operands)
    assert max(errors) < 2 * TOLERANCE[implementation], errors


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_both_biases_may_be_absent(errors_against_float64, implementation):
    x, scale, _, w, _ = _operands((9,), 17, 5)
    errors = errors_against_float64(
        lambda x, scale, w: op("rms", implementation)(x, scale, None, w, None),
        lambda x, scale, w: textbook("rms")(x, scale, None, w, None),
        *(x, scale, w),
    )
    assert max(errors) < 2 * TOLERANCE[implementation], errors


@pytest.mark.parametrize("dtype", ["bfloat16"])
@pytest.mark.parametrize("implementation", ["xla", "cpu"])
@pytest.mark.parametrize("stream", ["float32", "bfloat16"])
@pytest.mark.parametrize(("rows", "activation"), [(131, "none"), (131, "swiglu"), (2301, "gelu")])
def test_bfloat16_is_no_worse_than_the_reference(
    assert_no_worse_in_bfloat16, implementation, activation, stream, rows, dtype
):
    x, *weights = _operands((rows,), 33, 40, activation)
    assert_no_worse_in_bfloat16(
        op("layer", implementation, activation, dtype),
        op("layer", "reference", activation, dtype),
        textbook("layer", activation),
        x.astype(stream),
        *weights,
    )


def _mlp_operands(kind, d=33, f=40):
    rng = np.random.default_rng(1)
    shapes = (2, 65, d), (d,), (d,), (d, 2 * f if kind == "swiglu" else f), (f, d), (2 * f if kind == "swiglu" else f,)
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (*shapes, (d,))]
    arrays[3], arrays[4] = arrays[3] / np.sqrt(d), arrays[4] / np.sqrt(f)
    return arrays


def _mlp(kind, implementation, dtype=None):
    def run(x, scale, bias, up, down, up_bias, down_bias):
        norm = _norm_of(scale, bias, "layer", implementation, dtype)
        return norm_mlp(x, norm, up, down, up_bias, down_bias, kind=kind, implementation=implementation)

    return run


def _mlp_textbook(kind):
    def run(x, scale, bias, up, down, up_bias, down_bias):
        h = definition("layer")(x, scale, bias, None)[0] @ up + up_bias
        return textbook_activation(h, kind) @ down + down_bias + x

    return run


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["gelu", "swiglu", "relu2"])
def test_mlp_matches_float64(errors_against_float64, implementation, kind):
    errors = errors_against_float64(_mlp(kind, implementation), _mlp_textbook(kind), *_mlp_operands(kind))
    assert max(errors) < 3 * TOLERANCE[implementation], errors  # a norm and two layers


@pytest.mark.parametrize("dtype", ["bfloat16"])
@pytest.mark.parametrize("implementation", ["xla", "cpu"])
@pytest.mark.parametrize("kind", ["gelu", "swiglu"])
def test_an_mlp_in_bfloat16_is_no_worse_than_the_reference(assert_no_worse_in_bfloat16, implementation, kind, dtype):
    arms = _mlp(kind, implementation, dtype), _mlp(kind, "reference", dtype)
    assert_no_worse_in_bfloat16(*arms, _mlp_textbook(kind), *_mlp_operands(kind))


@pytest.mark.parametrize("implementation", ["cpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_kernel_gives_what_two_give(implementation, dtype):
    operands = _operands((230,), 64, 48)

    def separate(x, scale, bias, w, b):
        h, x = layer_norm(x, scale, bias, with_sum=True, dtype=dtype, implementation=implementation)
        return dense(h, w, b, implementation=implementation), x

    def gradients(op):
        def loss(*operands):
            y, x = op(*operands)
            return jnp.sum(jnp.sin(y.astype(jnp.float32))) + jnp.sum(jnp.cos(x)), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True))

    one, two = gradients(op("layer", implementation, dtype=dtype)), gradients(separate)
    texts = [str(run.trace(*operands).jaxpr) for run in (one, two)]
    assert ["ryot_norm_dense_backward" in text for text in texts] == [True, False]
    assert ["ryot_norm_forward" in text for text in texts] == [False, True]
    of_one, of_two = one(*operands), two(*operands)
    if dtype == "bfloat16" and cpu.packing(dtype)[1] == 1:
        # Multiplied as float32: one kernel does not round the norm's output in between, which is 2^-9 of each number.
        for a, b in zip(jax.tree.leaves(of_one), jax.tree.leaves(of_two), strict=True):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            assert np.linalg.norm(a - b) <= 2.0**-6 * np.linalg.norm(b)
    else:
        # The same sums in the same order, but for those of dscale and dbias, which go over other chunks of rows.
        chex.assert_trees_all_close(of_one, of_two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16"])
@pytest.mark.parametrize(("implementation", "of_dense"), [("cpu", "reference"), ("xla", "cpu"), ("cpu", "cpu")])
def test_implementations_and_dtypes_may_be_mixed(errors_against_float64, implementation, of_dense, dtype):
    """With other pairs than 'cpu' and 'cpu', and a float32 product on a bfloat16 stream, the ops stay apart."""

    def mixed(x, scale, bias, w, b):
        norm = _norm_of(scale, bias, "layer", implementation, "float32")
        return norm_dense(x, norm, w, b, implementation=of_dense)

    x, *weights = _operands((40,), 33, 20)
    errors = errors_against_float64(mixed, textbook("layer"), x.astype(dtype), *weights)
    assert max(errors[0:1] + errors[3:]) < 1e-5  # the gradient of the stream comes in bfloat16
    assert max(errors) < 2**-7, errors


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_come_in_the_dtype_of_each_operand(implementation):
    x, scale, bias, w, b = _operands((4,), 8, 6)
    operands = x, scale.astype(jnp.float16), bias.astype(jnp.bfloat16), w.astype(jnp.float16), b
    gradients = jax.grad(lambda *a: jnp.sum(op("layer", implementation)(*a)[0]), argnums=range(5))(*operands)
    assert [str(g.dtype) for g in gradients] == ["float32", "float16", "bfloat16", "float16", "float32"]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_nan_spoils_its_row_only(implementation):
    x, *weights = _operands((120,), 8, 6)
    y, _ = op("layer", implementation)(x.at[99, 2].set(jnp.nan), *weights)
    assert np.isnan(y).all(axis=1).nonzero()[0].tolist() == [99]
    assert np.isfinite(np.delete(y, 99, axis=0)).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("first", ["dense", "mlp"])
def test_they_work_under_transformations(assert_works_under_transformations, implementation, first):
    x, scale, bias, up, down, up_bias, down_bias = _mlp_operands("gelu", 7, 9)

    def apply(x):
        if first == "mlp":
            return _mlp("gelu", implementation)(x, scale, bias, up, down, up_bias, down_bias)
        y, x = op("layer", implementation, "gelu")(x, scale, bias, up, up_bias)
        return jnp.concatenate([y, x], axis=-1)

    assert_works_under_transformations(apply, jnp.stack([x, 2 * x, x - 1]))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_operands_that_do_not_fit_are_refused(implementation):
    x, scale, bias, w, b = _operands((4,), 8, 6)
    norm = _norm_of(scale, bias, "layer", implementation)
    with pytest.raises(ValueError, match="scale"):
        norm_dense(x, norm._replace(scale_D=scale[:3]), w, b, implementation=implementation)
    with pytest.raises(ValueError, match="w"):
        norm_dense(x, norm, w[:3], b, implementation=implementation)
    with pytest.raises(ValueError, match="'tanh' is not one of"):
        norm_mlp(x, norm, w, w.T, kind="tanh", implementation=implementation)
    with pytest.raises(ValueError, match="'fast'"):
        norm_dense(x, norm, w, b, implementation="fast")
