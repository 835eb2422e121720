"""The dense op and the MLP made of it, against their definitions in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import dense, mlp
from tests.kernels.ops import base

# 8-bit floats have a file of their own.
IMPLEMENTATIONS = [name for name in base.names("dense") if "float8" not in base.rounding("dense", name)]
# float32 sums of up to 4700 terms are off by sqrt(4700) * 6e-8, and the C++ kernels' exp and tanh by 2e-7; two operands
# rounded to 8 bits of mantissa each by up to 2^-9, and the cotangent after them.
TOLERANCE = {name: 1e-2 if base.rounding("dense", name) == "bfloat16" else 4e-6 for name in IMPLEMENTATIONS}
# Rows, D, F: one, odd, such that cross the C++ kernels' panels of 16 and 32 columns and chunks of rows and depth,
# so many rows that groups of them have a gradient of the weights each, and so many with large weights that they are
# taken in two passes.
SIZES = [((1,), 1, 1), ((2, 3), 7, 5), ((131,), 70, 33), ((300,), 300, 65), ((2300,), 70, 33), ((4700,), 300, 300)]


def textbook_activation(h, activation):
    if activation == "gelu":
        return 0.5 * h * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    if activation == "relu2":
        return jnp.where(h > 0, h**2, 0)
    if activation == "swiglu":
        gate, value = h[..., : h.shape[-1] // 2], h[..., h.shape[-1] // 2 :]
        return gate / (1 + jnp.exp(-gate)) * value
    return h


def textbook(activation):
    return lambda x, w, b, residual: textbook_activation(x @ w + b, activation) + residual


def op(implementation, activation="none"):
    def run(x, w, b, residual):
        return dense(x, w, b, activation=activation, residual=residual, implementation=implementation)

    return run


def _operands(leading, d, f, activation="none", x_dtype="float32", residual_dtype="float32"):
    rng = np.random.default_rng(0)
    width = 2 * f if activation == "swiglu" else f
    shapes = (*leading, d), (d, width), (width,), (*leading, f)
    x, w, b, residual = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return x.astype(x_dtype), w / np.sqrt(d), b, residual.astype(residual_dtype)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("sizes", SIZES)
def test_product_matches_float64(errors_against_float64, implementation, sizes):
    errors = errors_against_float64(op(implementation), textbook("none"), *_operands(*sizes))
    assert max(errors) < TOLERANCE[implementation], errors


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("activation", ["gelu", "relu2", "swiglu"])
@pytest.mark.parametrize("sizes", [((3,), 1, 1), ((2, 67), 70, 33)])
def test_activations_match_float64(errors_against_float64, implementation, activation, sizes):
    operands = _operands(*sizes, activation)
    errors = errors_against_float64(op(implementation, activation), textbook(activation), *operands)
    assert max(errors) < TOLERANCE[implementation], errors


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_bias_and_residual_may_be_absent(errors_against_float64, implementation, activation):
    x, w, b, residual = _operands((33,), 17, 9, activation)

    def variants(dense_or_textbook):
        return lambda x, w, b, residual: (
            dense_or_textbook(x, w, None, None),
            dense_or_textbook(x, w, b, None),
            dense_or_textbook(x, w, None, residual),
        )

    def textbook_of_present(x, w, b, residual):
        y = textbook_activation(x @ w + (0 if b is None else b), activation)
        return y if residual is None else y + residual

    errors = errors_against_float64(
        variants(op(implementation, activation)), variants(textbook_of_present), x, w, b, residual
    )
    assert max(errors) < TOLERANCE[implementation], errors


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "fp8"])
def test_no_rows_give_no_rows_and_no_gradient(implementation):
    x, w = jnp.zeros((2, 0, 5)), jnp.ones((5, 3))
    y, back = jax.vjp(lambda x, w: dense(x, w, implementation=implementation), x, w)
    chex.assert_trees_all_equal((y, *back(y)), (jnp.zeros((2, 0, 3)), x, jnp.zeros((5, 3))))


def test_the_reference_computes_float64_in_float64(errors_against_float64):
    operands = (np.asarray(array, np.float64) for array in _operands((5,), 40, 6))
    assert max(errors_against_float64(op("reference", "gelu"), textbook("gelu"), *operands)) < 1e-14


@pytest.mark.parametrize("dtype", ["bfloat16"])
@pytest.mark.parametrize("implementation", ["xla", "cpu"])
@pytest.mark.parametrize("activation", ["none", "gelu", "relu2", "swiglu"])
@pytest.mark.parametrize("leading", [(2, 67), (2301,)])
def test_bfloat16_is_no_worse_than_the_reference(
    assert_no_worse_in_bfloat16, implementation, activation, leading, dtype
):
    residual_dtype = "float32" if activation in ("none", "gelu") else dtype
    operands = _operands(leading, 70, 33, activation, x_dtype=dtype, residual_dtype=residual_dtype)
    assert_no_worse_in_bfloat16(
        op(implementation, activation), op("reference", activation), textbook(activation), *operands
    )


@pytest.mark.parametrize("dtype", ["bfloat16"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_outcome_has_the_residuals_dtype_else_that_of_x(implementation, dtype):
    x, w, b, residual = _operands((4,), 8, 8)
    low = x.astype(dtype)
    y = {
        (str(x.dtype), None if r is None else str(r.dtype)): dense(x, w, b, residual=r, implementation=implementation)
        for x in (x, low)
        for r in (None, residual, residual.astype(dtype))
    }
    assert all(outcome.dtype == (r or x) for (x, r), outcome in y.items())
    expected = dense(low, w, b, residual=residual)
    chex.assert_trees_all_close(y[dtype, "float32"], expected, atol=0.03)  # 2^-8 of sums of size 4, twice


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_come_in_the_dtype_of_each_operand(implementation):
    x, w, b, residual = _operands((4,), 8, 6, "gelu")
    w, b = w.astype(jnp.float16), b.astype(jnp.bfloat16)
    gradients = jax.grad(lambda *a: jnp.sum(op(implementation, "gelu")(*a)), argnums=(0, 1, 2, 3))(x, w, b, residual)
    assert [str(g.dtype) for g in gradients] == ["float32", "float16", "bfloat16", "float32"]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("activation", ["none", "gelu", "relu2", "swiglu"])
def test_a_nan_spoils_its_row_only(implementation, activation):
    x, w, b, residual = _operands((5,), 4, 6, activation)
    y = jax.jit(op(implementation, activation))(x.at[2, 1].set(np.nan), w, b, residual)
    assert np.isnan(y).all(axis=1).tolist() == [False, False, True, False, False]
    chex.assert_tree_all_finite(jnp.delete(y, 2, axis=0))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_infinity_stays_one(implementation):
    x, w, b, residual = _operands((5,), 4, 6)
    y = op(implementation)(x.at[2, 1].set(np.inf), w, b, residual)
    chex.assert_trees_all_equal(y[2], np.inf * jnp.sign(w[1]))
    chex.assert_tree_all_finite(jnp.delete(y, 2, axis=0))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_works_under_transformations(assert_works_under_transformations, implementation):
    x, w, b, residual = _operands((3, 8), 5, 6, "swiglu")
    assert_works_under_transformations(
        lambda x: dense(x, w, b, activation="swiglu", residual=residual[0], implementation=implementation), x
    )


def test_bf16_products_take_bfloat16_operands_forward_and_backward():
    operands = _operands((16,), 8, 8)

    def dots(implementation):
        def forward_and_backward(dy, *operands):
            y, vjp = jax.vjp(op(implementation), *operands)
            return y, vjp(dy)

        text = jax.jit(forward_and_backward).lower(operands[3], *operands).as_text()
        return [line for line in text.splitlines() if "dot_general" in line]

    assert len(dots("reference")) == len(dots("xla")) == 3
    assert not any("bf16" in line for line in dots("reference"))
    assert all(line.count("bf16") == 2 and "f32" in line for line in dots("xla"))


def test_bf16_products_differ_from_float32_ones():
    operands = _operands((16,), 32, 32)
    assert not np.array_equal(op("reference")(*operands), op("xla")(*operands))


@pytest.mark.parametrize("implementation", ["cpu"])
def test_the_cpu_kernel_repeats_itself_to_the_bit(implementation):
    operands = _operands((700,), 70, 40)
    run = jax.jit(lambda dy, *args: jax.vjp(op(implementation, "gelu"), *args)[1](dy))
    first = run(operands[3], *operands)
    for _ in range(5):
        chex.assert_trees_all_equal(run(operands[3], *operands), first)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (((2, 3), (4, 5)), "need x"),
        (((2, 3), (3, 5), (4,)), "need x"),
        (((2, 3), (3, 5), None, {"activation": "swiglu"}), "swiglu needs"),
        (((2, 3), (3, 5), None, {"activation": "silu"}), "'silu' is not one of"),
        (((2, 3), (3, 5), None, {"residual": jnp.zeros((1, 5))}), "need a residual"),
        (((2, 3), (3, 5), None, {"implementation": "bf16"}), "'bf16' is not one of"),
    ],
)
def test_operands_that_do_not_fit_are_refused(arguments, error):
    x, w, b, options = (*arguments, *(None, {})[len(arguments) - 2 :])[:4]
    with pytest.raises(ValueError, match=error):
        dense(jnp.zeros(x), jnp.zeros(w), None if b is None else jnp.zeros(b), **(options or {}))


def test_other_dtypes_are_refused():
    with pytest.raises(TypeError, match=r"takes float32 and bfloat16; got \['float16'\]"):
        dense(jnp.zeros((2, 3), jnp.float16), jnp.zeros((3, 5)), implementation="cpu")
    with pytest.raises(TypeError, match="float dtypes"):
        dense(jnp.zeros((2, 3), jnp.int32), jnp.zeros((3, 5)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["gelu", "swiglu", "relu2"])
def test_mlp_matches_float64(errors_against_float64, implementation, kind):
    rng = np.random.default_rng(1)
    D, F = 33, 40
    width = 2 * F if kind == "swiglu" else F
    shapes = (2, 35, D), (D, width), (F, D), (width,), (D,), (2, 35, D)
    x, up, down, up_bias, down_bias, residual = (
        jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0] if len(shape) == 2 else 1), jnp.float32)
        for shape in shapes
    )

    def block(x, up, down, up_bias, down_bias, residual):
        return mlp(x, up, down, up_bias, down_bias, kind=kind, residual=residual, implementation=implementation)

    def definition(x, up, down, up_bias, down_bias, residual):
        return textbook_activation(x @ up + up_bias, kind) @ down + down_bias + residual

    errors = errors_against_float64(block, definition, x, up, down, up_bias, down_bias, residual)
    assert max(errors) < 2 * TOLERANCE[implementation], errors  # two layers


def test_an_mlp_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'tanh' is not one of"):
        mlp(jnp.zeros((2, 3)), jnp.zeros((3, 4)), jnp.zeros((4, 3)), kind="tanh")
    with pytest.raises(ValueError, match="with nothing between"):
        mlp(jnp.zeros((2, 3)), jnp.zeros((3, 4)), jnp.zeros((4, 3)), kind="none")
