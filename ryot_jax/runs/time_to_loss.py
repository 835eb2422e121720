"""The stage that times trainings by a step schedule, a recipe, and both, to the baseline's final loss.

The comparison of the arms times kernels at equal batches. Here each planned training differs in its steps or its
recipe; its time counts if its final loss is not above the baseline's.
"""

import contextlib
import dataclasses
import math
import statistics
import time

from ryot_jax.comparison.arms import Arm
from ryot_jax.comparison.outcomes import TrainingPair, final_losses, pair_outcome
from ryot_jax.comparison.schema import ExecutedSteps, Measured, StepKind, TimeToLoss, Training
from ryot_jax.comparison.statistics import paired_difference
from ryot_jax.config import to_json, total_steps
from ryot_jax.data.pipeline import Corpus
from ryot_jax.runs import redraw
from ryot_jax.runs.compiled_arms import CompiledArms
from ryot_jax.runs.planned_training import PlannedTraining, ProgramTiming, planned_trainings, saved_seconds
from ryot_jax.runs.run import Run
from ryot_jax.runs.scheduled_arm import TrainingOutcome, train_by
from ryot_jax.runs.stage import Stage, StageResult
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import CheckpointError, RyotError
from ryot_jax.runtime.files import write_text
from ryot_jax.runtime.run_directory import RunDirectory
from ryot_jax.training.checkpoints import Checkpoints
from ryot_jax.training.loop import Trainer
from ryot_jax.training.setup import TrainingSetup

_REFERENCE_SECONDS = 1.5  # length of a block of the optimized arm, before and after each training


def measure(
    setup: TrainingSetup,
    arms: tuple[Arm, Arm],
    pair: TrainingPair,
    corpus: Corpus,
    console: Console,
    *,
    directory: RunDirectory | None = None,
) -> tuple[TimeToLoss, list[str]]:
    """Runs the planned trainings: `time_to_loss` of `results.json`, and warnings for the reader.

    A block of the optimized arm's steps runs before and after each training. It gives the time that the whole training
    of that arm would take on the machine in its current state, and by the paired speed-up that of the baseline.

    Args:
      setup: setup of the comparison.
      arms: baseline and optimized arm, trained.
      pair: their training pair.
      corpus: the text.
      console: receives lines of progress.
      directory: run directory to keep the trained models in; None: they are not kept.
    """
    start = time.perf_counter()
    target = pair.record.heldout[-1].mean_loss[arms[0].name]
    clock = _Clock(arms[1])
    trainings, warnings = [], []
    before = clock.seconds_per_step()
    for planned in planned_trainings(setup.config):
        try:
            trained: TrainingOutcome | None = train_by(planned, setup, arms[1].variant.plan, corpus, seed=pair.seed)
        except RyotError as error:  # the comparison and the other trainings stand without it
            console.line(f"{planned.name}: not trained: {error}")
            warnings.append(f"The training with {planned.description} did not come to its end: {error}.")
            trained = None
        after = clock.seconds_per_step()
        if trained is not None:
            if directory is not None:
                try:
                    _keep(planned, trained, directory)
                except CheckpointError as error:  # the measurement stands without the checkpoint
                    warnings.append(f"The model of the training with {planned.description} was not kept: {error}.")
            trainings.append(_entry(planned, trained, setup, arms[0], pair, statistics.fmean((before, after))))
            console.line(
                f"{planned.name}: {trained.schedule.total_steps:,} steps in {trained.seconds:.1f} s, held-out loss "
                f"{trained.heldout.mean_loss:.4f} (baseline {target:.4f})"
            )
        before = after
    measured = TimeToLoss(target_loss=target, trainings=tuple(trainings), seconds=time.perf_counter() - start)
    return measured, warnings


def _entry(
    planned: PlannedTraining,
    trained: TrainingOutcome,
    setup: TrainingSetup,
    baseline: Arm,
    pair: TrainingPair,
    kernels_step_seconds: float,
) -> Training:
    """The record of one training; `kernels_step_seconds` are those of the optimized arm at the same time."""
    planned_steps = total_steps(setup.config)
    kernels_seconds, speedup = planned_steps * kernels_step_seconds, pair_outcome([pair]).speedup.estimate
    difference = paired_difference(final_losses([pair])[1][baseline.name], trained.heldout.sequence_losses)
    with_compile = None
    if speedup is not None and trained.from_cache == baseline.from_cache:  # else only one of the two compiled
        whole = speedup * kernels_seconds + sum(baseline.compile_seconds.values())
        with_compile = (trained.seconds + trained.compile_seconds) / whole
    return Training(
        name=planned.name,
        recipe=tuple(planned.parts),
        phases=planned.phases,
        learning_rate=trained.config.training.learning_rate,
        steps=trained.schedule.total_steps,
        tokens=trained.schedule.total_tokens,
        tokens_share=trained.schedule.total_tokens / (planned_steps * setup.tokens_per_step),
        programs=len(trained.schedule.programs()),
        unplanned_compilations=trained.unplanned,
        checks_failed=sum(not check.ok for check in trained.checks.values()),
        seconds=trained.seconds,
        compile_seconds=trained.compile_seconds,
        compiled_from_cache=trained.from_cache,
        loss=trained.heldout.mean_loss,
        loss_difference=Measured(estimate=difference.estimate, ci95=difference.ci95),
        reached=_reached(difference.ci95),
        kernels_seconds=kernels_seconds,
        share_of_kernels=trained.seconds / kernels_seconds,
        share_of_baseline=None if speedup is None else trained.seconds / kernels_seconds / speedup,
        share_of_baseline_with_compile=with_compile,
        executed=tuple(ExecutedSteps(**steps) for steps in trained.schedule.to_json()),
        kinds=tuple(_kind(timing, trained) for timing in trained.timings),
    )


def _kind(timing: ProgramTiming, trained: TrainingOutcome) -> StepKind:
    saved = saved_seconds(timing, trained.timings)
    return StepKind(
        **dataclasses.asdict(timing.static),
        steps=timing.steps,
        seconds=timing.seconds,
        compile_seconds=timing.compile_seconds,
        saved_seconds=saved,
        repaid=None if saved is None else saved > timing.compile_seconds,
    )


def _keep(planned: PlannedTraining, trained: TrainingOutcome, directory: RunDirectory) -> None:
    """Saves checkpoint and config of the training, so that other commands can take the model."""
    config_json = to_json(trained.config)
    with contextlib.closing(Checkpoints(directory.checkpoints / planned.name)) as checkpoints:
        checkpoints.delete_after(-1)  # left by an earlier process of this run
        facts = {"phases": planned.phases, "steps": trained.schedule.to_json()}
        steps, loss = trained.schedule.total_steps, trained.heldout.mean_loss
        checkpoints.save(steps, trained.state, facts, loss, config_json, arm=planned.name)
    write_text(directory.config_of(planned.name), config_json)


class _Clock:
    """Times steps of the optimized arm after its training, on a twin."""

    def __init__(self, optimized: Arm):
        self._trainer: Trainer = optimized.twin("reference")
        calls = optimized.programs.get("scan", optimized.programs["step"]).steps
        self._trainer.run_block(calls)
        first = self._trainer.run_block(calls).seconds
        self._steps = calls * max(1, math.ceil(_REFERENCE_SECONDS / first))

    def seconds_per_step(self) -> float:
        return self._trainer.run_block(self._steps).seconds / self._steps


def _reached(ci95: tuple[float, float] | None) -> bool | None:
    """Whether a loss is not above another, by the interval of their difference; None: the interval does not decide."""
    if ci95 is None or ci95[0] <= 0.0 < ci95[1]:
        return None
    return ci95[1] <= 0.0


def _applies(run: Run, compiled: CompiledArms, pair: TrainingPair) -> bool:
    return bool(run.config.scaling.enabled and len(compiled.arms) == 2 and planned_trainings(run.config))


def _measured_before(run: Run, compiled: CompiledArms, pair: TrainingPair) -> TimeToLoss | None:
    earlier = redraw.measured_before(run.directory.results)
    before = None if earlier is None else earlier.time_to_loss
    complete = before is not None and len(before.trainings) == len(planned_trainings(run.config))
    return before if complete else None


def _measure(run: Run, compiled: CompiledArms, pair: TrainingPair) -> StageResult[TimeToLoss | None]:
    keep = run.directory if run.config.checkpoint.enabled else None
    baseline, optimized = compiled.arms
    measured, warnings = measure(run.setup, (baseline, optimized), pair, run.corpus, run.console, directory=keep)
    return StageResult(measured, tuple(warnings))


STAGE = Stage("schedule and recipe", _measure, applies=_applies, measured_before=_measured_before)
