"""The dense op against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import dense

TOLERANCE = {
    "reference": 2e-6,  # float32 sums of up to 70 terms
    "xla_bf16": 6e-3,  # two operands rounded to 8 bits of mantissa: each term off by up to 2 * 2^-9
}


def _inputs(leading, d, f):
    rng = np.random.default_rng(0)
    shapes = (*leading, d), (d, f), (f,), (*leading, f)
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


def _run(implementation):
    def forward_and_backward(x, w, b, dy):
        y, vjp = jax.vjp(lambda *args: dense(*args, implementation=implementation), x, w, b)
        return y, *vjp(dy)

    return jax.jit(forward_and_backward)


@pytest.mark.parametrize("implementation", ["reference", "xla_bf16"])
@pytest.mark.parametrize("shape", [((1,), 1, 1), ((5,), 3, 7), ((2, 9), 70, 33)])
def test_output_and_gradients_match_float64(implementation, shape):
    x, w, b, dy = _inputs(*shape)
    x64, w64, dy64 = (a.astype(np.float64) for a in (x, w, dy))
    rows = x64.reshape(-1, x.shape[-1]), dy64.reshape(-1, dy.shape[-1])
    expected = x64 @ w64 + b, dy64 @ w64.T, rows[0].T @ rows[1], rows[1].sum(axis=0)
    for actual, exact in zip(_run(implementation)(x, w, b, dy), expected, strict=True):
        error = np.linalg.norm(np.asarray(actual, np.float64) - exact)
        assert error <= TOLERANCE[implementation] * np.linalg.norm(exact)


def test_bf16_products_take_bfloat16_operands_forward_and_backward():
    inputs = _inputs((16,), 8, 8)

    def dots(implementation):
        lines = _run(implementation).lower(*inputs).as_text().splitlines()
        return [line for line in lines if "dot_general" in line]

    assert len(dots("reference")) == len(dots("xla_bf16")) == 3
    assert not any("bf16" in line for line in dots("reference"))
    assert all(line.count("bf16") == 2 and "f32" in line for line in dots("xla_bf16"))


def test_bf16_products_differ_from_float32_ones():
    inputs = _inputs((16,), 32, 32)
    assert not np.array_equal(_run("reference")(*inputs)[0], _run("xla_bf16")(*inputs)[0])


def test_low_precision_activations_keep_their_dtype_and_weights_get_float32_gradients():
    x, w, b, dy = _inputs((4,), 8, 8)
    y, dx, dw, db = _run("reference")(x.astype(jnp.bfloat16), w, b, dy.astype(jnp.bfloat16))
    assert (y.dtype, dx.dtype, dw.dtype, db.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32, jnp.float32)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="need x"):
        dense(jnp.zeros((2, 3)), jnp.zeros((4, 5)))
    with pytest.raises(ValueError, match="need x"):
        dense(jnp.zeros((2, 3)), jnp.zeros((3, 5)), jnp.zeros(4))
    with pytest.raises(ValueError, match="is not one of"):
        dense(jnp.zeros((2, 3)), jnp.zeros((3, 5)), implementation="bf16")
