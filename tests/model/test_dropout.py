"""Dropout: absent without a key, scaled in expectation, drawn anew at each place."""

import jax
import numpy as np
import pytest

from ryot_jax.model import functional, transformer
from ryot_jax.model.cache import empty_cache
from ryot_jax.optimizations import KernelPlan


@pytest.mark.parametrize("implementation", ["reference", "hash"])
def test_without_a_key_the_model_has_no_dropout(small, implementation):
    cfg = small.config(dropout=0.5)
    graphdef, params = small.build(cfg)
    tokens_BT = small.batch(cfg)["inputs"]
    plain = functional.hidden(functional.graph(small.config()), params, tokens_BT, plan=KernelPlan())
    np.testing.assert_array_equal(functional.hidden(graphdef, params, tokens_BT, plan=KernelPlan()), plain)

    plan = KernelPlan(dropout=implementation)
    np.testing.assert_array_equal(functional.hidden(graphdef, params, tokens_BT, plan=plan), plain)
    one, again, other = (
        functional.hidden(graphdef, params, tokens_BT, plan=plan, key=jax.random.key(i)) for i in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.1 and np.abs(one - plain).max() > 0.1


def test_every_place_and_layer_has_a_key_of_its_own(small, monkeypatch):
    keys = []

    def record(x, rate, key, *, implementation):
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
