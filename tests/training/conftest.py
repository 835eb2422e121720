"""A model small enough to train in milliseconds, and batches for it."""

import functools
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.training.optimizer import make_optimizer
from ryot_jax.training.state import new_state
from ryot_jax.training.step import train_step

VOCABULARY, WIDTH, POSITIONS = 13, 8, 6


def token_losses(params, batch):
    """Cross-entropies_BT in nats, zero where the target is ignored, and which targets count."""
    bias_11D = params["layer"]["bias"][None, None]
    x_BTD = jnp.tanh(params["embedding"][batch["inputs"]] @ params["layer"]["kernel"] + bias_11D)
    log_p_BTV = jax.nn.log_softmax(x_BTD @ params["embedding"].T)
    valid_BT = batch["targets"] >= 0
    ids_BT1 = jnp.maximum(batch["targets"], 0)[..., None]
    losses_BT = -jnp.take_along_axis(log_p_BTV, ids_BT1, axis=-1)[..., 0]
    return jnp.where(valid_BT, losses_BT, 0.0), valid_BT


def loss_fn(params, batch, key):
    """The sums that a training step asks for."""
    losses_BT, valid_BT = token_losses(params, batch)
    return losses_BT.sum(), valid_BT.sum().astype(jnp.float32)


def init_params(seed=0):
    """Parameters of the tiny model: two matrices and a vector."""
    rng = np.random.default_rng(seed)
    return {
        "embedding": jnp.asarray(rng.normal(size=(VOCABULARY, WIDTH)), jnp.float32),
        "layer": {
            "kernel": jnp.asarray(rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5, jnp.float32),
            "bias": jnp.zeros(WIDTH, jnp.float32),
        },
    }


def make_batch(seed=0, rows=8):
    """A batch whose rows have very different numbers of targets, the first none at all."""
    rng = np.random.default_rng(seed)
    batch = {
        name: rng.integers(0, VOCABULARY, size=(rows, POSITIONS), dtype=np.int32) for name in ("inputs", "targets")
    }
    ignored = np.arange(POSITIONS)[None] >= (np.arange(rows) % (POSITIONS + 1))[:, None]
    batch["targets"][ignored] = -1
    return batch


class Batches:
    """An endless stream of batches that depends on the position only."""

    def __init__(self, rows=8):
        self.position, self.rows = 0, rows

    def __iter__(self):
        return self

    def __next__(self):
        self.position += 1
        return make_batch(self.position - 1, self.rows)

    def get_state(self):
        return {"next_index": self.position}

    def set_state(self, state):
        self.position = state["next_index"]


class Tiny:
    """What the tests of training need of a model, in one place."""

    loss_fn = staticmethod(loss_fn)
    token_losses = staticmethod(token_losses)
    init_params = staticmethod(init_params)
    make_batch = staticmethod(make_batch)
    Batches = Batches
    training = MappingProxyType(
        {
            "optimizer": "adamw",
            "learning_rate": 1e-2,
            "b1": 0.9,
            "b2": 0.95,
            "weight_decay": 0.1,
            "clip_norm": 1.0,
            "warmup_steps": 2,
            "schedule": "cosine",
        }
    )

    def optimizer(self, **overrides):
        return make_optimizer(self.training | overrides, total_steps=50)

    def state(self, optimizer=None, seed=0):
        return new_state(self.init_params(seed), optimizer or self.optimizer(), seed)

    def step_fn(self, optimizer=None, loss_fn=None, **kwargs):
        loss_fn, optimizer = loss_fn or self.loss_fn, optimizer or self.optimizer()
        return functools.partial(train_step, loss_fn=loss_fn, optimizer=optimizer, **kwargs)


@pytest.fixture
def tiny():
    return Tiny()
