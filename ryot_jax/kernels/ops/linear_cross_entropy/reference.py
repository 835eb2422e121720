"""Linear + cross-entropy with all logits at once, differentiated by JAX."""

import jax
import jax.numpy as jnp

from ryot_jax.kernels.declaration import Implementation
from ryot_jax.kernels.ops.linear_cross_entropy._gradients import Reductions
from ryot_jax.kernels.ops.linear_cross_entropy._logits import logits, losses
from ryot_jax.kernels.ops.linear_cross_entropy._terms import Terms


def _losses(terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
    logits_NV = logits(terms, x_ND, w_VD)
    return losses(terms, logits_NV, jax.nn.logsumexp(logits_NV, axis=-1), targets_N)


def _sum(terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
    return jnp.sum(_losses(terms, x_ND, w_VD, targets_N))


IMPLEMENTATION = Implementation(function=Reductions(sum=_sum, none=_losses), is_compiled_by_xla=True)
