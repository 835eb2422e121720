"""The compiler option behind `oracle_jit` does what the tests rely on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def squared_norms(x_N3):
    matrix = jnp.eye(3)
    return jax.vmap(lambda row_3: jnp.sum((matrix @ row_3) ** 2))(x_N3)


@pytest.mark.parametrize("rows", [32_769, 40_000])
def test_oracle_is_right_where_some_jaxlibs_are_not(oracle_jit, rows):
    # The reproduction of https://github.com/jax-ml/jax/issues/39103: with YNN on, the last is 0.8 % off.
    x_N3 = np.zeros((rows, 3), np.float32)
    x_N3[:, 0] = np.arange(rows)
    expected_N = np.sum(x_N3.astype(np.float64) ** 2, axis=1)
    # One rounding to float32.
    np.testing.assert_allclose(oracle_jit(squared_norms)(x_N3), expected_N, rtol=2**-23)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="YNN is a library of the CPU backend")
def test_oracle_has_no_ynn_fusion_and_default_has(oracle_jit):
    x_N3 = np.ones((32_769, 3), np.float32)
    assert "__ynn" in jax.jit(squared_norms).lower(x_N3).compile().as_text(), "this jaxlib needs no oracle option"
    assert "__ynn" not in oracle_jit(squared_norms).lower(x_N3).compile().as_text()
