"""Decoding over a cache gives the logits of the full forward pass, however the positions are fed.

Not compiled: operation by operation, XLA reuses what it has compiled for another kind of model.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.model import functional
from ryot_jax.model.cache import empty_cache
from ryot_jax.optimizations import KernelPlan

# float32; logits of size five from sums in another order.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def full_logits(cfg, params, tokens_BT):
    graphdef = functional.graph(cfg)
    x_BTD = functional.hidden(graphdef, params, tokens_BT, plan=KernelPlan())
    return x_BTD @ functional.unembedding(graphdef, params).T


def decode_in_pieces(cfg, params, tokens_BT, pieces, cache):
    graphdef = functional.graph(cfg)
    logits, start = [], 0
    for size in pieces:
        piece, cache = functional.decode(graphdef, params, tokens_BT[:, start : start + size], cache, plan=KernelPlan())
        logits.append(piece)
        start += size
    return jnp.concatenate(logits, axis=1), cache


def test_prefill_and_steps_give_the_full_logits(small, kind):
    cfg = small.config(**kind)
    _, params = small.build(cfg)
    tokens_BT = small.batch(cfg)["inputs"]
    got_BTV, cache = decode_in_pieces(cfg, params, tokens_BT, [4] + [1] * 8, empty_cache(cfg, len(tokens_BT)))
    want_BTV = full_logits(cfg, params, tokens_BT)
    np.testing.assert_allclose(got_BTV, want_BTV, **CLOSE)
    np.testing.assert_array_equal(got_BTV.argmax(-1), want_BTV.argmax(-1))
    assert (cache.length_B == cache.capacity).all() and cache.capacity == cfg.max_len


def test_one_sequence_takes_another_path_to_the_same_logits(small):
    cfg = small.config()
    _, params = small.build(cfg)
    tokens_BT = small.batch(cfg)["inputs"]
    got_BTV, _ = decode_in_pieces(cfg, params, tokens_BT[:1], [1] * cfg.max_len, empty_cache(cfg, 1))
    np.testing.assert_allclose(got_BTV, full_logits(cfg, params, tokens_BT)[:1], **CLOSE)


@pytest.mark.parametrize("overrides", [{"scan_layers": True}, {"tie_embeddings": False}])
def test_the_same_for_scanned_layers_and_an_untied_head(small, overrides):
    cfg = small.config(**overrides)
    _, params = small.build(cfg)
    tokens_BT = small.batch(cfg)["inputs"]
    got_BTV, _ = decode_in_pieces(cfg, params, tokens_BT, [4, 4, 4], empty_cache(cfg, len(tokens_BT)))
    np.testing.assert_allclose(got_BTV, full_logits(cfg, params, tokens_BT), **CLOSE)


def test_rolling_back_is_setting_the_length_back(small):
    cfg = small.config()
    _, params = small.build(cfg)
    tokens_BT = small.batch(cfg)["inputs"]
    wrong_BT = np.concatenate([tokens_BT[:, :4], (tokens_BT[:, 4:8] + 1) % cfg.vocab_size], axis=1)
    _, cache = decode_in_pieces(cfg, params, wrong_BT, [4, 4], empty_cache(cfg, len(tokens_BT)))
    cache = dataclasses.replace(cache, length_B=jnp.full_like(cache.length_B, 4))
    got_BSV, _ = decode_in_pieces(cfg, params, tokens_BT[:, 4:], [4, 4], cache)
    np.testing.assert_allclose(got_BSV, full_logits(cfg, params, tokens_BT)[:, 4:], **CLOSE)


@pytest.mark.parametrize("capacity", [8, 40])
def test_what_does_not_fit_gives_nan_and_no_other_numbers(small, capacity):
    # Of a cache beyond max_len, it is max_len that bounds: the model knows no such positions.
    cfg = small.config()
    _, params = small.build(cfg)
    room = min(capacity, cfg.max_len)
    tokens_BT = np.ones((3, room + 1), np.int32)
    got_BTV, _ = decode_in_pieces(cfg, params, tokens_BT, [4] * (room // 4) + [1], empty_cache(cfg, 3, capacity))
    assert np.isfinite(got_BTV[:, :room]).all() and np.isnan(got_BTV[:, room:]).all()


def test_the_cache_is_kept_in_the_compute_dtype_and_logits_in_float32(small):
    cfg = small.config(compute_dtype="bfloat16")
    _, params = small.build(cfg)
    tokens_BT = small.batch(cfg)["inputs"]
    got_BTV, cache = decode_in_pieces(cfg, params, tokens_BT, [12], empty_cache(cfg, len(tokens_BT)))
    assert cache.layers[0].k_BHKT.dtype == cache.layers[0].v_BHTK.dtype == jnp.bfloat16
    assert got_BTV.dtype == jnp.float32
