"""Dropout: absent without a key, scaled in expectation, drawn anew at each place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import KernelPlan
from ryot_jax.model import functional, layers, transformer
from ryot_jax.model.cache import empty_cache


def test_survivors_are_scaled_so_that_the_expectation_stays():
    y = layers.dropout(jnp.full((1000, 1000), 3.0), 0.25, jax.random.key(0))
    np.testing.assert_allclose(np.unique(y), [0.0, 4.0])
    # Five standard errors: 3 sqrt(rate / (1 - rate) / 10^6) each.
    assert abs(float(y.mean()) - 3.0) < 5 * 3 * (0.25 / 0.75 / 1e6) ** 0.5


def test_gradients_pass_through_survivors_alone():
    x, key = jnp.arange(1.0, 101.0), jax.random.key(1)
    gradient = jax.grad(lambda x: layers.dropout(x, 0.5, key).sum())(x)
    np.testing.assert_array_equal(gradient, layers.dropout(x, 0.5, key) / x)


def test_without_a_key_the_model_has_no_dropout(small):
    cfg = small.config(dropout=0.5)
    graphdef, params = small.build(cfg)
    tokens_BT = small.batch(cfg)["inputs"]
    plain = functional.hidden(functional.graph(small.config()), params, tokens_BT, plan=KernelPlan())
    np.testing.assert_array_equal(functional.hidden(graphdef, params, tokens_BT, plan=KernelPlan()), plain)

    one, again, other = (
        functional.hidden(graphdef, params, tokens_BT, plan=KernelPlan(), key=jax.random.key(i)) for i in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.1 and np.abs(one - plain).max() > 0.1


def test_every_place_and_layer_has_a_key_of_its_own(small, monkeypatch):
    keys = []

    def record(x, rate, key):
        keys.append((rate, tuple(np.asarray(jax.random.key_data(key)).tolist())))
        return x

    monkeypatch.setattr(transformer, "dropout", record)
    cfg = small.config(dropout=0.3, n_layers=3)
    graphdef, params = functional.init(cfg, 0)
    functional.hidden(graphdef, params, small.batch(cfg)["inputs"], plan=KernelPlan(), key=jax.random.key(3))
    # The embedding, then attention and MLP of each layer.
    assert len(keys) == 1 + 2 * 3 == len(set(keys))
    assert {rate for rate, _ in keys} == {0.3}


@pytest.mark.parametrize("scan_layers", [False, True])
def test_decoding_has_no_dropout(small, scan_layers):
    cfg = small.config(dropout=0.5, scan_layers=scan_layers)
    graphdef, params = small.build(cfg)
    tokens_BT = small.batch(cfg)["inputs"]
    x_BSD, _ = functional.advance(graphdef, params, tokens_BT, empty_cache(cfg, len(tokens_BT)), plan=KernelPlan())
    x_BTD = functional.hidden(graphdef, params, tokens_BT, plan=KernelPlan())
    np.testing.assert_allclose(x_BSD, x_BTD, rtol=2e-5, atol=2e-5)
