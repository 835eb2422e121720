"""What a run is to estimate and how it will be judged, in words, before it has measured anything.

The statement is hashed, written into the run directory before the first step, and carried into the report: a run
cannot be judged by what it happened to find.
"""

import dataclasses
import hashlib
import json
from typing import Any


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is judged by.

    Attributes:
      loss_margin: within which the final losses must lie, nats/token for language models.
      tight_loss_margin: see `criteria.judge`.
      beat: the name of the entropy that the held-out loss must beat, such as 'bigram'; '' for none.
      training_pairs: pairs of training runs, each of its own seed.
      processes: processes that block pairs are timed in.
      controls: whether the controls are run.
      held_out: whether losses are those of held-out examples; otherwise training losses stand in.
    """

    loss_margin: float
    tight_loss_margin: float
    beat: str
    training_pairs: int = 1
    processes: int = 1
    controls: bool = False
    held_out: bool = True

    @property
    def speed_unit(self) -> str:
        """What the interval of the speed-up is taken over."""
        if self.processes > 1:
            return "process"
        return "training pair" if self.training_pairs > 1 else "block pair"

    @property
    def loss_unit(self) -> str:
        """What the interval of the loss difference is taken over."""
        if self.training_pairs > 1:
            return "training pair"
        return "held-out sequence" if self.held_out else "block pair"


def state(settings: Settings, *, statistical: bool) -> list[dict[str, str]]:
    """The estimands as JSON values: name, unit, statistic and criterion of each.

    Args:
      settings: of the run.
      statistical: as in `criteria.judge`.
    """
    floor = "above 1, and the estimate above the placebo's noise floor" if settings.controls else "above 1"
    margin, tight = f"{settings.loss_margin:g}", f"{settings.tight_loss_margin:g}"
    tight = f"at most {tight} higher" if statistical else f"within {tight}"
    loss = "held-out loss" if settings.held_out else "training loss in the last half of the blocks"
    entropy = f"; under the {settings.beat} entropy of the same targets" if settings.beat else ""
    return [
        _estimand(
            "step-time speed-up",
            settings.speed_unit,
            "geometric mean of baseline / optimized seconds per step, Student t interval on logs, sign-flip p",
            f"95 % interval {floor}",
        ),
        _estimand(
            "throughput",
            settings.speed_unit,
            "targets trained on per second; mean difference of seconds per step, Student t interval",
            "95 % interval of the seconds saved above 0",
        ),
        _estimand(
            "loss difference",
            settings.loss_unit,
            f"mean of optimized - baseline {loss}, Student t interval; two one-sided tests",
            f"95 % interval within {margin}, and {tight}",
        ),
        _estimand("learning", "arm", f"final {loss}", f"5 % under the loss at step 0{entropy}"),
        _estimand(
            "time to target",
            "arm",
            "training seconds until the held-out loss reaches the baseline's final one, interpolated between "
            "evaluations; compilation excluded and included",
            "none: reported",
        ),
        _estimand("break-even", "arm", "extra seconds of compilation / seconds saved a step", "none: reported"),
        _estimand("memory", "arm", "arguments and temporaries of the compiled step, bytes", "none: reported"),
    ]


def digest(items: list[dict[str, str]]) -> str:
    """Sha256 of the statement."""
    return hashlib.sha256(json.dumps(items, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _estimand(name: str, unit: str, statistic: str, criterion: str) -> dict[str, Any]:
    return {"name": name, "unit": unit, "statistic": statistic, "criterion": criterion}
