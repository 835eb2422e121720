"""The baseline trains as the same model does in another framework: ten losses of PyTorch's, from the same weights.

The numbers are written by experiments/peers/torch_reference.py, whose docstring has the commands.
"""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util

from ryot_jax.config import from_json
from ryot_jax.model import functional
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import KernelPlan
from ryot_jax.training import optimizer as optimizers
from ryot_jax.training.state import new_state
from ryot_jax.training.step import train_step

REFERENCE = Path(__file__).parent / "reference"
# Losses are about 4 nats, and float32 has steps of 5e-7 there. Both programs add up in orders of their own, which ten
# steps of AdamW amplify: they differ by 2.4e-7 on an AMD EPYC (Zen 3). Every change
# below moves a loss by more than ten times the tolerance.
TOLERANCE = 5e-6


def recorded(field):
    return np.asarray(json.loads((REFERENCE / "losses.json").read_text(encoding="utf-8"))[field])


def reference_config():
    return from_json((REFERENCE / "config.json").read_text(encoding="utf-8"))


@functools.cache
def loss_function():
    """The baseline's loss, compiled once for all trainings of this file."""
    config = reference_config()
    graphdef, _ = functional.init(from_config(config.model, "cpu"), config.seed)
    return jax.jit(lambda params, batch, key: functional.loss(graphdef, params, batch, plan=KernelPlan()))


def train(**changes):
    """Losses and gradient norms of ten steps of the baseline, with fields of the config's training section changed.

    The optimizer's operations run one by one: compiling a step for each change would take most of the time.
    """
    config = reference_config()
    config.training.update(changes)
    training = config.training
    with np.load(REFERENCE / "weights.npz") as arrays:
        params = traverse_util.unflatten_dict(dict(arrays), sep="/")
    tokens_nBT = np.load(REFERENCE / "tokens.npy")
    optimizer = optimizers.make_optimizer(training, training.epochs * training.steps_per_epoch)

    step = functools.partial(train_step, loss_fn=loss_function(), optimizer=optimizer)
    state, losses, norms = new_state(params, optimizer, config.seed), [], []
    for window_BT in tokens_nBT[: len(recorded("losses"))]:
        state, metrics = step(state, {"inputs": window_BT[:, :-1], "targets": window_BT[:, 1:]})
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))
    return np.asarray(losses), np.asarray(norms)


def test_ten_losses_are_those_of_pytorch():
    losses, norms = train()
    assert len(losses) == 10 and losses[-1] < losses[0] - 0.5, "it trains"
    np.testing.assert_allclose(losses, recorded("losses"), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(norms, recorded("gradient_norms"), rtol=1e-4)


def distance(**changes):
    losses, _ = train(**changes)
    return np.abs(losses - recorded("losses")).max()


@pytest.mark.parametrize(
    "changes",
    [
        {"b1": 0.91},
        {"b2": 0.96},
        {"weight_decay": 0.51},
        {"clip_norm": 0.0},
        {"learning_rate": 0.0201},
        {"warmup_steps": 4},
        {"schedule": "linear"},
    ],
    ids=str,
)
def test_another_training_is_told_apart(changes):
    assert distance(**changes) > 10 * TOLERANCE


@pytest.mark.parametrize("mask", [None, lambda params: jax.tree.map(lambda x: x.ndim < 2, params)])
def test_another_mask_of_the_weight_decay_is_told_apart(monkeypatch, mask):
    plain = optax.adamw
    monkeypatch.setattr(optimizers.optax, "adamw", lambda *a, **k: plain(*a, **(k | {"mask": mask})))
    assert distance() > 10 * TOLERANCE


@pytest.mark.parametrize("change", [{"eps": 1e-7}, {"eps": 0.0, "eps_root": 1e-12}], ids=str)
def test_another_epsilon_is_told_apart(monkeypatch, change):
    plain = optax.adamw
    monkeypatch.setattr(optimizers.optax, "adamw", lambda *a, **k: plain(*a, **(k | change)))
    assert distance() > 10 * TOLERANCE
