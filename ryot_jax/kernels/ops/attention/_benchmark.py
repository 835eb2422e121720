"""The benchmark of attention."""

import jax
import numpy as np

from ryot_jax.kernels.choice.benchmark import normal
from ryot_jax.kernels.declaration import Benchmark, Spec
from ryot_jax.kernels.ops.attention.api import attention


def benchmark(spec: Spec, rng: np.random.Generator) -> Benchmark:
    """The causal attention of one layer."""
    shape = (spec.rows // spec.seq_len, spec.seq_len, spec.n_heads, spec.d_model // spec.n_heads)

    def heads(implementation: str, *qkv: jax.Array) -> jax.Array:
        return attention(*qkv, implementation=implementation)

    return Benchmark(heads, tuple(normal(rng, shape, dtype=spec.dtype) for _ in "qkv"))
