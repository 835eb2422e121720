"""AdamW in JAX: separate XLA operations for each array."""

import jax
import jax.numpy as jnp

from ryot_jax.kernels.declaration import Implementation
from ryot_jax.kernels.ops.optimizer._step import Leaves, Numbers


def _reference(
    numbers: Numbers, decays: list[float], params: Leaves, grads: Leaves, firsts: Leaves, seconds: Leaves
) -> tuple[Leaves, Leaves, Leaves, jax.Array]:
    grads = [g * jnp.asarray(numbers.gradient_scale, g.dtype) for g in grads]
    grad_norm = jnp.sqrt(sum((jnp.sum(jnp.square(g)) for g in grads), jnp.zeros(())))
    if numbers.clip_norm > 0:
        grads = [jnp.where(grad_norm < numbers.clip_norm, g, g / grad_norm * numbers.clip_norm) for g in grads]
    firsts = [numbers.b1 * m + (1 - numbers.b1) * g for m, g in zip(firsts, grads, strict=True)]
    seconds = [numbers.b2 * v + (1 - numbers.b2) * jnp.square(g) for v, g in zip(seconds, grads, strict=True)]
    new = []
    for p, m, v, decay in zip(params, firsts, seconds, decays, strict=True):
        update = m * numbers.first_correction / (jnp.sqrt(v * numbers.second_correction) + numbers.epsilon) + decay * p
        new.append((p - numbers.learning_rate * update).astype(p.dtype))
    return new, firsts, seconds, grad_norm


IMPLEMENTATION = Implementation(function=_reference, is_compiled_by_xla=True)
