"""The outcome of the comparison of two arms."""

import dataclasses
from collections.abc import Mapping

from ryot_jax.comparison.statistics import Difference, LossTests, SpeedUp
from ryot_jax.runtime.records import Record


class BlockTimes(Record, frozen=True, kw_only=True):
    """One block of steps: `order` of the first visits, seconds by arm, and `ratio` baseline / optimized."""

    index: int
    epoch: int
    steps: int
    order: tuple[str, ...]
    seconds: Mapping[str, float]
    ratio: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTimeSpeedup(SpeedUp):
    """The speed-up and the blocks of the first training pair."""

    blocks: tuple[BlockTimes, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossDifference(Difference):
    """The difference of final losses, optimized - baseline, and its unit of analysis."""

    unit: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossTestsOfMargins(LossTests):
    """Tests of the loss difference against the margins, and their unit of analysis."""

    margin: float
    tight_margin: float
    unit: str


class TrainingPairResult(Record, frozen=True, kw_only=True):
    """Both arms trained from one seed; losses are the final ones."""

    index: int
    seed: int
    block_pairs: int
    speedup: float | None
    baseline_loss: float | None
    optimized_loss: float | None
    loss_difference: float | None


class ProcessResult(Record, frozen=True, kw_only=True):
    """Block pairs timed in a fresh process; `compile_seconds` by arm."""

    index: int
    block_pairs: int
    speedup: float | None
    compile_seconds: Mapping[str, float]


class ReachedTarget(Record, frozen=True, kw_only=True):
    """The point at which an arm reached the target loss: interpolated step, seconds without and with compilation."""

    step: float | None
    seconds: float | None
    seconds_with_compile: float | None


class TimeToTarget(Record, frozen=True, kw_only=True):
    """Training time until the baseline's final held-out loss; `speedup` is baseline / optimized seconds."""

    target_loss: float | None
    arms: Mapping[str, ReachedTarget]
    speedup: float | None
    speedup_with_compile: float | None


class ComparisonResult(Record, frozen=True, kw_only=True):
    """The optimized arm beside the baseline.

    Attributes:
      baseline: name of the first arm.
      optimized: name of the second.
      unit: unit of analysis of the times: 'block pair', 'training pair' or 'process'.
      step_time_speedup: speed-up from the step times.
      seconds_per_step_difference: optimized - baseline seconds per step.
      heldout_loss_difference: optimized - baseline final loss, nats/token.
      loss_tests: tests of that difference against the margins.
      training_pairs: the training pairs, one per seed.
      seed_noise_measured: whether there are several training pairs.
      processes: fresh processes beside the one of the training pairs.
      time_to_target: time to the target loss in the first training pair.
      break_even_steps: steps that repay a longer compilation; 0: it is not longer, None: never.
    """

    baseline: str
    optimized: str
    unit: str
    step_time_speedup: StepTimeSpeedup
    seconds_per_step_difference: Difference
    heldout_loss_difference: LossDifference
    loss_tests: LossTestsOfMargins
    training_pairs: tuple[TrainingPairResult, ...]
    seed_noise_measured: bool
    processes: tuple[ProcessResult, ...]
    time_to_target: TimeToTarget
    break_even_steps: float | None
