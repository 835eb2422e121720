"""Dense products of bfloat16 operands with float32 sums, for CPUs with AVX512-BF16.

XLA runs a product of bfloat16 operands there at twice the rate of float32, but only if the output is float32, and
automatic differentiation would give the backward products a float32 cotangent.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ryot_jax.kernels.declaration import Implementation, Spec
from ryot_jax.kernels.operands import OwnGradient, rows
from ryot_jax.kernels.ops.dense._layer import layer, narrow_products
from ryot_jax.machine import processor


def _bf16_dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)


@OwnGradient
def _bf16_product(x: jax.Array, w_DF: jax.Array) -> jax.Array:
    return _bf16_dot(rows(x), w_DF, 1, 0).reshape(*x.shape[:-1], w_DF.shape[1])


def _bf16_product_forward(x: jax.Array, w_DF: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _bf16_product(x, w_DF), (x, w_DF)


def _bf16_product_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w_DF = saved
    dx_ND = _bf16_dot(rows(dy), w_DF, 1, 1)
    dw_DF = _bf16_dot(rows(x), rows(dy), 0, 0)
    return dx_ND.reshape(x.shape).astype(x.dtype), dw_DF.astype(w_DF.dtype)


_bf16_product.defvjp(_bf16_product_forward, _bf16_product_backward)


def _refusal(spec: Spec) -> str | None:
    if spec.platform != "cpu":
        return f"on {spec.platform} model.compute_dtype decides the products' dtype"
    if spec.compute_dtype != "float32":
        return f"the model computes in {spec.compute_dtype} already"
    if "avx512_bf16" not in processor.cpu_flags():
        return "this CPU has no AVX512-BF16, and bfloat16 products are slower than float32 without it"
    return None


IMPLEMENTATION = Implementation(
    function=functools.partial(layer, _bf16_product),
    equivalence="statistical",
    probe=narrow_products("bf16"),
    refusal=_refusal,
    where="CPUs with AVX512-BF16",
    rounding="bfloat16",
    is_compiled_by_xla=True,
)
