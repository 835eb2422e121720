"""What holds for every transformer: causality, layouts of layers, rematerialization, limits."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.model import functional
from ryot_jax.model.positions import rotate
from ryot_jax.optimizations import KernelPlan
from ryot_jax.runtime.errors import ConfigError

PLAN = KernelPlan()
# Two float32 programs for one formula: they differ by the order of their sums.
SAME_FORMULA = {"rtol": 2e-5, "atol": 2e-6}


def hidden(cfg, params, tokens_BT, key=None):
    graphdef = functional.graph(cfg)
    return jax.jit(lambda p, t: functional.hidden(graphdef, p, t, plan=PLAN, key=key))(params, tokens_BT)


def loss_and_gradients(cfg, batch):
    graphdef = functional.graph(cfg)
    return jax.value_and_grad(lambda p: functional.loss(graphdef, p, batch, plan=PLAN)[0])


def test_a_later_token_changes_no_earlier_output(small, kind):
    cfg = small.config(**kind)
    _, params = small.build(cfg)
    tokens_BT = small.batch(cfg)["inputs"]
    changed_BT = tokens_BT.copy()
    changed_BT[:, 7] = (changed_BT[:, 7] + 1) % cfg.vocab_size
    run = functools.partial(functional.hidden, functional.graph(cfg), params, plan=PLAN)
    before, after = run(tokens_BT), run(changed_BT)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.abs(before[:, 7:] - after[:, 7:]).max(axis=(0, 2)).min() > 1e-4, "every later output depends on it"


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
def test_the_order_of_tokens_matters(small, positions):
    # Without positions, attention is blind to the order of the tokens before the last.
    cfg = small.config(positions=positions)
    _, params = small.build(cfg)
    tokens_BT = small.batch(cfg)["inputs"]
    swapped_BT = tokens_BT[:, [1, 0, *range(2, cfg.max_len)]]
    last = hidden(cfg, params, tokens_BT)[:, -1] - hidden(cfg, params, swapped_BT)[:, -1]
    assert np.abs(last).max() > 1e-3


def test_rotary_scores_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    q_BTHK, k_BTHK = (jnp.asarray(np.tile(rng.normal(size=(1, 1, 2, 8)), (1, 9, 1, 1)), jnp.float32) for _ in "qk")
    scores_HQS = jnp.einsum(
        "qhk,shk->hqs",
        rotate(q_BTHK, jnp.arange(9)[None])[0],
        rotate(k_BTHK, jnp.arange(9)[None])[0],
        precision="highest",
    )
    for distance in range(-8, 9):
        diagonals_Hn = np.diagonal(scores_HQS, distance, axis1=1, axis2=2)
        np.testing.assert_allclose(diagonals_Hn, np.tile(diagonals_Hn[:, :1], diagonals_Hn.shape[1]), atol=1e-5)
    assert np.std(scores_HQS) > 0.1


@pytest.mark.parametrize(("dropout", "remat"), [(0.0, False), (0.4, True)])
def test_scanned_layers_give_the_numbers_of_unscanned_ones(small, dropout, remat):
    cfg = small.config(n_layers=3, dropout=dropout)
    _, params = small.build(cfg)
    scanned_cfg, scanned = functional.stack_layers(cfg, params)
    assert scanned_cfg.scan_layers and scanned["blocks"]["mlp"]["up"]["kernel"].shape == (3, 16, 24)
    tokens_BT, key = small.batch(cfg)["inputs"], jax.random.key(5)
    scanned_cfg = dataclasses.replace(scanned_cfg, remat=remat)
    chex.assert_trees_all_close(
        hidden(scanned_cfg, scanned, tokens_BT, key), hidden(cfg, params, tokens_BT, key), **SAME_FORMULA
    )
    chex.assert_trees_all_equal(functional.unstack_layers(scanned_cfg, scanned)[1], params)


def test_scanned_and_unscanned_models_start_from_the_same_weights(small):
    cfg = small.config()
    _, params = functional.init(cfg, 7)
    scanned_cfg, stacked = functional.stack_layers(cfg, params)
    chex.assert_trees_all_equal(functional.init(scanned_cfg, 7)[1], stacked)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_remat_recomputes_and_changes_no_number(small, oracle_jit, scan_layers):
    cfg = small.config(n_layers=4 if scan_layers else 2, scan_layers=scan_layers)
    _, params = small.build(cfg)
    batch = small.batch(cfg)
    plain, remat = (
        oracle_jit(loss_and_gradients(dataclasses.replace(cfg, remat=on), batch)).lower(params).compile()
        for on in (False, True)
    )
    chex.assert_trees_all_close(remat(params), plain(params), rtol=1e-4, atol=1e-4)
    if scan_layers:  # of a loop, XLA counts the body once
        assert remat.memory_analysis().temp_size_in_bytes < 0.8 * plain.memory_analysis().temp_size_in_bytes
    else:  # all of the layers' forward products a second time, a quarter of what they cost in all
        assert remat.cost_analysis()["flops"] > 1.15 * plain.cost_analysis()["flops"]


def test_weights_start_as_documented(small):
    cfg = small.config(d_model=256, d_ff=512, n_layers=2, vocab_size=512, tie_embeddings=False)
    _, params = functional.init(cfg, 0)
    block = params["blocks"]["layer_001"]
    deviations = {
        "embedding": (params["embedding"], 0.02),
        "positions": (params["positions"], 0.02),
        "head": (params["head"], 0.02),
        "qkv": (block["attention"]["qkv"]["kernel"], 256**-0.5),
        "up": (block["mlp"]["up"]["kernel"], 256**-0.5),
        "out": (block["attention"]["out"]["kernel"], 256**-0.5 / 2),
        "down": (block["mlp"]["down"]["kernel"], 512**-0.5 / 2),
    }
    for name, (weights, deviation) in deviations.items():
        # Five standard errors of an estimate from at least 3,072 numbers.
        assert abs(float(weights.std()) / deviation - 1) < 5 / (2 * 3072) ** 0.5, name
    assert not any(np.any(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "bias")
    assert not np.array_equal(params["embedding"], params["head"])
    assert not np.array_equal(functional.init(cfg, 1)[1]["embedding"], params["embedding"])


def test_a_sequence_longer_than_max_len_is_refused(small):
    cfg = small.config(positions="rotary")
    graphdef, params = functional.init(cfg, 0)
    with pytest.raises(ConfigError, match=r"13 tokens: model.max_len = 12"):
        functional.hidden(graphdef, params, jnp.zeros((1, 13), jnp.int32), plan=PLAN)


def test_a_token_beyond_the_vocabulary_gives_nan(small):
    cfg = small.config()
    _, params = functional.init(cfg, 0)
    x_BTD = hidden(cfg, params, np.array([[0, cfg.vocab_size, 1], [0, 1, 2]], np.int32))
    assert np.isnan(x_BTD[0, 1:]).all() and np.isfinite(x_BTD[1]).all()


@pytest.mark.parametrize("op", ["linear_cross_entropy", "attention", "dense", "norm", "embedding", "dropout"])
def test_kernels_are_those_of_the_plan(small, op):
    cfg = small.config(dropout=0.1)
    graphdef, params = functional.init(cfg, 0)
    with pytest.raises(ValueError, match="'none'"):
        functional.loss(graphdef, params, small.batch(cfg), plan=KernelPlan(**{op: "none"}), key=jax.random.key(0))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_the_first_layers_alone_are_the_model_that_has_no_others(small, scan_layers):
    cfg = small.config(n_layers=3)
    _, params = small.build(cfg)
    shallow_cfg = dataclasses.replace(cfg, n_layers=1)
    shallow = {**params, "blocks": {"layer_000": params["blocks"]["layer_000"]}}
    batch = small.batch(cfg)
    expected, expected_grads = loss_and_gradients(shallow_cfg, batch)(shallow)
    run_cfg, run_params = functional.stack_layers(cfg, params) if scan_layers else (cfg, params)
    graphdef = functional.graph(run_cfg)

    def loss(params, depth):
        return functional.loss(graphdef, params, batch, plan=PLAN, depth=depth)[0]

    found, grads = jax.value_and_grad(loss)(run_params, 1)
    if scan_layers:
        _, grads = functional.unstack_layers(run_cfg, grads)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    first = {**grads, "blocks": {"layer_000": grads["blocks"]["layer_000"]}}
    # Gradients are sums of several hundred products of either sign, up to 3 in size.
    chex.assert_trees_all_close(first, expected_grads, rtol=2e-5, atol=1e-5)
    others = [grads["blocks"][f"layer_{i:03d}"] for i in (1, 2)]
    chex.assert_trees_all_equal(others, jax.tree.map(jnp.zeros_like, others))
    assert abs(loss(run_params, 0) - expected) > 1e-3, "the other layers do something"
    assert loss(run_params, 0) == loss(run_params, 3)


@pytest.mark.parametrize("depth", [-1, 4])
def test_a_depth_that_the_model_does_not_have_is_refused(small, depth):
    cfg = small.config(n_layers=3)
    graphdef, params = small.build(cfg)
    with pytest.raises(ConfigError, match=f"depth = {depth} must lie in 0 to model.n_layers = 3"):
        functional.hidden(graphdef, params, small.batch(cfg)["inputs"], plan=PLAN, depth=depth)
