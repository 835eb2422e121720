"""Inference scaling in training: the computation of each step's forward pass, as a function of the step.

Step schedules are composed of series and checked before anything compiles; `ryot_jax.training` runs them. The
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
