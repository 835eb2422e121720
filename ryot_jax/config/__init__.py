"""The config tree: defaults, rules, and an exact JSON form."""

from ryot_jax.config.rules import validate
from ryot_jax.config.tree import differences, fields, from_json, get_default, load, to_json
from ryot_jax.training.steps import SCHEDULED_TRAININGS, ScheduledTraining, total_steps

__all__ = [
    "SCHEDULED_TRAININGS",
    "ScheduledTraining",
    "differences",
    "fields",
    "from_json",
    "get_default",
    "load",
    "to_json",
    "total_steps",
    "validate",
]
