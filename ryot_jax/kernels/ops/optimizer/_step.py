"""Scalars and arrays of an optimizer step, in the form that implementations take."""

from typing import NamedTuple

import jax


class Numbers(NamedTuple):
    """Scalars of an optimizer step; the corrections are 1 / (1 - b1^t) and 1 / (1 - b2^t)."""

    gradient_scale: jax.Array | float
    clip_norm: float
    learning_rate: jax.Array | float
    b1: float
    b2: float
    epsilon: float
    first_correction: jax.Array
    second_correction: jax.Array


Leaves = list[jax.Array]
