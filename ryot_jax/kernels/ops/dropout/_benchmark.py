"""The benchmark of dropout."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels.choice.benchmark import normal
from ryot_jax.kernels.declaration import Benchmark, Spec
from ryot_jax.kernels.ops.dropout.api import dropout

_MASK_STANDARD_ERRORS = 5.0  # tolerance of the share of zeros, which is random


def benchmark(spec: Spec, rng: np.random.Generator) -> Benchmark:
    """The dropout of one branch of a layer, whose masks are judged by their statistics."""

    def dropped(implementation: str, x_ND: jax.Array, key: jax.Array) -> jax.Array:
        return dropout(x_ND, spec.dropout, key, implementation=implementation)

    def mask_error(found: tuple[jax.Array, tuple[jax.Array]]) -> float:
        """Error of the share of zeros, in standard errors; infinite if the backward pass has another mask."""
        y, (dx,) = found
        zeroed, zeroed_backward = (np.asarray(x.astype(jnp.float32)) == 0 for x in (y, dx))
        if not np.array_equal(zeroed, zeroed_backward):
            return math.inf
        rate = spec.dropout
        return float(abs(zeroed.mean() - rate) / (rate * (1 - rate) / y.size) ** 0.5)

    x_ND = 1 + jnp.abs(normal(rng, (spec.rows, spec.d_model)))  # no zeros but the mask's
    return Benchmark(
        dropped, (x_ND.astype(spec.dtype),), (jax.random.key(0),), error=mask_error, largest_error=_MASK_STANDARD_ERRORS
    )
