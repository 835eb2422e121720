"""One training by a step schedule, from fresh weights to its end: its time and its final loss.

The paired protocol needs equal batches in both arms, which a step schedule does not have. Such a training is therefore
timed separately and judged by its final held-out loss; callers supply the baseline to compare with.
"""

import dataclasses
import statistics
import time
from collections.abc import Mapping

import grain
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ryot_jax.config import total_steps
from ryot_jax.data.batches import training_iterator
from ryot_jax.data.pipeline import Corpus
from ryot_jax.machine.devices import describe_devices
from ryot_jax.model import ModelConfig
from ryot_jax.optimizations import KernelPlan
from ryot_jax.optimizations.dispatch import steps_per_call
from ryot_jax.runs.planned_training import PlannedTraining, ProgramTiming, schedule_of
from ryot_jax.runs.session import open_session
from ryot_jax.runtime.compiler import counted_compilations
from ryot_jax.scaling import ProgramKey, StepSchedule, check
from ryot_jax.scaling.schedule import Segment
from ryot_jax.training import recipe
from ryot_jax.training.evaluation import Evaluation
from ryot_jax.training.optimizer import evaluation_params, make_optimizer
from ryot_jax.training.parallel import CompiledStep, stack
from ryot_jax.training.program_check import ProgramCheck
from ryot_jax.training.scheduled import Programs, ScheduledTrainer, scheduled_dataset, scheduled_rate
from ryot_jax.training.setup import TrainingSetup, build_setup
from ryot_jax.training.state import State, init_state
from ryot_jax.training.step_programs import advance_to_first_step_with_everything_on, compile_programs, step_function

_TURNS = 5


@dataclasses.dataclass(frozen=True)
class TrainingOutcome:
    """The outcome of a finished training.

    Attributes:
      config: the config, with the recipe applied.
      state: the final training state.
      schedule: the step schedule, verified against the executed steps.
      timings: time of each program, one per size of steps.
      seconds: seconds of all steps.
      compile_seconds: seconds to compile the programs, without their checks.
      from_cache: whether any program came from the cache of compiled programs.
      checks: outcome of each program's start-up check, by its sizes; empty if the config turns checks off.
      heldout: final held-out losses.
      unplanned: number of programs compiled while the steps ran.
    """

    config: ConfigDict
    state: State
    schedule: StepSchedule
    timings: list[ProgramTiming]
    seconds: float
    compile_seconds: float
    from_cache: bool
    checks: dict[ProgramKey, ProgramCheck]
    heldout: Evaluation
    unplanned: int


def train_by(
    planned: PlannedTraining, setup: TrainingSetup, kernels: KernelPlan, corpus: Corpus, *, seed: int
) -> TrainingOutcome:
    """Runs one planned training.

    Args:
      planned: its differences from the config's own training.
      setup: setup of the config's training.
      kernels: kernel plan of the step; a recipe that changes model or optimizer resolves it anew.
      corpus: the text.
      seed: seed of weights and batches.

    Raises:
      ConfigError: the training does not fit the config.
      RyotError: as in `train`.
    """
    config, model, kernels = _resolved(planned, setup.config, kernels)
    setup = build_setup(config, model, corpus) if planned.parts else dataclasses.replace(setup, config=config)
    schedule = schedule_of(planned, setup.config, steps_per_call=steps_per_call(kernels))
    return train(setup, schedule, kernels, corpus, seed=seed)


def train(
    setup: TrainingSetup, schedule: StepSchedule, kernels: KernelPlan, corpus: Corpus, *, seed: int
) -> TrainingOutcome:
    """Trains by a step schedule, with programs compiled for it.

    Each program runs once on copies before anything is timed, as in every arm. The warm-up of the learning rate takes
    the same share of the tokens as in the config's training.

    Args:
      setup: supplies config, model and evaluator; its state and batches are not used.
      schedule: the step schedule.
      kernels: kernel plan of the step.
      corpus: the text.
      seed: seed of weights and batches.

    Raises:
      ConfigError: the schedule is not supported.
      NonFiniteLossError: a loss is not finite.
      RyotError: the executed steps differ from the schedule.
    """
    compiled = _compile(setup.config, setup.model, schedule, kernels, np.asarray(corpus.train), seed)
    trainer = ScheduledTrainer("scheduled", compiled.programs, compiled.state, training_iterator(compiled.dataset))
    with counted_compilations() as unplanned:
        seconds = [trainer.run(segment.end - segment.first).seconds for segment in schedule.segments]
    heldout = setup.evaluator(evaluation_params(setup.config.training.optimizer, trainer.trainer.state))
    return TrainingOutcome(
        setup.config,
        trainer.trainer.state,
        schedule,
        compiled.timings(dict(zip(schedule.segments, seconds, strict=True))),
        sum(seconds),
        compiled.compile_seconds(),
        any(program.from_cache for program in compiled.programs.compiled.values()),
        compiled.checks,
        heldout,
        len(unplanned),
    )


def step_times(
    planned: PlannedTraining, config: ConfigDict, kernels: KernelPlan, *, seconds: float = 1.0
) -> list[ProgramTiming]:
    """Times the steps of each size of a planned training on random tokens, without training.

    Args:
      planned: its differences from the config's own training.
      config: config of the run.
      kernels: kernel plan, as in `train_by`.
      seconds: seconds of timing per size of steps, in five turns of all sizes; the median counts.

    Returns:
      The timing of each program.

    Raises:
      ConfigError: the training does not fit the config.
    """
    config, model, kernels = _resolved(planned, config, kernels)
    schedule = schedule_of(planned, config, steps_per_call=steps_per_call(kernels))
    ids = np.random.default_rng(0).integers(0, model.vocab_size, 64 * (model.max_len + 1)).astype(np.uint16)
    compiled = _compile(config, model, schedule, kernels, ids, config.seed)
    per_step: dict[ProgramKey, list[float]] = {static: [] for static in schedule.programs()}
    for turn in range(_TURNS):
        for static in list(per_step)[:: -1 if turn % 2 else 1]:
            per_step[static].append(compiled.seconds_per_step(static, seconds / _TURNS))
    return compiled.timings({s: (s.end - s.first) * statistics.median(per_step[s.static]) for s in schedule.segments})


def _resolved(
    planned: PlannedTraining, config: ConfigDict, kernels: KernelPlan
) -> tuple[ConfigDict, ModelConfig, KernelPlan]:
    """Config and model with the recipe applied, and a kernel plan for them: `kernels` if the recipe changes neither."""
    if planned.parts or planned.learning_rate is not None:
        config = recipe.with_recipe(config, planned.parts, planned.learning_rate)
    session = open_session(config, _no_log, cached_programs=False)
    if planned.parts:
        kernels = session.resolve_unmeasured().plan
    return config, session.model, kernels


def _no_log(line: str) -> None:
    """Drops the log of a recipe's session, which looks up no measured kernels and so has nothing to report."""


@dataclasses.dataclass(frozen=True)
class _CompiledPrograms:
    """The programs of a training by a step schedule, with the initial state and the batches."""

    schedule: StepSchedule
    programs: Programs
    state: State
    dataset: grain.MapDataset
    checks: dict[ProgramKey, ProgramCheck]

    def compile_seconds(self) -> float:
        return sum(sum(program.seconds.values()) for program in self.programs.compiled.values())

    def seconds_per_step(self, static: ProgramKey, seconds: float) -> float:
        """Mean seconds per step over the calls that fit into `seconds`: at least one, after an untimed first one."""
        program = self.programs.compiled[static]
        batches = _first_batches(self.schedule, self.dataset, static, program.steps)
        batch = stack(batches) if program.steps > 1 else batches[0]
        state, _ = program(jax.tree.map(jnp.copy, self.state), batch)
        jax.block_until_ready(state)
        calls, start = 0, time.perf_counter()
        while calls == 0 or time.perf_counter() - start < seconds:
            state, _ = program(state, batch)
            jax.block_until_ready(state)
            calls += 1
        return (time.perf_counter() - start) / (calls * program.steps)

    def timings(self, seconds: Mapping[Segment, float]) -> list[ProgramTiming]:
        """The timing of each program, from the seconds of each segment of the schedule."""
        timings = []
        for static in self.schedule.programs():
            own = [segment for segment in self.schedule.segments if segment.static == static]
            compile_seconds = sum(self.programs.compiled[static].seconds.values())
            steps = sum(segment.end - segment.first for segment in own)
            timings.append(ProgramTiming(static, steps, sum(seconds[segment] for segment in own), compile_seconds))
        return timings


def _compile(
    config: ConfigDict, model: ModelConfig, schedule: StepSchedule, kernels: KernelPlan, ids: np.ndarray, seed: int
) -> _CompiledPrograms:
    config = config.copy_and_resolve_references()
    training, steps = config.training, steps_per_call(kernels)
    check(
        schedule,
        max_len=model.max_len,
        n_layers=model.n_layers,
        n_devices=describe_devices().local_count,
        accumulation=training.accumulation,
        steps_per_call=steps,
    )
    training.warmup_steps = round(training.warmup_steps / total_steps(config) * schedule.total_steps)
    training.epochs, training.steps_per_epoch = 1, schedule.total_steps
    rate = scheduled_rate(training, schedule)
    optimizer = make_optimizer(training, schedule.total_steps, rate)
    graphdef, state = init_state(model, optimizer, seed)
    everything_on = advance_to_first_step_with_everything_on(state, config, kernels)
    dataset = scheduled_dataset(ids, schedule, seed=seed)
    checks: dict[ProgramKey, ProgramCheck] = {}
    name = "scan" if steps > 1 else "step"

    def compile_static(static: ProgramKey) -> CompiledStep:
        step_fn = step_function(config, model, graphdef, optimizer, kernels, rate, static.depth)
        batches = _first_batches(schedule, dataset, static, steps)
        programs, outcomes = compile_programs(step_fn, everything_on, batches, config=config, model=model, plan=kernels)
        if outcomes:
            checks[static] = outcomes[name]
        # The first call, which takes longer than the others, runs on copies.
        batch = stack(batches) if steps > 1 else batches[0]
        jax.block_until_ready(programs[name](jax.tree.map(jnp.copy, everything_on), batch))
        return programs[name]

    return _CompiledPrograms(schedule, Programs(schedule, compile_static), state, dataset, checks)


def _first_batches(
    schedule: StepSchedule, dataset: grain.MapDataset, static: ProgramKey, count: int
) -> list[dict[str, np.ndarray]]:
    """The first `count` batches of the steps of one size."""
    first = next(segment.first for segment in schedule.segments if segment.static == static)
    return [dataset[first + i] for i in range(count)]
