"""The numbers of training steps that a config implies, and the trainings that it may name beside the arms."""

import dataclasses
import math

from ml_collections import ConfigDict


def total_steps(config: ConfigDict) -> int:
    """Training steps of one arm: `training.epochs` times `training.steps_per_epoch`."""
    return int(config.training.epochs * config.training.steps_per_epoch)


def rounded_steps(config: ConfigDict) -> int:
    """Number of last training steps that see rounded weights with `optimizations.qat` = 'round'."""
    steps = total_steps(config)
    # A third of 300 steps is 100, whatever the last digits of the product.
    return math.floor(round(config.compression.qat_fraction * steps, 6))


@dataclasses.dataclass(frozen=True)
class ScheduledTraining:
    """A training beside the arms, towards the baseline's final loss.

    Attributes:
      name: name of its checkpoints and its config in the run directory.
      phases_field: the field of `config.scaling` with its step schedule; if that is '', it is not trained.
      has_recipe: whether `scaling.recipe` and `scaling.recipe_learning_rate` apply to it.
      description: a noun phrase for sentences about it.
    """

    name: str
    phases_field: str
    has_recipe: bool
    description: str


SCHEDULED_TRAININGS = (
    ScheduledTraining("schedule", "schedule", has_recipe=False, description="the schedule"),
    ScheduledTraining("recipe", "recipe_schedule", has_recipe=True, description="the recipe"),
    ScheduledTraining("both", "both_schedule", has_recipe=True, description="schedule and recipe"),
)
