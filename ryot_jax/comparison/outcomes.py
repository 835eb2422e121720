"""Outcomes of arms and pairs, computed from the finished blocks and evaluations of a run's records alone.

A run has one training pair (both arms, one seed) or several; the unit that an interval is taken over is the highest
level that was repeated: block pairs within one training pair, else training pairs, else processes.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from ryot_jax.comparison.protocol import BlockSchedule
from ryot_jax.comparison.record import Record
from ryot_jax.comparison.schema import ReachedTarget, TimeToTarget
from ryot_jax.comparison.statistics import paired_difference, speed_up
from ryot_jax.comparison.verdict.observations import ArmOutcome, PairOutcome

_SAME_LOSS = 1e-4  # relative difference up to which two losses count as equal


@dataclasses.dataclass(frozen=True)
class TrainingPair:
    """Both arms trained from one seed."""

    seed: int
    record: Record


@dataclasses.dataclass(frozen=True)
class ProcessTimes:
    """Block pairs timed in a fresh process, which recompiled the programs.

    Attributes:
      seconds_per_step: seconds per step of each block, by arm.
      compile_seconds: seconds of compilation, by arm.
    """

    seconds_per_step: Mapping[str, tuple[float, ...]]
    compile_seconds: Mapping[str, float]


def arm_outcome(record: Record, arm: str, schedule: BlockSchedule) -> ArmOutcome:
    """Outcome of one arm of one training pair; training losses stand in if nothing was held out."""
    blocks = record.blocks
    curve = [e.mean_loss[arm] for e in record.heldout]
    if not record.heldout and blocks:
        curve = [blocks[0].first_loss[arm], *(block.train_loss[arm] for block in blocks)]
    trained = curve[1:]
    finite = [loss for loss in trained if math.isfinite(loss)]
    seconds = sum(block.seconds[arm] for block in blocks)
    return ArmOutcome(
        steps=record.step,
        planned_steps=schedule.total_steps,
        first_train_loss=blocks[0].first_loss[arm] if blocks else math.nan,
        final_train_loss=blocks[-1].train_loss[arm] if blocks else math.nan,
        initial_heldout_loss=curve[0] if curve else math.nan,
        final_heldout_loss=trained[-1] if trained else math.nan,
        best_heldout_loss=min(finite) if finite else math.nan,
        tokens_per_second=sum(block.tokens for block in blocks) / seconds if seconds > 0 else math.nan,
    )


def pair_outcome(pairs: Sequence[TrainingPair], processes: Sequence[ProcessTimes] = ()) -> PairOutcome:
    """Compares the second arm with the first.

    Args:
      pairs: the training pairs, at least one.
      processes: fresh processes beside the one of the training pairs, which counts as one more.
    """
    baseline, optimized = pairs[0].record.arms
    unit, seconds = _seconds_per_step(pairs, processes)
    loss_unit, losses = final_losses(pairs)
    return PairOutcome(
        speedup=speed_up(seconds[baseline], seconds[optimized]),
        seconds_per_step=paired_difference(seconds[baseline], seconds[optimized]),
        heldout_loss=paired_difference(losses[baseline], losses[optimized]),
        unit=unit,
        loss_unit=loss_unit,
    )


def final_losses(pairs: Sequence[TrainingPair]) -> tuple[str, dict[str, Sequence[float]]]:
    """Paired losses after training by arm, nats/token, and the unit of a pair.

    With several training pairs, one loss of each. With one, the losses of the held-out sequences, or if nothing was
    held out the training losses of the last half of the blocks, in which the arms saw the same batches.
    """
    names, record = pairs[0].record.arms, pairs[0].record
    if len(pairs) > 1:
        return "training pair", {name: [final_loss(pair.record, name) for pair in pairs] for name in names}
    if not record.heldout:
        last = record.blocks[len(record.blocks) // 2 :]
        return "block pair", {name: [block.train_loss[name] for block in last] for name in names}
    # Both arms start from the same weights: only an evaluation after training compares them.
    trained = record.heldout[-1].step > 0
    return "held-out sequence", {name: record.sequence_losses.get(name, ()) if trained else () for name in names}


def final_loss(record: Record, arm: str) -> float:
    """Held-out loss after the last step, or the training loss of the last block if nothing was held out; nats/token."""
    if record.heldout:
        return record.heldout[-1].mean_loss[arm]
    return record.blocks[-1].train_loss[arm] if record.blocks else math.nan


def block_seconds(record: Record, arm: str) -> np.ndarray:
    """Seconds per step of each block, float64[blocks]."""
    return np.array([block.seconds[arm] / block.steps for block in record.blocks], np.float64)


def time_to_target(record: Record, compile_seconds: Mapping[str, float]) -> TimeToTarget:
    """Training time until each arm's held-out loss first reaches the baseline's final one.

    Losses between two evaluations are interpolated linearly in the step, seconds by the steps of the blocks between;
    evaluation is not part of the time. An arm that never reaches the target has None; one that ends within
    `_SAME_LOSS` of it has reached it, as rounding alone would otherwise decide between arms of the same numerics.

    Args:
      record: record of a training pair, the baseline first.
      compile_seconds: seconds of compilation by arm, for the time with compilation.
    """
    baseline, optimized = record.arms
    trained = bool(record.heldout) and record.heldout[-1].step > 0
    target = record.heldout[-1].mean_loss[baseline] if trained else math.nan
    arms: dict[str, ReachedTarget] = {}
    for name in record.arms:
        step = _first_step_at(target, [(e.step, e.mean_loss[name]) for e in record.heldout])
        if step is None and trained and record.heldout[-1].mean_loss[name] <= target + _SAME_LOSS * abs(target):
            step = float(record.heldout[-1].step)
        seconds = None if step is None else _seconds_until(record, name, step)
        with_compile = None if seconds is None else seconds + compile_seconds[name]
        arms[name] = ReachedTarget(step=step, seconds=seconds, seconds_with_compile=with_compile)
    slow, fast = arms[baseline], arms[optimized]
    return TimeToTarget(
        target_loss=target,
        arms=arms,
        speedup=_ratio(slow.seconds, fast.seconds),
        speedup_with_compile=_ratio(slow.seconds_with_compile, fast.seconds_with_compile),
    )


def break_even_steps(extra_compile_seconds: float, seconds_saved_per_step: float | None) -> float | None:
    """Steps after which faster steps repay a longer compilation; 0 if it is not longer, None if they never do."""
    if extra_compile_seconds <= 0:
        return 0.0
    if seconds_saved_per_step is None or seconds_saved_per_step <= 0:
        return None
    return extra_compile_seconds / seconds_saved_per_step


def _seconds_per_step(
    pairs: Sequence[TrainingPair], processes: Sequence[ProcessTimes]
) -> tuple[str, dict[str, Sequence[float]]]:
    names = pairs[0].record.arms
    if len(pairs) == 1 and not processes:
        return "block pair", {name: list(block_seconds(pairs[0].record, name)) for name in names}
    means = {name: [_geometric_mean(block_seconds(pair.record, name)) for pair in pairs] for name in names}
    if not processes:
        return "training pair", {name: means[name] for name in names}
    return "process", {
        name: [_geometric_mean(means[name]), *(_geometric_mean(p.seconds_per_step[name]) for p in processes)]
        for name in names
    }


def _ratio(slow: float | None, fast: float | None) -> float | None:
    return None if slow is None or not fast else slow / fast


def _geometric_mean(values: Sequence[float] | np.ndarray) -> float:
    values = np.asarray(values, np.float64)
    return float(np.exp(np.log(values).mean())) if values.size and values.min() > 0 else math.nan


def _first_step_at(target: float, curve: Sequence[tuple[int, float]]) -> float | None:
    for (step, loss), (next_step, next_loss) in itertools.pairwise(curve):
        if next_loss <= target < loss:
            return step + (next_step - step) * (loss - target) / (loss - next_loss)
    return None


def _seconds_until(record: Record, arm: str, step: float) -> float:
    seconds, done = 0.0, 0
    for block in record.blocks:
        seconds += block.seconds[arm] * min(1.0, max(0.0, (step - done) / block.steps))
        done += block.steps
    return seconds
