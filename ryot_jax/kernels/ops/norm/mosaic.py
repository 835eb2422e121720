"""Norms by their definition, with a backward kernel in Pallas Mosaic for Hopper."""

from typing import Any

import jax

from ryot_jax.kernels.declaration import Implementation, Spec
from ryot_jax.kernels.ops.norm._definition import forward
from ryot_jax.kernels.ops.norm._mosaic_rows import refusal
from ryot_jax.kernels.ops.norm._own_gradient import by_kernel, with_own_gradient
from ryot_jax.kernels.probes import custom_call
from ryot_jax.kernels.requirements import pallas_refusal


def _kernel(*arrays: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Imported on the first call: importing Pallas takes a second, which runs without a GPU should not pay.
    from ryot_jax.kernels.ops.norm._mosaic_backward import norm_backward

    return norm_backward(*arrays)


def _refusal(spec: Spec) -> str | None:
    if (reason := refusal(spec.d_model)) is not None:
        return f"mosaic's norms {reason}"
    return pallas_refusal("mosaic", spec)


IMPLEMENTATION = Implementation(
    function=with_own_gradient(forward, by_kernel(_kernel)),
    equivalence="allclose",
    probe=custom_call("ryot_norm"),
    refusal=_refusal,
    where="Hopper",
)
