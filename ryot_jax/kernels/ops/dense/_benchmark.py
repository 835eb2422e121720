"""The benchmark of the dense layer."""

import jax
import numpy as np

from ryot_jax.kernels.choice.benchmark import normal
from ryot_jax.kernels.declaration import Benchmark, Spec
from ryot_jax.kernels.fused.mlp import mlp
from ryot_jax.kernels.ops.dense.api import dense


def benchmark(spec: Spec, rng: np.random.Generator) -> Benchmark:
    """The products of a transformer block: fused projection to heads, output projection, and the MLP."""
    N, D, F = spec.rows, spec.d_model, spec.d_ff
    up = 2 * F if spec.mlp == "swiglu" else F
    shapes = {"qkv": (D, 3 * D), "out": (D, D), "up": (D, up), "down": (F, D)}
    weights = [normal(rng, shape, shape[0] ** -0.5) for shape in shapes.values()]
    biases = [normal(rng, shape[1:]) for shape in shapes.values()] if spec.norm == "layer" else []

    def products(
        implementation: str, x_ND: jax.Array, residual_ND: jax.Array, *parameters: jax.Array
    ) -> tuple[jax.Array, ...]:
        qkv, out, up, down = parameters[:4]
        qkv_bias, out_bias, up_bias, down_bias = parameters[4:] or (None,) * 4
        return (
            dense(x_ND, qkv, qkv_bias, implementation=implementation),
            dense(x_ND, out, out_bias, residual=residual_ND, implementation=implementation),
            mlp(
                *(x_ND, up, down, up_bias, down_bias),
                kind=spec.mlp,
                residual=residual_ND,
                implementation=implementation,
            ),
        )

    x_ND, residual_ND = (normal(rng, (N, D), dtype=dtype) for dtype in (spec.dtype, spec.compute_dtype))
    return Benchmark(products, (x_ND, residual_ND, *weights, *biases))
