"""The benchmark of the norms."""

from typing import Any

import jax
import numpy as np

from ryot_jax.kernels.choice.benchmark import normal
from ryot_jax.kernels.declaration import Benchmark, Spec
from ryot_jax.kernels.ops.norm.api import layer_norm, rms_norm


def benchmark(spec: Spec, rng: np.random.Generator) -> Benchmark:
    """The model's norm on the rows of one step, with its sum returned for the residual path."""
    norm, D = layer_norm if spec.norm == "layer" else rms_norm, spec.d_model

    def normed(implementation: str, x_ND: jax.Array, *vectors: jax.Array) -> Any:
        return norm(x_ND, *vectors, with_sum=True, dtype=spec.dtype, implementation=implementation)

    vectors = [1 + normal(rng, (D,), 0.1), normal(rng, (D,))][: 2 if spec.norm == "layer" else 1]
    return Benchmark(normed, (normal(rng, (spec.rows, D), dtype=spec.compute_dtype), *vectors))
