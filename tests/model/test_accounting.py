"""Closed forms agree with the arrays and with what the compiler counts."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.config import get_default
from ryot_jax.model import ModelConfig, accounting, functional
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import KernelPlan
from ryot_jax.training.optimizer import make_optimizer
from ryot_jax.training.rules import OPTIMIZERS

LLAMA = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "tie_embeddings": False}


def shapes(cfg):
    return jax.eval_shape(lambda: functional.init(cfg, 0)[1])


def nbytes(tree):
    """Bytes of arrays, or of those that shapes stand for."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def compiled_step(cfg, batch_size, oracle_jit):
    """Loss and gradients, compiled and not run."""
    graphdef = functional.graph(cfg)
    tokens_BT = jax.ShapeDtypeStruct((batch_size, cfg.max_len), jnp.int32)
    loss = lambda p, b: functional.loss(graphdef, p, b, plan=KernelPlan())[0]  # noqa: E731
    batch = {"inputs": tokens_BT, "targets": tokens_BT}
    return oracle_jit(jax.value_and_grad(loss)).lower(shapes(cfg), batch).compile()


def test_the_scaled_run_has_about_a_million_parameters():
    cfg = from_config(get_default().model, "cpu")
    parts = accounting.parameters_by_part(shapes(cfg))
    assert parts == {
        "embedding": 262_144,
        "positions": 16_384,
        "attention": 264_192,
        "mlp": 526_848,
        "norms": 2_304,
    }
    assert 1.0e6 <= sum(parts.values()) == accounting.parameter_count(cfg) <= 1.2e6


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("scan_layers", [True, False])
def test_the_closed_form_counts_every_parameter(small, kind, tie_embeddings, scan_layers):
    cfg = small.config(**kind, tie_embeddings=tie_embeddings, scan_layers=scan_layers)
    params = shapes(cfg)
    parts = accounting.parameters_by_part(params)
    assert sum(parts.values()) == sum(leaf.size for leaf in jax.tree.leaves(params)) == accounting.parameter_count(cfg)
    assert ("head" in parts) == (not tie_embeddings)
    assert ("positions" in parts) == (cfg.positions == "learned")


def test_tying_saves_one_table():
    tied, untied = ModelConfig(), ModelConfig(tie_embeddings=False)
    assert accounting.parameter_count(untied) - accounting.parameter_count(tied) == 2048 * 128


@pytest.mark.parametrize("architecture", [{}, LLAMA], ids=["gpt2", "llama"])
def test_flops_are_those_that_the_compiler_counts(oracle_jit, architecture):
    cfg = ModelConfig(n_layers=2, **architecture)
    counted = compiled_step(cfg, 8, oracle_jit).cost_analysis()["flops"]
    # The compiler also counts norms, softmax, activations and the loss: 3 % here. A single product is at least 5 %.
    assert 1.0 < counted / accounting.flops_per_step(cfg, 8, cfg.max_len) < 1.04


def test_flops_grow_as_documented():
    cfg = ModelConfig()
    flops = accounting.flops_per_step(cfg, 32, 128)
    assert accounting.flops_per_step(cfg, 64, 128) == 2 * flops
    assert accounting.flops_per_step(cfg, 32, 64) < flops / 2, "attention grows with the square of the length"
    assert accounting.flops_per_step(ModelConfig(remat=True), 32, 128) == flops


def test_the_least_flops_lack_the_scores_that_are_masked():
    cfg = ModelConfig(n_layers=3)
    T, batch_size = 8, 2
    visible = int(np.tril(np.ones((T, T))).sum()) * batch_size
    scores = lambda pairs: 3 * (2 + 2) * cfg.n_layers * cfg.d_model * pairs  # noqa: E731
    projections = accounting.flops_per_step(cfg, batch_size, T) - scores(batch_size * T * T)
    assert accounting.least_flops_per_step(cfg, batch_size, T) == projections + scores(visible)
    one_token = accounting.least_flops_per_step(cfg, 5, 1)
    assert one_token == accounting.flops_per_step(cfg, 5, 1), "one token masks nothing"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("architecture", [{}, LLAMA], ids=["gpt2", "llama"])
def test_the_least_bytes_are_those_of_the_arrays(architecture, optimizer):
    cfg = ModelConfig(**architecture)
    training = get_default().training
    training.update(optimizer=optimizer, schedule="constant" if optimizer == "schedule_free" else "cosine")
    params = shapes(cfg)
    opt_state = jax.eval_shape(make_optimizer(training, 800).init, params)
    state_bytes = functools.partial(
        accounting.least_state_bytes_per_step, cfg, 32, cfg.max_len, optimizer_bytes=nbytes(opt_state)
    )
    assert state_bytes(clipped=False) == 2 * (nbytes(params) + nbytes(opt_state))
    assert state_bytes() == 2 * (2 * nbytes(params) + nbytes(opt_state)), "every row has a gradient"
    if optimizer == "adamw":
        counters = sum(leaf.dtype == jnp.int32 for leaf in jax.tree.leaves(opt_state))
        assert state_bytes() == accounting.least_state_bytes_per_step(cfg, 32, cfg.max_len) + 2 * 4 * counters


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_gradients_have_bytes_where_a_batch_can_touch_the_weights(small, tie_embeddings):
    cfg = small.config(tie_embeddings=tie_embeddings)
    batch_size, T = 2, 5
    graphdef, params = small.build(cfg)
    ids_BT = np.arange(batch_size * T, dtype=np.int32).reshape(batch_size, T)  # as many rows as tokens can touch
    loss = lambda p: functional.loss(graphdef, p, {"inputs": ids_BT, "targets": ids_BT}, plan=KernelPlan())[0]  # noqa: E731
    grads = jax.grad(loss)(params)
    tables = {name: grads.pop(name) for name in ("embedding", "positions")}
    touched = sum(grad.shape[1] * int(jnp.any(grad != 0, axis=1).sum()) for grad in tables.values())
    counted = 4 * (touched + sum(grad.size for grad in jax.tree.leaves(grads)))
    state_bytes = functools.partial(accounting.least_state_bytes_per_step, cfg, batch_size, T)
    assert state_bytes() - state_bytes(clipped=False) == 2 * counted


def test_the_batchs_bytes_are_those_of_its_arrays(small):
    cfg = small.config()
    assert accounting.batch_bytes(3, cfg.max_len) == nbytes(small.batch(cfg, batch_size=3))


@pytest.mark.parametrize(
    "overrides",
    [{"n_layers": 2}, dict(n_layers=2, **LLAMA), {"scan_layers": True, "remat": True, "n_layers": 8}],
)
def test_the_memory_estimate_is_within_a_factor_of_two_of_the_compilers(oracle_jit, overrides):
    cfg = ModelConfig(**overrides)
    analysis = compiled_step(cfg, 32, oracle_jit).memory_analysis()
    used = analysis.temp_size_in_bytes + 4 * 4 * accounting.parameter_count(cfg)
    assert 0.5 < accounting.memory_bytes(cfg, 32, cfg.max_len) / used < 2.0
    assert accounting.memory_bytes(cfg, 32, cfg.max_len) == sum(
        accounting.memory_by_part(cfg, 32, cfg.max_len).values()
    )
