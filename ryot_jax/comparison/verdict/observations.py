"""The measurements that criteria are judged by, as plain numbers."""

import dataclasses
from collections.abc import Mapping, Sequence

from ryot_jax.comparison.schema import DecodingResult
from ryot_jax.comparison.statistics import Difference, SpeedUp


@dataclasses.dataclass(frozen=True)
class ArmOutcome:
    """Outcome of one arm's training; losses in nats/token, NaN if missing.

    Attributes:
      steps: training steps done.
      planned_steps: training steps that the config asks for.
      first_train_loss: training loss of the first step.
      final_train_loss: mean training loss over the last block.
      initial_heldout_loss: held-out loss before the first step.
      final_heldout_loss: held-out loss after the last step.
      best_heldout_loss: lowest held-out loss of all evaluations after the first step.
      tokens_per_second: target tokens trained on per second of training.
    """

    steps: int
    planned_steps: int
    first_train_loss: float
    final_train_loss: float
    initial_heldout_loss: float
    final_heldout_loss: float
    best_heldout_loss: float
    tokens_per_second: float


@dataclasses.dataclass(frozen=True)
class PairOutcome:
    """Outcome of the comparison of two arms.

    Attributes:
      speedup: speed-up from the step times.
      seconds_per_step: optimized minus baseline seconds per step.
      heldout_loss: optimized minus baseline final loss.
      unit: unit of analysis of the times: 'block pair', 'training pair' or 'process'.
      loss_unit: unit of analysis of the losses: 'held-out sequence', 'block pair' or 'training pair'.
    """

    speedup: SpeedUp
    seconds_per_step: Difference
    heldout_loss: Difference
    unit: str = "block pair"
    loss_unit: str = "held-out sequence"


@dataclasses.dataclass(frozen=True)
class Observations:
    """All measurements of a run that a criterion may read.

    Attributes:
      arms: outcomes of each arm, one per training pair; the baseline first.
      pair: outcome of the comparison; None for a single arm.
      entropies: nats/token of the held-out targets by kind of count.
      noise_floor: relative speed-up that the placebo control showed or could have shown, which the speed-up must
        clear; None: there was no placebo.
      decoding: speed of generating text; None if no text was generated.
      memory_bytes: bytes of arguments and temporaries of the compiled step, by arm; None if XLA does not report them.
    """

    arms: Mapping[str, Sequence[ArmOutcome]]
    pair: PairOutcome | None = None
    entropies: Mapping[str, float] = dataclasses.field(default_factory=dict)
    noise_floor: float | None = None
    decoding: DecodingResult | None = None
    memory_bytes: Mapping[str, int | None] = dataclasses.field(default_factory=dict)

    @property
    def all_arms(self) -> list[ArmOutcome]:
        """The outcomes of all arms and training pairs."""
        return [outcome for outcomes in self.arms.values() for outcome in outcomes]
