"""One training by a step schedule, from fresh weights to its end: what it took, and the loss that it came to.

The paired protocol wants the same batches in both arms, which a schedule does not give: such a training is timed apart,
and judged by the held-out loss at its end. What it is held against is left to the callers.
"""

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence

import grain
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
from ryot_jax.machine.devices import describe_devices
from ryot_jax.model import ModelConfig
from ryot_jax.model.config import from_config
from ryot_jax.runtime.compiler import counted_compilations
from ryot_jax.scaling import ProgramKey, StepSchedule, check, phases
from ryot_jax.scaling.schedule import Segment
from ryot_jax.training import recipe
from ryot_jax.training.evaluation import Evaluation
from ryot_jax.training.optimizer import evaluation_params, make_optimizer
from ryot_jax.training.parallel import STEPS_PER_CALL, CompiledStep, stack
from ryot_jax.training.program_check import ProgramCheck
from ryot_jax.training.scheduled import Programs, ScheduledTrainer, scheduled_dataset, scheduled_rate
from ryot_jax.training.state import State, init_state

_TURNS = 5


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
class Kind:
    """Steps that one program takes.

    Attributes:
      static: what it was compiled for.
      steps: so many.
      seconds: of all of them.
      compile_seconds: of the program.
    """

    static: ProgramKey
    steps: int
    seconds: float
    compile_seconds: float


def saved_seconds(kind: Kind, kinds: Sequence[Kind]) -> float | None:
    """What the steps of a kind take less than as many tokens do in the largest steps of all layers.

    Those are the ones that would be taken without it: a kind of steps repays its compilation where it saves more than
    that. None where it is that kind itself, or there is none.
    """
    whole = [other for other in kinds if other.static.depth == 0]
    largest = max(whole, key=lambda other: other.static.tokens, default=kind)
    if largest is kind:
        return None
    per_token = largest.seconds / (largest.steps * largest.static.tokens)
    return kind.steps * kind.static.tokens * per_token - kind.seconds


@dataclasses.dataclass(frozen=True)
class Trained:
    """What came of one training.

    Attributes:
      config: with the recipe, if there is one.
      state: at its end.
      schedule: of its steps, which the executed ones were found to be.
      kinds: of its steps, and what each took.
      seconds: of all its steps.
      compile_seconds: of its programs, without their checks.
      from_cache: whether any of them came from the cache of compiled programs.
      checks: of the programs, by what they were compiled for; none where the config turns them off.
      heldout: losses at its end.
      unplanned: programs that were compiled while it ran.
    """

    config: ConfigDict
    state: State
    schedule: StepSchedule
    kinds: list[Kind]
    seconds: float
    compile_seconds: float
    from_cache: bool
    checks: dict[ProgramKey, ProgramCheck]
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
    config, model, kernels = _resolved(plan, shared.config, kernels)
    shared = share(config, model, corpus) if plan.parts else dataclasses.replace(shared, config=config)
    schedule = schedule_of(plan, shared.config, steps_per_call=_steps_per_call(kernels))
    return train(shared, schedule, kernels, corpus, seed=seed)


def schedule_of(plan: Plan, config: ConfigDict, *, steps_per_call: int = 1) -> StepSchedule:
    """The plan's steps for the sizes of a config.

    Raises:
      ConfigError: its phases are none.
    """
    training = config.training
    return phases.laid_out(
        phases.parse(plan.phases),
        batch_size=training.batch_size,
        seq_len=training.seq_len,
        n_layers=config.model.n_layers,
        steps=training.epochs * training.steps_per_epoch,
        multiple_of=steps_per_call,
    )


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
    made = _make(shared.config, shared.model, schedule, kernels, np.asarray(corpus.train), seed)
    trainer = ScheduledTrainer("scheduled", made.programs, made.state, training_iterator(made.dataset))
    with counted_compilations() as unplanned:
        seconds = [trainer.run(segment.end - segment.first).seconds for segment in schedule.segments]
    heldout = shared.evaluator(evaluation_params(shared.config.training.optimizer, trainer.trainer.state))
    return Trained(
        shared.config,
        trainer.trainer.state,
        schedule,
        _kinds(made, dict(zip(schedule.segments, seconds, strict=True))),
        sum(seconds),
        made.compile_seconds(),
        any(program.from_cache for program in made.programs.compiled.values()),
        made.checks,
        heldout,
        len(unplanned),
    )


def step_times(plan: Plan, config: ConfigDict, kernels: KernelPlan, *, seconds: float = 1.0) -> list[Kind]:
    """What each kind of a plan's steps would take, on random tokens, without training.

    Args:
      plan: what differs from the config's training.
      config: of the run.
      kernels: as of `train_by`.
      seconds: for which each kind's steps run, in five turns of all kinds; the median counts.

    Raises:
      ConfigError: as `train_by`.
    """
    config, model, kernels = _resolved(plan, config, kernels)
    schedule = schedule_of(plan, config, steps_per_call=_steps_per_call(kernels))
    ids = np.random.default_rng(0).integers(0, model.vocab_size, 64 * (model.max_len + 1)).astype(np.uint16)
    made = _make(config, model, schedule, kernels, ids, config.seed)
    per_step: dict[ProgramKey, list[float]] = {static: [] for static in schedule.programs()}
    for turn in range(_TURNS):
        for static in list(per_step)[:: -1 if turn % 2 else 1]:
            per_step[static].append(_seconds_per_step(made, static, seconds / _TURNS))
    return _kinds(made, {s: (s.end - s.first) * statistics.median(per_step[s.static]) for s in schedule.segments})


def _resolved(plan: Plan, config: ConfigDict, kernels: KernelPlan) -> tuple[ConfigDict, ModelConfig, KernelPlan]:
    """Config and model with the plan's recipe, and the kernels that they can take: those given where none changes."""
    devices = describe_devices()
    if plan.parts or plan.learning_rate is not None:
        config = recipe.with_recipe(config, plan.parts, plan.learning_rate)
    model = from_config(config.model, devices.platform)
    if plan.parts:
        kernels = resolve(config.optimizations, spec=kernel_spec(config, model, devices)).plan
    return config, model, kernels


@dataclasses.dataclass(frozen=True)
class _Made:
    """All that a training by a schedule is made of."""

    schedule: StepSchedule
    programs: Programs
    state: State
    dataset: grain.MapDataset
    checks: dict[ProgramKey, ProgramCheck]

    def first_batches(self, static: ProgramKey) -> list[dict[str, np.ndarray]]:
        """As many of a kind's batches as one call takes."""
        return _first_batches(self.schedule, self.dataset, static, self.programs.compiled[static].steps)

    def compile_seconds(self) -> float:
        return sum(sum(program.seconds.values()) for program in self.programs.compiled.values())


def _make(
    config: ConfigDict, model: ModelConfig, schedule: StepSchedule, kernels: KernelPlan, ids: np.ndarray, seed: int
) -> _Made:
    config = config.copy_and_resolve_references()
    training, steps = config.training, _steps_per_call(kernels)
    check(
        schedule,
        max_len=model.max_len,
        n_layers=model.n_layers,
        n_devices=describe_devices().local_count,
        accumulation=training.accumulation,
        steps_per_call=steps,
    )
    planned_steps = training.epochs * training.steps_per_epoch
    training.warmup_steps = round(training.warmup_steps / planned_steps * schedule.total_steps)
    training.epochs, training.steps_per_epoch = 1, schedule.total_steps
    rate = scheduled_rate(training, schedule)
    optimizer = make_optimizer(training, schedule.total_steps, rate)
    graphdef, state = init_state(model, optimizer, seed)
    at_work = with_all_at_work(state, config, kernels)
    dataset = scheduled_dataset(ids, schedule, seed=seed)
    checks: dict[ProgramKey, ProgramCheck] = {}
    name = "scan" if steps > 1 else "step"

    def compile_static(static: ProgramKey) -> CompiledStep:
        step_fn = step_function(config, model, graphdef, optimizer, kernels, rate, static.depth)
        batches = _first_batches(schedule, dataset, static, steps)
        programs, found = compile_programs(step_fn, at_work, batches, config=config, model=model, plan=kernels)
        if found:
            checks[static] = found[name]
        # Its first call, which takes longer than the others, on copies.
        batch = stack(batches) if steps > 1 else batches[0]
        jax.block_until_ready(programs[name](jax.tree.map(jnp.copy, at_work), batch))
        return programs[name]

    return _Made(schedule, Programs(schedule, compile_static), state, dataset, checks)


def _first_batches(
    schedule: StepSchedule, dataset: grain.MapDataset, static: ProgramKey, count: int
) -> list[dict[str, np.ndarray]]:
    first = next(segment.first for segment in schedule.segments if segment.static == static)
    return [dataset[first + i] for i in range(count)]


def _seconds_per_step(made: _Made, static: ProgramKey, seconds: float) -> float:
    """Of as many calls as fit into the time, at least one behind the first."""
    program, batches = made.programs.compiled[static], made.first_batches(static)
    batch = stack(batches) if program.steps > 1 else batches[0]
    state, _ = program(jax.tree.map(jnp.copy, made.state), batch)
    jax.block_until_ready(state)
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < seconds:
        state, _ = program(state, batch)
        jax.block_until_ready(state)
        calls += 1
    return (time.perf_counter() - start) / (calls * program.steps)


def _kinds(made: _Made, seconds: Mapping[Segment, float]) -> list[Kind]:
    """The kinds of the schedule's steps, by what each of its segments took."""
    kinds = []
    for static in made.schedule.programs():
        own = [segment for segment in made.schedule.segments if segment.static == static]
        compiled = sum(made.programs.compiled[static].seconds.values())
        steps = sum(segment.end - segment.first for segment in own)
        kinds.append(Kind(static, steps, sum(seconds[segment] for segment in own), compiled))
    return kinds


def _steps_per_call(kernels: KernelPlan) -> int:
    """Training steps that one call of a program takes."""
    return STEPS_PER_CALL if kernels.dispatch == "scan" else 1
