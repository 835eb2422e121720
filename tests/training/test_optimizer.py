"""Schedules and optimizers by name: what decays, what is orthogonalized, what is refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ryot_jax.runtime.errors import ConfigError
from ryot_jax.training.optimizer import (
    evaluation_params,
    learning_rate_schedule,
    make_optimizer,
    with_adamw_kernel,
)
from ryot_jax.training.rules import OPTIMIZERS
from ryot_jax.training.step import train_step


def schedule_of(name):
    """Overrides that fit an optimizer."""
    return {"optimizer": name, "schedule": "constant" if name == "schedule_free" else "cosine"}


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_rate_warms_up_from_above_zero_reaches_the_peak_and_is_zero_after_the_last_step(tiny, schedule):
    rate = learning_rate_schedule(tiny.training | {"schedule": schedule, "warmup_steps": 4}, total_steps=20)
    rates = np.array([rate(step) for step in range(21)])
    np.testing.assert_allclose(rates[:4], 1e-2 * np.arange(1, 5) / 4, rtol=1e-6)
    assert np.all(np.diff(rates[3:]) < 0)
    assert 0 < rates[19] < 1e-3
    np.testing.assert_allclose(rates[20], 0, atol=1e-9)


def test_constant_rate_without_warm_up_is_the_peak_throughout(tiny):
    rate = learning_rate_schedule(tiny.training | {"schedule": "constant", "warmup_steps": 0}, total_steps=5)
    np.testing.assert_allclose([rate(s) for s in range(5)], 1e-2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(tiny, name):
    optimizer = tiny.optimizer(**schedule_of(name), learning_rate=3e-2)
    state, batch = tiny.state(optimizer), tiny.make_batch()
    step = jax.jit(lambda s: train_step(s, batch, loss_fn=tiny.loss_fn, optimizer=optimizer))
    losses = []
    for _ in range(20):
        state, metrics = step(state)
        losses.append(float(metrics["loss"]))
    loss_sum, n_targets = tiny.loss_fn(evaluation_params(name, state), batch, None)
    assert losses[-1] < 0.8 * losses[0]
    assert float(loss_sum / n_targets) < 0.8 * losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_acts_on_matrices_only(tiny, name):
    """With a gradient of zero, what changes is what decays. Stacked vectors of rank two are still vectors."""
    params = {"layer": {"kernel": jnp.ones((3, 4, 4)), "bias": jnp.ones((3, 4)), "scale": jnp.ones((3, 4))}}
    optimizer = make_optimizer(tiny.training | schedule_of(name), total_steps=50)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
    assert np.all(np.asarray(updates["layer"]["kernel"]) < 0)
    chex.assert_trees_all_equal(
        {k: updates["layer"][k] for k in ("bias", "scale")}, {k: zeros["layer"][k] for k in ("bias", "scale")}
    )


def test_muon_orthogonalizes_each_kernel_of_a_stack_and_nothing_else(tiny):
    rng = np.random.default_rng(0)
    params = {
        "embedding": jnp.asarray(rng.normal(size=(6, 4)), jnp.float32),
        "kernel": jnp.asarray(rng.normal(size=(2, 8, 8)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=(2, 8)), jnp.float32),
    }
    optimizer = make_optimizer(
        tiny.training | {"optimizer": "muon", "weight_decay": 0.0, "warmup_steps": 0, "clip_norm": 0.0}, 50
    )
    grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for i in range(2):
        singular = np.linalg.svd(np.asarray(updates["kernel"][i]) / 1e-2, compute_uv=False)
        # Five Newton-Schulz steps bring singular values to about 0.7 .. 1.2, times 0.2 * sqrt(8).
        assert singular.max() / singular.min() < 2.5
    # Adam's first update is the sign of the gradient, here 1 + b1 / (1 + b1) times as far (Nesterov).
    for name in ("embedding", "bias"):
        expected = -1e-2 * np.sign(grads[name]) * (0.9 / 1.9 + 1)
        np.testing.assert_allclose(updates[name], expected, rtol=1e-3)


def test_schedule_free_is_judged_by_its_average_and_others_by_their_parameters(tiny):
    optimizer = tiny.optimizer(**schedule_of("schedule_free"))
    state, batch = tiny.state(optimizer), tiny.make_batch()
    step = jax.jit(lambda s: train_step(s, batch, loss_fn=tiny.loss_fn, optimizer=optimizer))
    for _ in range(3):
        state, _ = step(state)
    average = evaluation_params("schedule_free", state)
    inner = state.opt_state[1]
    chex.assert_trees_all_close(average, optax.contrib.schedule_free_eval_params(inner, state.params), rtol=1e-6)
    assert np.abs(np.asarray(average["layer"]["kernel"] - state.params["layer"]["kernel"])).max() > 1e-4
    assert evaluation_params("adamw", state) is state.params


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"optimizer": "adam"}, "training.optimizer"),
        ({"schedule": "cosin"}, "training.schedule"),
        ({"warmup_steps": 50}, "training.warmup_steps"),
        ({"warmup_steps": -1}, "training.warmup_steps"),
        ({"optimizer": "schedule_free"}, "training.schedule"),
        ({"optimizer": "schedule_free", "schedule": "constant", "b1": 0.0}, "training.b1"),
    ],
)
def test_what_cannot_work_is_refused_by_name(tiny, overrides, field):
    with pytest.raises(ConfigError, match=field):
        tiny.optimizer(**overrides)


def test_the_adamw_kernel_takes_the_steps_of_optax_and_leaves_its_state():
    training = {"optimizer": "adamw", "learning_rate": 0.01, "warmup_steps": 2, "schedule": "cosine"}
    training |= {"b1": 0.9, "b2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0}
    plain = make_optimizer(training, 10)
    direct = with_adamw_kernel(plain, training, 10, "reference")
    params = {"a": {"kernel": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "bias": jnp.linspace(0.5, 1.0, 4)}}
    ours, theirs = (params, direct.init(params)), (params, plain.init(params))
    for scale in (1.0, 3.0, 0.1):
        grads = jax.tree.map(lambda p, scale=scale: scale * jnp.cos(3 * p), params)
        updates, state = plain.update(jax.tree.map(lambda g: 0.5 * g, grads), theirs[1], theirs[0])
        theirs = optax.apply_updates(theirs[0], updates), state
        *ours, norm = direct.apply(grads, jnp.float32(0.5), ours[1], ours[0])
        chex.assert_trees_all_close(norm, 0.5 * optax.tree.norm(grads), rtol=1e-6)
    chex.assert_trees_all_close(tuple(ours), theirs, rtol=1e-6, atol=1e-7)
