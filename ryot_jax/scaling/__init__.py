"""Inference scaling, in training: what each step's forward pass computes, as a function of the step.

Schedules are put together from series and checked before anything compiles; `ryot_jax.training` runs them. The
schedules of decoding are in `ryot_jax.decoding.draft_length` and `ryot_jax.decoding.candidates`.
"""

from ryot_jax.scaling.schedule import ProgramKey, StepSchedule, TracedValues, check, compose
from ryot_jax.scaling.series import Series, constant, linear_ramp, per_phase, piecewise

__all__ = [
    "ProgramKey",
    "Series",
    "StepSchedule",
    "TracedValues",
    "check",
    "compose",
    "constant",
    "linear_ramp",
    "per_phase",
    "piecewise",
]
