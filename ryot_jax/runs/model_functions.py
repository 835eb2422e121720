"""A model as functions of its parameters, for compression, and the windows of text that it is judged on."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ryot_jax.data.batches import heldout_batches
from ryot_jax.model import functional
from ryot_jax.model.config import ModelConfig
from ryot_jax.optimizations import KernelPlan, resolve_to_rounding
from ryot_jax.runs.session import Session
from ryot_jax.training.evaluation import Evaluator, make_evaluator

ALL_SEQUENCES = 2**31 - 1  # every sequence of the text


@dataclasses.dataclass(frozen=True)
class ModelFunctions:
    """A model as functions of (parameters, batch).

    Attributes:
      graphdef: the module without its weights.
      loss: mean cross-entropy in nats/token, with the reference kernels, which work under every transformation.
      fast_loss: `loss` with the fastest kernels of this machine.
      logits: logits, float32[B, T, V].
      sequence_losses: sum of cross-entropies and number of targets of each sequence.
    """

    graphdef: functional.GraphDef
    loss: Callable[[Any, Any], jax.Array]
    fast_loss: Callable[[Any, Any], jax.Array]
    logits: Callable[[Any, Any], jax.Array]
    sequence_losses: Callable[[Any, Any], tuple[jax.Array, jax.Array]]

    @classmethod
    def of(cls, session: Session, model: ModelConfig) -> "ModelFunctions":
        """Makes the functions of a model of this session whose layers are not stacked."""
        graphdef = functional.graph(model)
        # Rounding to bfloat16 would drown the small rises that are measured.
        fast = resolve_to_rounding(session.config.optimizations, spec=session.spec).plan

        def mean_loss(plan: KernelPlan, params: Any, batch: Any) -> jax.Array:
            loss_sum, n_targets = functional.loss(graphdef, params, batch, plan=plan)
            return loss_sum / jnp.maximum(n_targets, 1.0)

        def logits(params: Any, batch: Any) -> jax.Array:
            x_BTD = functional.hidden(graphdef, params, batch["inputs"], plan=KernelPlan())
            return jnp.einsum(
                "btd,vd->btv", x_BTD, functional.unembedding(graphdef, params), preferred_element_type=jnp.float32
            )

        return cls(
            graphdef,
            functools.partial(mean_loss, KernelPlan()),
            functools.partial(mean_loss, fast),
            logits,
            functools.partial(functional.sequence_losses, graphdef),
        )

    def evaluator(self, ids: np.ndarray, config: ConfigDict, sequences: int, params: Any) -> Evaluator:
        """Makes an evaluator, for trees like `params`, on at most `sequences` windows spread evenly over the text."""
        return make_evaluator(self.sequence_losses, _windows(ids, config, sequences), params)


def batches(ids: np.ndarray, config: ConfigDict, sequences: int) -> list[dict[str, np.ndarray]]:
    """At most `sequences` windows spread evenly over the text, in batches of `evaluation.batch_size`."""
    stacked = _windows(ids, config, sequences)
    return [{name: array[i] for name, array in stacked.items()} for i in range(len(stacked["targets"]))]


def _windows(ids: np.ndarray, config: ConfigDict, sequences: int) -> dict[str, np.ndarray]:
    return heldout_batches(
        ids, seq_len=config.training.seq_len, batch_size=config.evaluation.batch_size, sequences=sequences
    )
