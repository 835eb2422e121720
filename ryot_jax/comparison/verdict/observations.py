"""The measurements that criteria are judged by: numbers alone, wherever they come from."""

import dataclasses
from collections.abc import Mapping, Sequence

from ryot_jax.comparison.schema import DecodingResult
from ryot_jax.comparison.statistics import Difference, SpeedUp


@dataclasses.dataclass(frozen=True)
class ArmOutcome:
    """Outcome of one arm's training; losses in nats/token, NaN where there is none.

    Attributes:
      steps: training steps done.
      planned_steps: training steps that the config asks for.
      first_train_loss: training loss of the very first step.
      final_train_loss: mean training loss over the last block.
      initial_heldout_loss: held-out loss before the first step.
      final_heldout_loss: held-out loss after the last step.
      best_heldout_loss: least held-out loss of all evaluations after training began.
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
      speedup: ratios of step times.
      seconds_per_step: optimized minus baseline seconds per step.
      heldout_loss: optimized minus baseline final loss.
      unit: what the times are pairs of: 'block pair', 'training pair' or 'process'.
      loss_unit: what the losses are pairs of: 'held-out sequence', 'block pair' or 'training pair'.
    """

    speedup: SpeedUp
    seconds_per_step: Difference
    heldout_loss: Difference
    unit: str = "block pair"
    loss_unit: str = "held-out sequence"


@dataclasses.dataclass(frozen=True)
class Observations:
    """Everything that a criterion may look at.

    Attributes:
      arms: outcomes of each arm, one a training pair; the baseline first.
      pair: None for a single arm.
      entropies: nats/token of the held-out targets by kind of count.
      noise_floor: relative speed-up that the placebo control showed or could have shown, which the speed-up must
        clear; None: there was no such control.
      decoding: None where nothing was generated.
      memory_bytes: arguments and temporaries of the compiled step by arm; None where XLA does not tell.
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
