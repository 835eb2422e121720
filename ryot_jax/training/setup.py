"""The setup of a config's training: weights, optimizer, batches, evaluator, and the sizes of its step.

`step_programs` compiles the step, `loop` runs the training.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
import optax
from ml_collections import ConfigDict

from ryot_jax.data.batches import heldout_batches, training_dataset
from ryot_jax.data.pipeline import Corpus
from ryot_jax.kernels import Spec
from ryot_jax.machine.devices import Devices
from ryot_jax.model import ModelConfig, functional
from ryot_jax.optimizations import exclusions
from ryot_jax.training.evaluation import Evaluator, make_evaluator
from ryot_jax.training.optimizer import make_optimizer
from ryot_jax.training.state import State, init_state
from ryot_jax.training.steps import total_steps


@dataclasses.dataclass(frozen=True)
class TrainingSetup:
    """The common setup of all arms of a run.

    Attributes:
      config: the resolved config.
      model: its model section, with the compute dtype resolved for this machine.
      graphdef: the module without weights.
      state: the state before the first step; arms start from copies.
      optimizer: the optimizer of the mean gradient.
      dataset: batches with random access by step.
      evaluator: one program and one held-out set for all arms.
      heldout: the held-out batches on the host.
    """

    config: ConfigDict
    model: ModelConfig
    graphdef: functional.GraphDef
    state: State
    optimizer: optax.GradientTransformation
    dataset: Any
    evaluator: Evaluator
    heldout: dict[str, np.ndarray]

    @property
    def tokens_per_step(self) -> int:
        """Target tokens in one training batch."""
        return self.config.training.batch_size * self.config.training.seq_len


def build_setup(config: ConfigDict, model: ModelConfig, corpus: Corpus) -> TrainingSetup:
    """Builds weights, optimizer, batches and evaluator of a run from `config.seed`.

    Raises:
      DataError: a part of the text is shorter than one window.
      ConfigError: fields contradict each other.
    """
    training = config.training
    optimizer = make_optimizer(training, total_steps(config))
    graphdef, state = init_state(model, optimizer, config.seed)
    dataset = training_dataset(corpus.train, seq_len=training.seq_len, batch_size=training.batch_size, seed=config.seed)
    heldout = heldout_batches(
        corpus.heldout,
        seq_len=training.seq_len,
        batch_size=config.evaluation.batch_size,
        sequences=config.evaluation.sequences,
    )
    evaluator = make_evaluator(functools.partial(functional.sequence_losses, graphdef), heldout, state.params)
    return TrainingSetup(config, model, graphdef, state, optimizer, dataset, evaluator, heldout)


def reseeded(setup: TrainingSetup, corpus: Corpus, seed: int) -> TrainingSetup:
    """The setup with weights and order of batches from another seed; text, optimizer and evaluator do not change."""
    training = setup.config.training
    _, state = init_state(setup.model, setup.optimizer, seed)
    dataset = training_dataset(corpus.train, seq_len=training.seq_len, batch_size=training.batch_size, seed=seed)
    return dataclasses.replace(setup, state=state, dataset=dataset)


def kernel_spec(config: ConfigDict, model: ModelConfig, devices: Devices) -> Spec:
    """The sizes of one step, for the choice of kernels; `rows` counts those that one program has at a time."""
    training = config.training
    partitioned = training.parallelism == "jit"
    programs = 1 if partitioned else devices.local_count
    return Spec(
        platform=devices.platform,
        n_devices=devices.local_count if partitioned else 1,
        compute_dtype=model.compute_dtype,
        rows=training.batch_size // training.accumulation // programs * training.seq_len,
        d_model=model.d_model,
        d_ff=model.d_ff,
        vocab_size=model.vocab_size,
        seq_len=training.seq_len,
        n_heads=model.n_heads,
        mlp=model.mlp,
        norm=model.norm,
        rotary=model.positions == "rotary",
        dropout=model.dropout,
        compute_capability=devices.compute_capability,
        refusals=exclusions(config),
    )
