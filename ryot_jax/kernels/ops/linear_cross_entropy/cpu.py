"""Linear + cross-entropy in C++: a chunk's logits stay in the cache of the core that computes them."""

import jax
import jax.numpy as jnp

from ryot_jax.kernels import cpu
from ryot_jax.kernels.declaration import Implementation
from ryot_jax.kernels.operands import as_ffi_operand
from ryot_jax.kernels.ops.linear_cross_entropy._gradients import with_gradients
from ryot_jax.kernels.ops.linear_cross_entropy._terms import Terms
from ryot_jax.kernels.probes import custom_call
from ryot_jax.kernels.requirements import cpp_dtypes, cpp_refusal


def _losses(terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
    operands = x_ND, w_VD.astype(jnp.float32), targets_N.astype(jnp.int32)
    out = jax.ShapeDtypeStruct(targets_N.shape, jnp.float32)
    return cpu.call("ryot_linear_cross_entropy_loss", out, *operands, **terms.attributes())


def _gradients(
    terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array, weights_N: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    operands = x_ND, w_VD.astype(jnp.float32), targets_N.astype(jnp.int32), as_ffi_operand(weights_N)
    out = (
        jax.ShapeDtypeStruct(targets_N.shape, jnp.float32),
        jax.ShapeDtypeStruct(x_ND.shape, x_ND.dtype),
        jax.ShapeDtypeStruct(w_VD.shape, jnp.float32),
    )
    return cpu.call("ryot_linear_cross_entropy_gradients", out, *operands, **terms.attributes())


IMPLEMENTATION = Implementation(
    function=with_gradients(_losses, _gradients),
    equivalence="allclose",
    probe=custom_call("ryot_linear_cross_entropy"),
    refusal=cpp_refusal,
    require=cpp_dtypes,
    where="C++",
)
