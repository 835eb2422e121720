"""Arms made from a config: everything that they share, and what sets each apart.

Shared are text, initial weights, optimizer and the evaluator; a variant's kernel plan is the only difference.
How arms take turns is left to `protocol`, how one trains to `training`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from ryot_jax.comparison.protocol import tree_hash
from ryot_jax.comparison.variants import Variant
from ryot_jax.data.batches import heldout_batches, training_dataset, training_iterator
from ryot_jax.data.pipeline import Corpus
from ryot_jax.kernels import KernelPlan, Resolution, Spec, resolve
from ryot_jax.kernels.plan import Lookup
from ryot_jax.model import ModelConfig, functional
from ryot_jax.runtime.devices import Devices
from ryot_jax.training import program_check
from ryot_jax.training.evaluation import Evaluation, Evaluator, make_evaluator
from ryot_jax.training.loop import BlockResult, Trainer
from ryot_jax.training.optimizer import make_optimizer
from ryot_jax.training.parallel import StepFn, compile_step
from ryot_jax.training.program_check import ProgramCheck, checked
from ryot_jax.training.state import State, init_state
from ryot_jax.training.step import train_step


@dataclasses.dataclass(frozen=True)
class Shared:
    """What all arms of a run have in common.

    Attributes:
      config: the resolved config.
      model: its model section, with the compute dtype resolved for this machine.
      graphdef: the module without weights.
      state: the state before the first step; arms start from copies.
      optimizer: of the mean gradient.
      dataset: batches by step.
      evaluator: one program and one held-out set for all.
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


def share(config: ConfigDict, model: ModelConfig, corpus: Corpus) -> Shared:
    """Weights, optimizer, batches and evaluator of a run, all from `config.seed`.

    Raises:
      DataError: a part of the text is shorter than one window.
      ConfigError: fields contradict each other.
    """
    training = config.training
    optimizer = make_optimizer(training, training.epochs * training.steps_per_epoch)
    graphdef, state = init_state(model, optimizer, config.seed)
    dataset = training_dataset(corpus.train, seq_len=training.seq_len, batch_size=training.batch_size, seed=config.seed)
    heldout = heldout_batches(
        corpus.heldout,
        seq_len=training.seq_len,
        batch_size=config.evaluation.batch_size,
        sequences=config.evaluation.sequences,
    )
    evaluator = make_evaluator(functools.partial(functional.sequence_losses, graphdef), heldout, state.params)
    return Shared(config, model, graphdef, state, optimizer, dataset, evaluator, heldout)


def kernel_spec(config: ConfigDict, model: ModelConfig, devices: Devices) -> Spec:
    """The sizes of one step, for the choice of kernels; rows are those that one program has at a time."""
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
    )


def variants(
    config: ConfigDict, spec: Spec, lookup: Lookup | None = None
) -> tuple[tuple[Variant, ...], dict[str, Resolution]]:
    """The variants that the config asks for, the baseline first, and how the kernels of each were chosen."""
    off = Resolution(KernelPlan(), dict.fromkeys(config.optimizations, "the baseline has every optimization off"))
    resolutions = {
        name: off if name == "baseline" else resolve(config.optimizations, spec=spec, lookup=lookup)
        for name in sorted(config.comparison.arms)  # 'baseline' sorts first
    }
    return tuple(Variant(name, resolution.plan) for name, resolution in resolutions.items()), resolutions


def step_function(
    config: ConfigDict,
    model: ModelConfig,
    graphdef: functional.GraphDef,
    optimizer: optax.GradientTransformation,
    plan: KernelPlan,
) -> StepFn:
    """The training step of a model with the kernels of `plan`."""

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        dropout_key = key if model.dropout > 0 else None
        return functional.loss(graphdef, params, batch, plan=plan, key=dropout_key)

    return functools.partial(
        train_step, loss_fn=loss_fn, optimizer=optimizer, accumulation=config.training.accumulation
    )


def _tolerance(model: ModelConfig, plan: KernelPlan) -> float:
    """What rounding alone can make two compilations of one step differ by."""
    in_cpp = {plan.linear_cross_entropy, plan.attention, plan.dense, plan.norm} == {"cpu"}
    if (plan.activations or model.compute_dtype) != "float32" and not in_cpp:
        return program_check.BFLOAT16_TOLERANCE
    # The C++ kernels are the same in both compilations; what XLA computes around them may round to bfloat16.
    if in_cpp or plan.dense == "xla":
        return program_check.BFLOAT16_PRODUCTS_TOLERANCE
    return program_check.FLOAT32_TOLERANCE


class Arm:
    """One variant in training, as the paired protocol wants it."""

    def __init__(self, shared: Shared, variant: Variant):
        self.name = variant.name
        self.variant = variant
        self._shared = shared
        training = shared.config.training
        step_fn = step_function(shared.config, shared.model, shared.graphdef, shared.optimizer, variant.plan)
        self._first_batch = shared.dataset[0]
        self.program_check: ProgramCheck | None = None
        if shared.config.runtime.check_programs:
            step, self.program_check = checked(
                step_fn,
                shared.state,
                self._first_batch,
                parallelism=training.parallelism,
                tolerance=_tolerance(shared.model, variant.plan),
            )
        else:
            step = compile_step(step_fn, shared.state, self._first_batch, parallelism=training.parallelism)
        self.trainer = Trainer(
            variant.name,
            step,
            shared.state,
            training_iterator(shared.dataset),
            optimizer_name=training.optimizer,
        )
        self.on_step: Callable[[int, float], None] | None = None

    @property
    def step(self) -> int:
        """Training steps done."""
        return self.trainer.steps_taken

    def params_hash(self) -> str:
        """Digest of the present weights."""
        return tree_hash(self.trainer.state.params)

    def batches_hash(self) -> str:
        """Running digest of every batch that the arm was fed."""
        return self.trainer.batches_sha256

    def warm_up(self) -> None:
        """Runs the compiled step once on copies: what a first execution costs more is not a step's time."""
        copy = jax.tree.map(jnp.copy, self.trainer.state)
        jax.block_until_ready(self.trainer.compiled_step(copy, self._first_batch))

    def run_block(self, n_steps: int) -> BlockResult:
        """Takes `n_steps` steps."""
        return self.trainer.run_block(n_steps, on_step=self.on_step)

    def evaluate(self) -> Evaluation:
        """Held-out loss of the present weights."""
        return self.trainer.evaluate(self._shared.evaluator)
