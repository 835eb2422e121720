"""The public function of the op: `dropout`."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels.choice.benchmark import Benchmark, normal
from ryot_jax.kernels.declaration import Spec
from ryot_jax.kernels.operands import choose
from ryot_jax.kernels.ops.dropout import OP

_MASK_STANDARD_ERRORS = 5.0  # that the share of zeros may be off: it is random


def dropout(x: jax.Array, rate: float, key: jax.Array | None, *, implementation: str = "reference") -> jax.Array:
    """Zero each element with probability `rate` and scale the rest by 1/(1-rate) (arXiv:1207.0580).

    Args:
      x: any shape, any float dtype.
      rate: probability in [0, 1).
      key: a JAX random key; None: the identity.
      implementation: 'reference' (`jax.random.bernoulli`) or 'hash' (see its module: a few instructions an element).

    Returns:
      Shape and dtype of x. The same key gives the same mask.

    Raises:
      ValueError: the rate is not a probability below one, or the implementation is not known.
      TypeError: x is not of a float dtype.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"need a rate in [0, 1); got {rate}")
    apply = choose(OP, implementation, x)
    if key is None or rate == 0:
        return x
    y: jax.Array = apply(float(rate), key, x)
    return y


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
