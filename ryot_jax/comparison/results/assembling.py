"""Assembles the results of a run from its records and the facts about each arm."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ryot_jax.comparison import criteria, estimands, outcomes
from ryot_jax.comparison.criteria import ArmOutcome, Observations, PairOutcome, Terms
from ryot_jax.comparison.outcomes import ProcessTimes, TrainingPair
from ryot_jax.comparison.protocol import BlockSchedule
from ryot_jax.comparison.record import Record
from ryot_jax.comparison.results.file import settled
from ryot_jax.comparison.schema import (
    ArmResult,
    BlockTimes,
    ComparisonResult,
    CompressionResult,
    ConfigDifference,
    Controls,
    DecodingResult,
    Epoch,
    LossDifference,
    LossTestsOfMargins,
    OptimizationState,
    ProcessResult,
    Results,
    Roofline,
    Settings,
    Statement,
    StepTimeSpeedup,
    TimeToLoss,
    TrainingPairResult,
)
from ryot_jax.comparison.statistics import loss_tests, speed_up


@dataclasses.dataclass(frozen=True)
class ArmFacts:
    """Facts about an arm that are not in its record.

    Attributes:
      name: name of the arm.
      parameters: number of model parameters.
      compile_seconds: seconds of `trace`, `lower` and `compile`.
      memory_bytes: bytes of arguments and temporaries of the compiled step; None where XLA does not report them.
      program_check: outcome of the start-up check of each program, JSON values by its name; None if not run.
      plan: the kernel plan, op -> implementation.
      statistical: whether the arm promises only a training run of the same quality.
      optimizations: the optimizations of the arm, each with the fields of `OptimizationState`.
      differences: the settings that differ from the baseline, each with the fields of `ConfigDifference`.
      compile_warm_seconds: seconds to recompile the programs from the warm cache; None: not measured.
      compiled_from_cache: whether `compile_seconds` were served from that cache too; None: not known.
    """

    name: str
    parameters: int
    compile_seconds: Mapping[str, float]
    memory_bytes: int | None
    program_check: Mapping[str, Any] | None = None
    plan: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    statistical: bool = False
    optimizations: Sequence[Mapping[str, Any]] = ()
    differences: Sequence[Mapping[str, str]] = ()
    compile_warm_seconds: float | None = None
    compiled_from_cache: bool | None = None


@dataclasses.dataclass(frozen=True)
class Measurements:
    """The measurements of a run.

    Attributes:
      pairs: the training pairs; arms and epochs of the results are those of the first.
      processes: block pairs timed in fresh processes.
      controls: the controls; None if none were run.
      roofline: the arms under the roofline; None if not measured.
      compression: the compressed checkpoint; None if nothing was compressed.
      decoding: speed of generating text; None if no text was generated.
      time_to_loss: times of step schedule and recipe; None if none was trained.
    """

    pairs: Sequence[TrainingPair]
    processes: Sequence[ProcessTimes] = ()
    controls: Controls | None = None
    roofline: Roofline | None = None
    compression: CompressionResult | None = None
    decoding: DecodingResult | None = None
    time_to_loss: TimeToLoss | None = None


def assemble(
    measured: Measurements,
    facts: Sequence[ArmFacts],
    schedule: BlockSchedule,
    settings: Settings,
    *,
    name: str,
    data: Mapping[str, Any],
    entropies: Mapping[str, float],
    manifest: Mapping[str, Any],
    artifacts: Mapping[str, str],
    stated_at: str | None = None,
    warnings: Sequence[str] = (),
) -> Results:
    """Assembles and judges the results of a run.

    Args:
      measured: the measurements of the run.
      facts: facts of each arm, the baseline first.
      schedule: the blocks of the run.
      settings: margins and targets of the verdict.
      name: name of the run.
      data: description of the text: counts, source, hashes.
      entropies: nats/token of the held-out targets under `unigram` and `bigram` counts; other names are kept.
      manifest: versions, device, flags, hashes, git revision.
      artifacts: files of the run, name -> path within the run directory.
      stated_at: time at which the estimands were stated, UTC in ISO 8601.
      warnings: sentences for the reader.

    Raises:
      RyotError: a criterion that was not stated would decide.
      ValueError: the settings have another number of arms, or a number that must be finite is not.
    """
    if settings.arms != len(facts):
        raise ValueError(f"settings.arms is {settings.arms}, and there are {len(facts)} arms")
    arms = {f.name: [outcomes.arm_outcome(p.record, f.name, schedule) for p in measured.pairs] for f in facts}
    pair = outcomes.pair_outcome(measured.pairs, measured.processes) if len(facts) == 2 else None
    controls, statistical = measured.controls, facts[-1].statistical
    observed = Observations(
        arms,
        pair,
        entropies,
        noise_floor=None if controls is None else controls.noise_floor,
        decoding=measured.decoding,
        memory_bytes={fact.name: fact.memory_bytes for fact in facts},
    )
    judged = criteria.judge(observed, Terms(settings, statistical))
    stated = estimands.describe_estimands(settings, statistical=statistical)
    estimands.check_all_stated(judged, stated)
    record = measured.pairs[0].record
    return settled(
        Results(
            name=name,
            verdict="INCONCLUSIVE" if controls is not None and controls.failed() else criteria.overall(judged),
            estimands=Statement(sha256=estimands.digest(stated), stated_at=stated_at, items=stated),
            controls=controls,
            criteria=judged,
            arms={fact.name: _arm(record, fact, arms[fact.name][0], schedule) for fact in facts},
            comparison=None if pair is None else _comparison(measured, facts, pair, settings),
            optimizations=tuple(msgspec.convert(dict(entry), OptimizationState) for entry in facts[-1].optimizations),
            config_differences=tuple(msgspec.convert(dict(entry), ConfigDifference) for entry in facts[-1].differences),
            schedule=schedule,
            settings=settings,
            data={**data, "entropies": dict(entropies)},
            roofline=measured.roofline,
            attribution=None,
            compression=measured.compression,
            decoding=measured.decoding,
            time_to_loss=measured.time_to_loss,
            initial_params_hash=record.initial_params_hash,
            batches_hash=record.blocks[-1].batches_hash if record.blocks else None,
            warnings=(*warnings, *_control_warnings(controls)),
            artifacts=dict(artifacts),
            manifest=dict(manifest),
        )
    )


def _arm(record: Record, fact: ArmFacts, outcome: ArmOutcome, schedule: BlockSchedule) -> ArmResult:
    name, blocks = fact.name, record.blocks
    best = [e for e in record.heldout if e.step > 0 and e.mean_loss[name] == outcome.best_heldout_loss]
    epochs = (_epoch(record, name, epoch) for epoch in range(1, schedule.epochs + 1))
    return ArmResult(
        parameters=fact.parameters,
        steps=record.step,
        tokens=sum(block.tokens for block in blocks),
        initial_heldout_loss=outcome.initial_heldout_loss,
        first_train_loss=outcome.first_train_loss,
        final_train_loss=outcome.final_train_loss,
        final_heldout_loss=outcome.final_heldout_loss,
        best_heldout_loss=outcome.best_heldout_loss,
        best_step=best[0].step if best else None,
        train_seconds=sum(block.seconds[name] for block in blocks),
        tokens_per_second=outcome.tokens_per_second,
        step_ms_median=float(np.median([1e3 * b.seconds[name] / b.steps for b in blocks])) if blocks else None,
        compile_seconds=sum(fact.compile_seconds.values()),
        compile_parts=dict(fact.compile_seconds),
        compile_warm_seconds=fact.compile_warm_seconds,
        compiled_from_cache=fact.compiled_from_cache,
        memory_bytes=fact.memory_bytes,
        program_check=None if fact.program_check is None else dict(fact.program_check),
        plan=dict(fact.plan),
        epochs=tuple(epoch for epoch in epochs if epoch is not None),
    )


def _epoch(record: Record, arm: str, epoch: int) -> Epoch | None:
    """One epoch of an arm; None if it did not end with an evaluation."""
    evaluation = next((e for e in record.heldout if e.epoch == epoch), None)
    if evaluation is None:
        return None
    blocks = [block for block in record.blocks if block.epoch == epoch]
    seconds = sum(block.seconds[arm] for block in blocks)
    steps = sum(block.steps for block in blocks)
    return Epoch(
        epoch=epoch,
        step=evaluation.step,
        train_loss=sum(block.train_loss[arm] * block.steps for block in blocks) / steps,
        heldout_loss=evaluation.mean_loss[arm],
        seconds=seconds,
        tokens_per_second=sum(block.tokens for block in blocks) / seconds if seconds > 0 else None,
    )


def _comparison(
    measured: Measurements, facts: Sequence[ArmFacts], pair: PairOutcome, settings: Settings
) -> ComparisonResult:
    record = measured.pairs[0].record
    baseline, optimized = record.arms
    compile_seconds = {fact.name: sum(fact.compile_seconds.values()) for fact in facts}
    saved = pair.seconds_per_step.estimate
    loss_unit, losses = outcomes.final_losses(measured.pairs)
    margins = {"margin": settings.loss_margin, "tight_margin": settings.tight_loss_margin}
    tests = loss_tests(losses[baseline], losses[optimized], **margins)
    return ComparisonResult(
        baseline=baseline,
        optimized=optimized,
        unit=pair.unit,
        step_time_speedup=StepTimeSpeedup(**dataclasses.asdict(pair.speedup), blocks=_block_times(record)),
        seconds_per_step_difference=pair.seconds_per_step,
        heldout_loss_difference=LossDifference(**dataclasses.asdict(pair.heldout_loss), unit=loss_unit),
        loss_tests=LossTestsOfMargins(**dataclasses.asdict(tests), **margins, unit=loss_unit),
        training_pairs=tuple(_training_pair(i, one) for i, one in enumerate(measured.pairs)),
        seed_noise_measured=len(measured.pairs) > 1,
        processes=tuple(_process(i + 1, process, baseline, optimized) for i, process in enumerate(measured.processes)),
        time_to_target=outcomes.time_to_target(record, compile_seconds),
        break_even_steps=outcomes.break_even_steps(
            compile_seconds[optimized] - compile_seconds[baseline], None if saved is None else -saved
        ),
    )


def _block_times(record: Record) -> tuple[BlockTimes, ...]:
    baseline, optimized = record.arms
    return tuple(
        BlockTimes(
            index=block.index,
            epoch=block.epoch,
            steps=block.steps,
            order=block.order,
            seconds=block.seconds,
            ratio=_ratio(block.seconds[baseline], block.seconds[optimized]),
        )
        for block in record.blocks
    )


def _training_pair(index: int, pair: TrainingPair) -> TrainingPairResult:
    outcome, (baseline, optimized) = outcomes.pair_outcome([pair]), pair.record.arms
    losses = {name: outcomes.final_loss(pair.record, name) for name in pair.record.arms}
    return TrainingPairResult(
        index=index,
        seed=pair.seed,
        block_pairs=outcome.speedup.pairs,
        speedup=outcome.speedup.estimate,
        baseline_loss=losses[baseline],
        optimized_loss=losses[optimized],
        loss_difference=losses[optimized] - losses[baseline],
    )


def _process(index: int, process: ProcessTimes, baseline: str, optimized: str) -> ProcessResult:
    seconds = process.seconds_per_step
    return ProcessResult(
        index=index,
        block_pairs=len(seconds[baseline]),
        speedup=speed_up(seconds[baseline], seconds[optimized]).estimate,
        compile_seconds=dict(process.compile_seconds),
    )


def _control_warnings(controls: Controls | None) -> list[str]:
    if controls is None:
        return []
    return [
        f"The control {control.name.replace('_', ' ')} did not pass ({control.actual}): what this run measured "
        "proves nothing, whatever its criteria say."
        for control in controls.failed()
    ]


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None
