"""Arrays and a function to measure the op with."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels.choice.benchmark import normal
from ryot_jax.kernels.declaration import Benchmark, Spec
from ryot_jax.kernels.ops.dropout.api import dropout

_MASK_STANDARD_ERRORS = 5.0  # that the share of zeros may be off: it is random


def benchmark(spec: Spec, rng: np.random.Generator) -> Benchmark:
    """A branch of one layer, whose masks are judged by their statistics."""

    def dropped(implementation: str, x_ND: jax.Array, key: jax.Array) -> jax.Array:
        return dropout(x_ND, spec.dropout, key, implementation=implementation)

    def mask_error(found: tuple[jax.Array, tuple[jax.Array]]) -> float:
        """How many standard errors the share of zeros is off; infinite where backward has another mask."""
        y, (dx,) = found
        zeroed, zeroed_backward = (np.asarray(x.astype(jnp.float32)) == 0 for x in (y, dx))
        if not np.array_equal(zeroed, zeroed_backward):
            return math.inf
        rate = spec.dropout
        return float(abs(zeroed.mean() - rate) / (rate * (1 - rate) / y.size) ** 0.5)

    x_ND = 1 + jnp.abs(normal(rng, (spec.rows, spec.d_model)))  # no zero that is not the mask's
    return Benchmark(
        dropped, (x_ND.astype(spec.dtype),), (jax.random.key(0),), error=mask_error, largest_error=_MASK_STANDARD_ERRORS
    )
