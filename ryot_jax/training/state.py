"""The state of training: everything that the next step depends on, as one pytree.

`parallel` places it on devices, `checkpoints` writes it to disk.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ryot_jax.model import functional
from ryot_jax.model.config import ModelConfig

_STREAM = 1  # separates the keys of training from those of the initial weights, which have the same seed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """The state that a training step maps to its successor.

    Attributes:
      params: nested dict of f32 arrays.
      opt_state: the optimizer's state.
      step: int32[], number of steps taken.
      key: typed PRNG key; never changes, the step folds its own number into it.
    """

    params: Any
    opt_state: Any
    step: jax.Array
    key: jax.Array


def init_state(
    cfg: ModelConfig, optimizer: optax.GradientTransformation, seed: int
) -> tuple[functional.GraphDef, State]:
    """A fresh model and the state before its first step; the same seed gives the same numbers."""
    graphdef, params = functional.init(cfg, seed)
    return graphdef, new_state(params, optimizer, seed)


def new_state(params: Any, optimizer: optax.GradientTransformation, seed: int) -> State:
    """The state before the first step. No two of its leaves share a buffer, so that it can be donated."""
    key = jax.random.fold_in(jax.random.key(seed), _STREAM)
    state = State(params=params, opt_state=optimizer.init(params), step=jnp.zeros((), jnp.int32), key=key)
    return jax.tree.map(lambda x: jnp.array(x, copy=True), state)
