"""The model's numbers are those of its definition, written down here a second time and computed in float64."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.model import functional
from ryot_jax.optimizations import KernelPlan

GPT2 = {"positions": "learned", "norm": "layer", "mlp": "gelu", "tie_embeddings": True}
LLAMA = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "tie_embeddings": False}
ARCHITECTURES = [pytest.param(GPT2, id="gpt2"), pytest.param(LLAMA, id="llama")]

# float32 has a relative rounding of 6e-8; some 100 operations deep, on sums of up to 31 terms that partly cancel.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


def reference_hidden(params, tokens_BT, n_heads, xp):
    """Features after the final norm, one sequence and one head at a time; `xp` is numpy or jax.numpy."""
    return xp.stack([_sequence(params, tokens_T, n_heads, xp) for tokens_T in tokens_BT])


def _sequence(params, tokens_T, n_heads, xp):
    is_gpt2 = "positions" in params
    norm = functools.partial(_layer_norm if is_gpt2 else _rms_norm, xp=xp)
    x_TD = params["embedding"][tokens_T]
    if is_gpt2:
        x_TD = x_TD + params["positions"][: len(tokens_T)]
    for _, block in sorted(params["blocks"].items()):
        h_TD = norm(x_TD, block["attention_norm"])
        qkv = _affine(h_TD, block["attention"]["qkv"])
        width = x_TD.shape[1]
        heads = [
            _head(*(_part(qkv, i, head, width, n_heads) for i in range(3)), rotary=not is_gpt2, xp=xp)
            for head in range(n_heads)
        ]
        x_TD = x_TD + _affine(xp.concatenate(heads, axis=1), block["attention"]["out"])
        h_TF = _affine(norm(x_TD, block["mlp_norm"]), block["mlp"]["up"])
        if is_gpt2:
            h_TF = 0.5 * h_TF * (1 + xp.tanh(math.sqrt(2 / math.pi) * (h_TF + 0.044715 * h_TF**3)))
        else:
            half = h_TF.shape[1] // 2
            h_TF = h_TF[:, :half] / (1 + xp.exp(-h_TF[:, :half])) * h_TF[:, half:]
        x_TD = x_TD + _affine(h_TF, block["mlp"]["down"])
    return norm(x_TD, params["final_norm"])


def _part(qkv, index, head, width, n_heads):
    """Queries (0), keys (1) or values (2) of one head."""
    head_dim = width // n_heads
    start = index * width + head * head_dim
    return qkv[:, start : start + head_dim]


def _head(q_TK, k_TK, v_TK, *, rotary, xp):
    if rotary:
        q_TK, k_TK = _rotate(q_TK, xp), _rotate(k_TK, xp)
    rows = []
    for t in range(len(q_TK)):
        weights = xp.exp(k_TK[: t + 1] @ q_TK[t] / math.sqrt(q_TK.shape[1]))
        rows.append(weights @ v_TK[: t + 1] / weights.sum())
    return xp.stack(rows)


def _rotate(x_TK, xp):
    """Each pair (i, i + K/2) as a complex number, turned by t * 10000^(-2i/K)."""
    half = x_TK.shape[1] // 2
    angles = np.arange(len(x_TK))[:, None] * 10_000.0 ** (-np.arange(half) / half)[None]
    turned = (x_TK[:, :half] + 1j * x_TK[:, half:]) * np.exp(1j * angles)
    return xp.concatenate([turned.real, turned.imag], axis=1)


def _affine(x, layer):
    y = x @ layer["kernel"]
    return y + layer["bias"][None] if "bias" in layer else y


def _layer_norm(x_TD, layer, xp):
    mean, variance = x_TD.mean(1, keepdims=True), x_TD.var(1, keepdims=True)
    return (x_TD - mean) / xp.sqrt(variance + 1e-5) * layer["scale"][None] + layer["bias"][None]


def _rms_norm(x_TD, layer, xp):
    return x_TD / xp.sqrt((x_TD**2).mean(1, keepdims=True) + 1e-5) * layer["scale"][None]


def reference_losses(params, batch, n_heads, xp):
    """Cross-entropy of each target in nats, zero where it is ignored; float64[B, T]."""
    logits_BTV = reference_hidden(params, batch["inputs"], n_heads, xp) @ params.get("head", params["embedding"]).T
    log_z_BT = xp.log(xp.exp(logits_BTV).sum(-1))
    chosen_BT = xp.take_along_axis(logits_BTV, np.maximum(batch["targets"], 0)[..., None], axis=-1)[..., 0]
    return xp.where(batch["targets"] >= 0, log_z_BT - chosen_BT, 0.0)


def to_float64(params):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hidden_and_losses_are_those_of_float64(small, architecture):
    cfg = small.config(**architecture)
    graphdef, params = small.build(cfg)
    batch = small.batch(cfg)
    exact = to_float64(params)

    x_BTD = jax.jit(lambda p, t: functional.hidden(graphdef, p, t, plan=KernelPlan()))(params, batch["inputs"])
    chex.assert_trees_all_close(
        np.asarray(x_BTD, np.float64), reference_hidden(exact, batch["inputs"], cfg.n_heads, np), **TOLERANCE
    )

    losses_BT = reference_losses(exact, batch, cfg.n_heads, np)
    loss_sum, n_targets = jax.jit(lambda p, b: functional.loss(graphdef, p, b, plan=KernelPlan()))(params, batch)
    assert n_targets == 33
    np.testing.assert_allclose(loss_sum, losses_BT.sum(), rtol=1e-6)
    sums_B, counts_B = jax.jit(lambda p, b: functional.sequence_losses(graphdef, p, b))(params, batch)
    np.testing.assert_array_equal(counts_B, [9, 12, 12])
    np.testing.assert_allclose(sums_B, losses_BT.sum(1), rtol=2e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_are_those_of_float64(small, oracle_jit, architecture):
    cfg = small.config(**architecture, n_layers=1, max_len=6)
    graphdef, params = small.build(cfg)
    batch = small.batch(cfg, batch_size=2)
    gradients = jax.jit(jax.grad(lambda p: functional.loss(graphdef, p, batch, plan=KernelPlan())[0]))(params)
    with jax.enable_x64(True):
        exact = oracle_jit(jax.grad(lambda p: reference_losses(p, batch, cfg.n_heads, jnp).sum()))(to_float64(params))
        exact = jax.tree.map(np.asarray, exact)
    assert exact["embedding"].dtype == np.float64

    def compare(path, got, want):
        # Per leaf: rounding errors are relative to the leaf's size, and single elements may be near zero.
        error = np.linalg.norm(got - want) / np.linalg.norm(want)
        assert error < 1e-5, f"{jax.tree_util.keystr(path)}: relative error {error:.1e}"

    chex.assert_trees_all_equal_shapes(gradients, exact)
    jax.tree_util.tree_map_with_path(compare, gradients, exact)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_computes_in_half_and_keeps_weights_in_float32(small, dtype):
    cfg = small.config(compute_dtype=dtype)
    graphdef, params = small.build(cfg)
    batch = small.batch(cfg)

    @jax.jit
    def features_and_gradients(params):
        x_BTD = functional.hidden(graphdef, params, batch["inputs"], plan=KernelPlan())
        return x_BTD, jax.grad(lambda p: functional.loss(graphdef, p, batch, plan=KernelPlan())[0])(params)

    x_BTD, gradients = features_and_gradients(params)
    assert x_BTD.dtype == dtype
    exact_BTD = reference_hidden(to_float64(params), batch["inputs"], cfg.n_heads, np)
    # Features are of size one; a rounding to bfloat16 is 2^-9 of that, and some tens of them add up.
    assert 1e-5 < np.sqrt(np.mean((np.asarray(x_BTD, np.float64) - exact_BTD) ** 2)) < 10 * 2**-9
    assert {leaf.dtype.name for leaf in jax.tree.leaves((params, gradients))} == {"float32"}
