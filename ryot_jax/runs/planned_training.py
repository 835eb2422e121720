"""The planned trainings beside the arms, and the time that each of their compiled programs saves."""

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from ryot_jax.config import SCHEDULED_TRAININGS, total_steps
from ryot_jax.scaling import ProgramKey, StepSchedule, phases
from ryot_jax.training import recipe


@dataclasses.dataclass(frozen=True)
class PlannedTraining:
    """The differences of a training from the config's own, fixed before anything runs.

    Attributes:
      name: name for display and for its files.
      phases: its step schedule, see `ryot_jax.scaling.phases`.
      parts: parts of its recipe, see `ryot_jax.training.recipe`.
      learning_rate: peak learning rate; None: the config's.
      description: a noun phrase for sentences about it.
    """

    name: str
    phases: str = "100% of B x T"
    parts: tuple[str, ...] = ()
    learning_rate: float | None = None
    description: str = "a training"


def planned_trainings(config: ConfigDict) -> list[PlannedTraining]:
    """The trainings that `config.scaling` requests, out of `config.SCHEDULED_TRAININGS`."""
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
    """The step schedule of a training for the sizes of a config.

    Raises:
      ConfigError: its phases are malformed.
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
    """The steps of one compiled program, and their time.

    Attributes:
      static: the sizes that the program was compiled for.
      steps: number of steps that it takes.
      seconds: seconds of all these steps.
      compile_seconds: seconds to compile the program.
    """

    static: ProgramKey
    steps: int
    seconds: float
    compile_seconds: float


def saved_seconds(timing: ProgramTiming, timings: Sequence[ProgramTiming]) -> float | None:
    """Seconds that a program saves over training on the same tokens in the largest full-depth steps.

    Those steps would replace it, so a program repays its compilation if it saves more seconds than that took. None for
    the program of those steps itself, or if there is none.
    """
    whole = [other for other in timings if other.static.depth == 0]
    largest = max(whole, key=lambda other: other.static.tokens, default=timing)
    if largest is timing:
        return None
    per_token = largest.seconds / (largest.steps * largest.static.tokens)
    return timing.steps * timing.static.tokens * per_token - timing.seconds
