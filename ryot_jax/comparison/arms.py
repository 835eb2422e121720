"""Arms made from a config: everything that they share, and what sets each apart.

Shared are text, initial weights, optimizer and the evaluator; a variant's kernel plan is the only difference.
How arms take turns is left to `protocol`, how one trains to `training`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from ryot_jax.comparison.protocol import tree_hash
from ryot_jax.comparison.variants import Variant
from ryot_jax.config.rules import rounded_steps
from ryot_jax.data.batches import heldout_batches, training_dataset, training_iterator
from ryot_jax.data.pipeline import Corpus
from ryot_jax.kernels import Spec
from ryot_jax.kernels.resolution import Lookup
from ryot_jax.machine.devices import Devices
from ryot_jax.model import ModelConfig, functional
from ryot_jax.optimizations import (
    KernelPlan,
    Resolution,
    activations_dtype,
    is_on_activations_in,
    products_rounding,
    resolve,
)
from ryot_jax.optimizations.dispatch import STEPS_PER_CALL
from ryot_jax.training import program_check
from ryot_jax.training.evaluation import Evaluation, Evaluator, make_evaluator
from ryot_jax.training.loop import BlockResult, Trainer
from ryot_jax.training.optimizer import Optimizer, make_optimizer, with_adamw_kernel
from ryot_jax.training.parallel import CompiledStep, StepFn, compile_step, stack
from ryot_jax.training.program_check import ProgramCheck, checked, checked_scan
from ryot_jax.training.qat import rounded_from
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


def reseeded(shared: Shared, corpus: Corpus, seed: int) -> Shared:
    """The same with the weights and the order of batches of another seed; text, optimizer and evaluator stay."""
    training = shared.config.training
    _, state = init_state(shared.model, shared.optimizer, seed)
    dataset = training_dataset(corpus.train, seq_len=training.seq_len, batch_size=training.batch_size, seed=seed)
    return dataclasses.replace(shared, state=state, dataset=dataset)


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
        compute_capability=devices.compute_capability,
        refusals=_refusals(config),
    )


def _refusals(config: ConfigDict) -> dict[str, str]:
    """Why this training cannot have an optimization at all, by optimization."""
    refusals = {}
    if config.training.optimizer != "adamw":
        refusals["optimizer"] = f"the kernel takes steps of adamw, not of {config.training.optimizer}"
    if config.training.parallelism == "pmap":
        refusals["dispatch"] = "pmap takes one step a call"
    elif config.comparison.block_steps // 2 < STEPS_PER_CALL:
        refusals["dispatch"] = (
            f"half a block of comparison.block_steps = {config.comparison.block_steps} steps is over before a call of "
            f"{STEPS_PER_CALL} is"
        )
    return refusals


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
    rate: optax.Schedule | None = None,
    depth: int = 0,
) -> StepFn:
    """The training step of a model with the kernels of `plan`; `optimizer` is that of the config, with this rate.

    `depth`: the loss is that of the first layers only; 0: of all.
    """
    training = config.training

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        dropout_key = key if model.dropout > 0 else None
        return functional.loss(graphdef, params, batch, plan=plan, key=dropout_key, depth=depth)

    total_steps = training.epochs * training.steps_per_epoch
    step_optimizer: Optimizer = optimizer
    if plan["optimizer"] != "reference":
        step_optimizer = with_adamw_kernel(optimizer, training, total_steps, plan["optimizer"], rate)
    params_fn = None
    if plan["qat"] == "round":
        params_fn = rounded_from(_first_rounded_step(config), config.compression.qat_bits)
    return functools.partial(
        train_step,
        loss_fn=loss_fn,
        optimizer=step_optimizer,
        params_fn=params_fn,
        accumulation=training.accumulation,
    )


def with_all_at_work(state: State, config: ConfigDict, plan: KernelPlan) -> State:
    """The state, numbered as one of a step in which everything that the plan switches on is at work.

    For what is to speak of all of a step's program: its start-up check, its warm-up, and the times of an ablation.
    """
    if plan["qat"] != "round":
        return state
    return dataclasses.replace(state, step=jnp.asarray(_first_rounded_step(config), state.step.dtype))


def _first_rounded_step(config: ConfigDict) -> int:
    return int(config.training.epochs * config.training.steps_per_epoch - rounded_steps(config))


def compile_programs(
    step_fn: StepFn, state: State, batches: Sequence[Any], *, config: ConfigDict, model: ModelConfig, plan: KernelPlan
) -> tuple[dict[str, CompiledStep], dict[str, ProgramCheck]]:
    """The programs of a step and what came of their checks, by name: 'step' and, if the plan says so, 'scan'.

    Args:
      step_fn: the step with the kernels of `plan`.
      state: one that all of the step's program is at work in, see `with_all_at_work`.
      batches: the first `STEPS_PER_CALL` ones.
      config: of the run; without `runtime.check_programs` nothing is checked.
      model: its model section.
      plan: the kernels.
    """
    parallelism = config.training.parallelism
    if not config.runtime.check_programs:
        programs = {"step": compile_step(step_fn, state, batches[0], parallelism=parallelism)}
        if plan["dispatch"] == "scan":
            programs["scan"] = compile_step(step_fn, state, stack(batches), steps=len(batches), parallelism=parallelism)
        return programs, {}
    tolerance = _tolerance(model, plan)
    step, step_check = checked(step_fn, state, batches[0], parallelism=parallelism, tolerance=tolerance)
    programs, checks = {"step": step}, {"step": step_check}
    if plan["dispatch"] == "scan":
        programs["scan"], checks["scan"] = checked_scan(step_fn, state, batches, step=step, tolerance=tolerance)
    return programs, checks


def _tolerance(model: ModelConfig, plan: KernelPlan) -> float:
    """What rounding alone can make two compilations of one step differ by."""
    in_cpp = is_on_activations_in(plan, "cpu")
    if activations_dtype(plan, model.compute_dtype) != "float32" and not in_cpp:
        return program_check.BFLOAT16_TOLERANCE
    # The C++ kernels are the same in both compilations; what XLA computes around them may round to bfloat16.
    if in_cpp or products_rounding(plan):
        return program_check.BFLOAT16_PRODUCTS_TOLERANCE
    return program_check.FLOAT32_TOLERANCE


class Arm:
    """One variant in training, as the paired protocol wants it.

    Attributes:
      programs: its compiled programs by name, 'step' and, where its plan dispatches several steps a call, 'scan'.
      program_checks: what came of the start-up check of each; none if the config turns it off.
      trainer: state, data and counters.
      on_step: see `Trainer.run_block`.
    """

    def __init__(self, shared: Shared, variant: Variant, *, same_programs_as: "Arm | None" = None):
        """Compiles and checks its programs, or takes those of another arm of the same variant and sizes."""
        self.name = variant.name
        self.variant = variant
        self.shared = shared
        self._first_batches = [shared.dataset[i] for i in range(STEPS_PER_CALL)]
        if same_programs_as is None:
            self.programs, self.program_checks = self._compiled(shared.config)
        else:
            self.programs, self.program_checks = same_programs_as.programs, same_programs_as.program_checks
        self.trainer = self._trainer(variant.name, shared.dataset)
        self.on_step: Callable[[int, float], None] | None = None

    def _compiled(self, config: ConfigDict) -> tuple[dict[str, CompiledStep], dict[str, ProgramCheck]]:
        shared, plan = self.shared, self.variant.plan
        step_fn = step_function(shared.config, shared.model, shared.graphdef, shared.optimizer, plan)
        state = with_all_at_work(shared.state, shared.config, plan)
        return compile_programs(step_fn, state, self._first_batches, config=config, model=shared.model, plan=plan)

    def _trainer(self, name: str, dataset: Any) -> Trainer:
        return Trainer(
            name,
            self.programs["step"],
            self.shared.state,
            training_iterator(dataset),
            scanned_steps=self.programs.get("scan"),
            optimizer_name=self.shared.config.training.optimizer,
        )

    def twin(self, name: str) -> Trainer:
        """Another training with the same programs, initial weights and batches, for the controls."""
        return self._trainer(name, self.shared.dataset)

    def shuffled_twin(self, name: str) -> Trainer:
        """A twin whose targets are shuffled over each batch: as many of each token, and nothing to learn from."""
        seed = self.shared.config.seed

        def shuffled(step: int, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            order = np.random.default_rng((seed, step)).permutation(batch["targets"].size)
            return {**batch, "targets": batch["targets"].reshape(-1)[order].reshape(batch["targets"].shape)}

        return self._trainer(name, self.shared.dataset.map_with_index(shuffled))

    @property
    def step(self) -> int:
        """Training steps done."""
        return self.trainer.steps_taken

    @property
    def compile_seconds(self) -> dict[str, float]:
        """Seconds of 'trace', 'lower' and 'compile', of all programs together."""
        parts = [program.seconds for program in self.programs.values()]
        return {name: sum(seconds[name] for seconds in parts) for name in parts[0]}

    @property
    def from_cache(self) -> bool:
        """Whether any of its programs came from the cache of compiled programs."""
        return any(program.from_cache for program in self.programs.values())

    def warm_compile_seconds(self) -> float:
        """What compiling its programs takes where the cache of compiled programs has them: it is done once more."""
        config = self.shared.config.copy_and_resolve_references()
        config.runtime.check_programs = False
        programs, _ = self._compiled(config)
        return sum(sum(program.seconds.values()) for program in programs.values())

    @property
    def memory_bytes(self) -> int | None:
        """Of the program that needs the most on one device; None where not known."""
        sizes = [program.memory_bytes for program in self.programs.values()]
        return max((size for size in sizes if size is not None), default=None)

    def hlo_text(self) -> str:
        """The program that takes most of the steps, as the compiler prints it: the scan where there is one."""
        return self.programs.get("scan", self.programs["step"]).hlo_text()

    def params_hash(self) -> str:
        """Digest of the present weights."""
        return tree_hash(self.trainer.state.params)

    def batches_hash(self) -> str:
        """Running digest of every batch that the arm was fed."""
        return self.trainer.batches_sha256

    def warm_up(self) -> None:
        """Runs every program once on copies: what a first execution costs more is not a step's time."""
        for program in self.programs.values():
            copy = jax.tree.map(jnp.copy, self.trainer.state)
            copy = with_all_at_work(copy, self.shared.config, self.variant.plan)
            batch = self._first_batches[0] if program.steps == 1 else stack(self._first_batches)
            jax.block_until_ready(program(copy, batch))

    def run_block(self, n_steps: int) -> BlockResult:
        """Takes `n_steps` steps."""
        return self.trainer.run_block(n_steps, on_step=self.on_step)

    def evaluate(self) -> Evaluation:
        """Held-out loss of the present weights."""
        return self.trainer.evaluate(self.shared.evaluator)
