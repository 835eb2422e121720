"""The benchmark of linear + cross-entropy."""

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels.choice.benchmark import normal, zipf_tokens
from ryot_jax.kernels.declaration import Benchmark, Spec
from ryot_jax.kernels.ops.linear_cross_entropy.api import linear_cross_entropy


def benchmark(spec: Spec, rng: np.random.Generator) -> Benchmark:
    """The loss of one step, with targets as uneven as in natural text."""
    N, D, V = spec.rows, spec.d_model, spec.vocab_size

    def loss(implementation: str, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
        loss_sum: jax.Array = linear_cross_entropy(x_ND, w_VD, targets_N, implementation=implementation)[0]
        return loss_sum

    targets_N = jnp.asarray(zipf_tokens(rng, V, (N,)))
    return Benchmark(loss, (normal(rng, (N, D), dtype=spec.dtype), normal(rng, (V, D), D**-0.5)), (targets_N,))
