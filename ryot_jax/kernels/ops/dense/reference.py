"""Dense products in x's dtype, differentiated by JAX."""

import functools

import jax
import jax.numpy as jnp

from ryot_jax.kernels.declaration import Implementation
from ryot_jax.kernels.operands import accumulator
from ryot_jax.kernels.ops.dense._layer import layer


def _product(x: jax.Array, w_DF: jax.Array) -> jax.Array:
    if x.dtype == jnp.bfloat16:
        # Like Flax's own layers: a float32 result would give the backward products a float32 cotangent, and a GPU
        # would run them at half the rate or less.
        return jnp.matmul(x, w_DF.astype(x.dtype)).astype(jnp.float32)
    return jnp.matmul(x, w_DF.astype(x.dtype), preferred_element_type=accumulator(x.dtype))


IMPLEMENTATION = Implementation(function=functools.partial(layer, _product), is_compiled_by_xla=True)
