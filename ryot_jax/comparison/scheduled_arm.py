"""One training by a step schedule, from fresh weights to its end: what it took, and the loss that it came to.

The paired protocol wants the same batches in both arms, which a schedule does not give: such a training is timed apart,
and judged by the held-out loss at its end. What it is held against is left to the callers.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ryot_jax.comparison.arms import (
    Shared,
    compile_programs,
    kernel_spec,
    share,
    step_function,
    with_all_at_work,
)
from ryot_jax.data.batches import training_iterator
from ryot_jax.data.pipeline import Corpus
from ryot_jax.kernels import KernelPlan, resolve
from ryot_jax.model.config import from_config
from ryot_jax.runtime.compiler import counted_cache_hits, counted_compilations
from ryot_jax.runtime.devices import describe_devices
from ryot_jax.scaling import Static, StepSchedule, check, phases
from ryot_jax.training import recipe
from ryot_jax.training.evaluation import Evaluation
from ryot_jax.training.optimizer import evaluation_params, make_optimizer
from ryot_jax.training.parallel import STEPS_PER_CALL, CompiledStep, stack
from ryot_jax.training.program_check import ProgramCheck
from ryot_jax.training.scheduled import Programs, ScheduledTrainer, scheduled_dataset, scheduled_rate
from ryot_jax.training.state import init_state


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training differs in from the config's, fixed before anything runs.

    Attributes:
      name: for people.
      phases: its steps, see `ryot_jax.scaling.phases`.
      parts: of a recipe, see `ryot_jax.training.recipe`.
      learning_rate: None: the config's.
    """

    name: str
    phases: str = "100% of B x T"
    parts: tuple[str, ...] = ()
    learning_rate: float | None = None


def plans(config: ConfigDict) -> list[Plan]:
    """The trainings that `config.scaling` asks for: 'schedule', 'recipe' and 'both'."""
    scaling = config.scaling
    with_recipe = (recipe.parse(scaling.recipe), scaling.recipe_learning_rate)
    wanted = [
        Plan("schedule", scaling.schedule),
        Plan("recipe", scaling.recipe_schedule, *with_recipe),
        Plan("both", scaling.both_schedule, *with_recipe),
    ]
    return [plan for plan in wanted if plan.phases and (plan.parts or plan.name == "schedule")]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What came of one training.

    Attributes:
      learning_rate: its largest.
      schedule: of its steps, which the executed ones were found to be.
      seconds: of all its steps.
      compile_seconds: of its programs, without their checks.
      from_cache: whether any of them came from the cache of compiled programs.
      checks: of the programs, by what they were compiled for; none where the config turns them off.
      heldout: losses at its end.
      unplanned: programs that were compiled while it ran.
    """

    learning_rate: float
    schedule: StepSchedule
    seconds: float
    compile_seconds: float
    from_cache: bool
    checks: dict[Static, ProgramCheck]
    heldout: Evaluation
    unplanned: int


def train_by(plan: Plan, shared: Shared, kernels: KernelPlan, corpus: Corpus, *, seed: int) -> Trained:
    """Trains once by a plan.

    Args:
      plan: what differs.
      shared: of the config's training.
      kernels: with which; with a recipe those that its model and optimizer can take, chosen anew.
      corpus: the text.
      seed: of weights and batches.

    Raises:
      ConfigError: the plan does not fit the config.
      RyotError: as `train`.
    """
    if plan.parts or plan.learning_rate is not None:
        config = recipe.with_recipe(shared.config, plan.parts, plan.learning_rate)
        shared = dataclasses.replace(shared, config=config)
    if plan.parts:
        devices = describe_devices()
        model = from_config(shared.config.model, devices.platform)
        kernels = resolve(shared.config.optimizations, spec=kernel_spec(shared.config, model, devices)).plan
        shared = share(shared.config, model, corpus)
    training = shared.config.training
    schedule = phases.laid_out(
        phases.parse(plan.phases),
        batch_size=training.batch_size,
        seq_len=training.seq_len,
        n_layers=shared.model.n_layers,
        steps=training.epochs * training.steps_per_epoch,
        multiple_of=_steps_per_call(kernels),
    )
    return train(shared, schedule, kernels, corpus, seed=seed)


def train(shared: Shared, schedule: StepSchedule, kernels: KernelPlan, corpus: Corpus, *, seed: int) -> Trained:
    """Trains once, by programs that are compiled for it.

    Each program runs once on copies before anything is timed, as those of every arm do. Warm-up takes the share of the
    tokens that it takes of the config's training.

    Args:
      shared: config, model and evaluator; neither its state nor its batches.
      schedule: what the steps are.
      kernels: with which.
      corpus: the text.
      seed: of weights and batches.

    Raises:
      ConfigError: the schedule cannot be trained.
      NonFiniteLossError: a loss is not finite.
      RyotError: the steps that ran were not the schedule's.
    """
    config = shared.config.copy_and_resolve_references()
    training, steps = config.training, _steps_per_call(kernels)
    check(
        schedule,
        max_len=shared.model.max_len,
        n_layers=shared.model.n_layers,
        n_devices=describe_devices().local_count,
        accumulation=training.accumulation,
        steps_per_call=steps,
    )
    planned_steps = training.epochs * training.steps_per_epoch
    training.warmup_steps = round(training.warmup_steps / planned_steps * schedule.total_steps)
    training.epochs, training.steps_per_epoch = 1, schedule.total_steps
    rate = scheduled_rate(training, schedule)
    optimizer = make_optimizer(training, schedule.total_steps, rate)
    _, state = init_state(shared.model, optimizer, seed)
    at_work = with_all_at_work(state, config, kernels)
    dataset = scheduled_dataset(np.asarray(corpus.train), schedule, seed=seed)
    checks: dict[Static, ProgramCheck] = {}

    def compile_static(static: Static) -> CompiledStep:
        first = next(segment.first for segment in schedule.segments if segment.static == static)
        batches = [dataset[first]] * STEPS_PER_CALL
        step_fn = step_function(config, shared.model, shared.graphdef, optimizer, kernels, rate, static.depth)
        programs, found = compile_programs(step_fn, at_work, batches, config=config, model=shared.model, plan=kernels)
        name = "scan" if steps > 1 else "step"
        if found:
            checks[static] = found[name]
        # Its first call, which takes longer than the others, on copies.
        batch = stack(batches) if steps > 1 else batches[0]
        jax.block_until_ready(programs[name](jax.tree.map(jnp.copy, at_work), batch))
        return programs[name]

    with counted_cache_hits() as hits:
        programs = Programs(schedule, compile_static)
    trainer = ScheduledTrainer("scheduled", programs, state, training_iterator(dataset))
    with counted_compilations() as unplanned:
        result = trainer.run()
    heldout = shared.evaluator(evaluation_params(training.optimizer, trainer.trainer.state))
    return Trained(
        training.learning_rate,
        schedule,
        result.seconds,
        sum(sum(program.seconds.values()) for program in programs.compiled.values()),
        bool(hits),
        checks,
        heldout,
        len(unplanned),
    )


def _steps_per_call(kernels: KernelPlan) -> int:
    """Training steps that one call of a program takes."""
    return STEPS_PER_CALL if kernels.dispatch == "scan" else 1
