"""Inference scaling, in training: what each step's forward pass computes, as a function of the step.

Schedules are put together from series and checked before anything compiles; `ryot_jax.training` runs them. The
schedules of decoding are in `ryot_jax.decoding.draft_length` and `ryot_jax.decoding.candidates`.
"""

from ryot_jax.scaling.schedule import Dynamic, Static, StepSchedule, check, compose
from ryot_jax.scaling.series import Series, constant, linear_ramp, per_phase, piecewise

__all__ = [
    "Dynamic",
    "Series",
    "Static",
    "StepSchedule",
    "check",
    "compose",
    "constant",
    "linear_ramp",
    "per_phase",
    "piecewise",
]
