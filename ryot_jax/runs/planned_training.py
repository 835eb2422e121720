"""The trainings beside the arms, as a config plans them, and the verdict on each of their compiled programs."""

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from ryot_jax.config import SCHEDULED_TRAININGS, total_steps
from ryot_jax.scaling import ProgramKey, StepSchedule, phases
from ryot_jax.training import recipe


@dataclasses.dataclass(frozen=True)
class PlannedTraining:
    """How a training differs from the config's own, fixed before anything runs.

    Attributes:
      name: for people, and of its files.
      phases: its steps, see `ryot_jax.scaling.phases`.
      parts: of a recipe, see `ryot_jax.training.recipe`.
      learning_rate: None: the config's.
      description: how a sentence names it.
    """

    name: str
    phases: str = "100% of B x T"
    parts: tuple[str, ...] = ()
    learning_rate: float | None = None
    description: str = "a training"


def planned_trainings(config: ConfigDict) -> list[PlannedTraining]:
    """The trainings that `config.scaling` asks for, of those in `config.SCHEDULED_TRAININGS`."""
    scaling = config.scaling
    parts = recipe.parse(scaling.recipe)
    planned = []
    for declared in SCHEDULED_TRAININGS:
        line = scaling[declared.phases_field]
        if not line or (declared.has_recipe and not parts):
            continue
        own_parts, rate = (parts, scaling.recipe_learning_rate) if declared.has_recipe else ((), None)
        planned.append(PlannedTraining(declared.name, line, own_parts, rate, declared.description))
    return planned


def schedule_of(training: PlannedTraining, config: ConfigDict, *, steps_per_call: int = 1) -> StepSchedule:
    """Lays the phases of a training out for the sizes of a config.

    Raises:
      ConfigError: its phases cannot be read.
    """
    return phases.laid_out(
        phases.parse(training.phases),
        batch_size=config.training.batch_size,
        seq_len=config.training.seq_len,
        n_layers=config.model.n_layers,
        steps=total_steps(config),
        multiple_of=steps_per_call,
    )


@dataclasses.dataclass(frozen=True)
class ProgramTiming:
    """The steps that one compiled program takes.

    Attributes:
      static: the sizes that it was compiled for.
      steps: how many it takes.
      seconds: of all of them.
      compile_seconds: of the program.
    """

    static: ProgramKey
    steps: int
    seconds: float
    compile_seconds: float


def saved_seconds(timing: ProgramTiming, timings: Sequence[ProgramTiming]) -> float | None:
    """The seconds that a program saves against as many tokens in the largest steps of all layers.

    Those steps would be taken without it: a program repays its compilation where it saves more than that. None where
    it is the program of those steps itself, or there is none.
    """
    whole = [other for other in timings if other.static.depth == 0]
    largest = max(whole, key=lambda other: other.static.tokens, default=timing)
    if largest is timing:
        return None
    per_token = largest.seconds / (largest.steps * largest.static.tokens)
    return timing.steps * timing.static.tokens * per_token - timing.seconds
