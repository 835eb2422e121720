"""The benchmark of the embedding."""

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels.choice.benchmark import normal, zipf_tokens
from ryot_jax.kernels.declaration import Benchmark, Spec
from ryot_jax.kernels.ops.embedding.api import embedding


def benchmark(spec: Spec, rng: np.random.Generator) -> Benchmark:
    """The look-up of one step's tokens, as uneven as in natural text; float32 whatever the model computes in."""

    def taken(implementation: str, table_VD: jax.Array, tokens_N: jax.Array) -> jax.Array:
        return embedding(table_VD, tokens_N, implementation=implementation)

    tokens_N = jnp.asarray(zipf_tokens(rng, spec.vocab_size, (spec.rows,)))
    table_VD = normal(rng, (spec.vocab_size, spec.d_model))
    return Benchmark(taken, (table_VD,), (tokens_N,), rounding="float32")
