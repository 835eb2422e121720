"""Dense products of 8-bit floats, for GPUs that multiply them at twice the rate of 16-bit ones."""

import functools

import jax
import jax.numpy as jnp

from ryot_jax.kernels.declaration import Implementation, Spec, Wishes
from ryot_jax.kernels.operands import accumulator
from ryot_jax.kernels.ops.dense import _fp8_product
from ryot_jax.kernels.ops.dense._layer import layer, narrow_products


def _product(x: jax.Array, w_DF: jax.Array) -> jax.Array:
    return _fp8_product.product(x, w_DF).astype(accumulator(x.dtype))


def _refusal(spec: Spec) -> str | None:
    if spec.platform != "gpu":
        return f"products of 8-bit floats run on NVIDIA GPUs, not on {spec.platform}"
    sizes = {"rows": spec.rows // spec.n_devices, "d_model": spec.d_model, "d_ff": spec.d_ff}
    return _fp8_product.refusal(spec.compute_capability, spec.dtype, sizes)


def _drawback(spec: Spec, wanted: Wishes) -> str | None:
    del spec, wanted
    return "3 bits of mantissa change what is trained by more than the other kernels do"


IMPLEMENTATION = Implementation(
    function=functools.partial(layer, _product),
    equivalence="statistical",
    probe=narrow_products("f8"),
    refusal=_refusal,
    drawback=_drawback,
    where="NVIDIA GPUs from Ada on; never by `auto`",
    rounding=str(jnp.dtype(_fp8_product.FORWARD)),
    is_tunable=False,
    is_compiled_by_xla=True,
)
