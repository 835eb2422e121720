"""The training step against the same arithmetic in float64 numpy, and its rules about weights and keys."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ryot_jax.training.step import train_step

SGD = optax.sgd(1.0)  # the update is minus the gradient


def reference_loss_and_grads(params, batch):
    """Mean loss over the targets and its gradient by hand, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    inputs, targets = batch["inputs"].ravel(), batch["targets"].ravel()
    valid = targets >= 0
    e_ND = p["embedding"][inputs]
    h_ND = np.tanh(e_ND @ p["layer"]["kernel"] + p["layer"]["bias"])
    logits_NV = h_ND @ p["embedding"].T
    logits_NV -= logits_NV.max(-1, keepdims=True)
    p_NV = np.exp(logits_NV) / np.exp(logits_NV).sum(-1, keepdims=True)
    rows = np.arange(len(inputs))
    loss = -(np.log(p_NV[rows, np.maximum(targets, 0)]) * valid).sum() / valid.sum()
    g_NV = p_NV.copy()
    g_NV[rows, np.maximum(targets, 0)] -= 1
    g_NV *= valid[:, None] / valid.sum()
    g_ND = (g_NV @ p["embedding"]) * (1 - h_ND**2)
    embedding = g_NV.T @ h_ND
    np.add.at(embedding, inputs, g_ND @ p["layer"]["kernel"].T)
    return loss, {"embedding": embedding, "layer": {"kernel": e_ND.T @ g_ND, "bias": g_ND.sum(0)}}


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_loss_and_gradient_are_those_of_the_mean_over_all_targets(tiny, accumulation):
    """Microbatches have from 6 to 12 targets: a mean of their means would be far off."""
    state, batch = tiny.state(SGD), tiny.make_batch()
    after, metrics = train_step(state, batch, loss_fn=tiny.loss_fn, optimizer=SGD, accumulation=accumulation)
    loss, grads = reference_loss_and_grads(state.params, batch)
    # float32 sums of 22 terms of size one: a few units in the seventh digit.
    np.testing.assert_allclose(metrics["loss"], loss, rtol=2e-6)
    chex.assert_trees_all_close(
        jax.tree.map(lambda before, after: before - after, state.params, after.params), grads, atol=1e-6
    )
    assert float(metrics["n_targets"]) == (batch["targets"] >= 0).sum()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_gradient_is_taken_where_the_loss_sees_the_parameters_and_goes_straight_to_them(tiny, accumulation):
    def halved_from_step_3(params, step):
        return jax.tree.map(lambda x: x * jnp.where(step < 3, 1.0, 0.5), params)

    batch = tiny.make_batch()
    for step, factor in ((2, 1.0), (3, 0.5)):
        state = dataclasses.replace(tiny.state(SGD), step=jnp.int32(step))
        options = {"params_fn": halved_from_step_3, "accumulation": accumulation}
        after, metrics = train_step(state, batch, loss_fn=tiny.loss_fn, optimizer=SGD, **options)
        loss, grads = reference_loss_and_grads(jax.tree.map(lambda x, f=factor: f * x, state.params), batch)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=2e-6)
        chex.assert_trees_all_close(
            jax.tree.map(lambda before, after: before - after, state.params, after.params), grads, atol=1e-6
        )
        assert int(after.step) == step + 1


def test_a_mean_of_microbatch_means_would_be_noticed(tiny):
    batch = tiny.make_batch()
    loss = reference_loss_and_grads(tiny.init_params(), batch)[0]
    halves = [{name: x[i::2] for name, x in batch.items()} for i in range(2)]
    naive = np.mean([reference_loss_and_grads(tiny.init_params(), half)[0] for half in halves])
    assert abs(naive - loss) > 1e-3


def test_grad_norm_is_taken_before_clipping(tiny):
    state, batch = tiny.state(), tiny.make_batch()
    norms = [
        train_step(state, batch, loss_fn=tiny.loss_fn, optimizer=tiny.optimizer(clip_norm=clip))[1]["grad_norm"]
        for clip in (1e-3, 1e3)
    ]
    grads = reference_loss_and_grads(state.params, batch)[1]
    expected = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(norms, expected, rtol=1e-5)


def key_as_loss(params, batch, key):
    """A loss that is a random number, so that it shows which key came in."""
    return jax.random.uniform(key) * (1 + 0 * params["embedding"].sum()), jnp.float32(1)


def test_every_step_and_every_microbatch_gets_its_own_key_and_a_repeated_step_the_same(tiny):
    def losses(accumulation):
        state, seen = tiny.state(SGD), []
        for _ in range(3):
            state, metrics = train_step(
                state, tiny.make_batch(), loss_fn=key_as_loss, optimizer=SGD, accumulation=accumulation
            )
            seen.append(float(metrics["loss"]))
        return seen

    assert len(set(losses(1))) == 3
    assert losses(1) == losses(1)
    # Two microbatches with one key would give the loss of a single one: mean of twice the same.
    state = tiny.state(SGD)
    key = jax.random.fold_in(state.key, 0)
    each = [float(jax.random.uniform(jax.random.fold_in(key, i))) for i in range(2)]
    np.testing.assert_allclose(losses(2)[0], np.mean(each), rtol=1e-6)


def test_devices_get_different_keys_under_a_named_axis(tiny):
    """Two devices, each with one target: the loss is the mean of two different random numbers."""
    state, batch = tiny.state(SGD), jax.tree.map(lambda x: x.reshape(2, 4, -1), tiny.make_batch())
    _, metrics = jax.vmap(
        lambda b: train_step(state, b, loss_fn=key_as_loss, optimizer=SGD, axis_name="data"), axis_name="data"
    )(batch)
    key = jax.random.fold_in(state.key, 0)
    each = [float(jax.random.uniform(jax.random.fold_in(key, i))) for i in range(2)]
    assert each[0] != each[1]
    np.testing.assert_allclose(metrics["loss"], np.mean(each), rtol=1e-6)


def test_a_batch_without_targets_changes_nothing_but_the_step(tiny):
    state, batch = tiny.state(SGD), tiny.make_batch()
    batch["targets"][:] = -1
    after, metrics = train_step(state, batch, loss_fn=tiny.loss_fn, optimizer=SGD)
    chex.assert_trees_all_equal(after.params, state.params)
    assert int(after.step) == 1 and float(metrics["n_targets"]) == 0 and float(metrics["loss"]) == 0
