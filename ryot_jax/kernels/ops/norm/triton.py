"""Norms in Pallas' Triton dialect, forward and backward each in one pass over their arrays."""

from typing import Any

import jax

from ryot_jax.kernels.declaration import Implementation, Spec
from ryot_jax.kernels.operands import rows
from ryot_jax.kernels.ops.norm._definition import Settings, forward
from ryot_jax.kernels.ops.norm._limits import LARGEST_D
from ryot_jax.kernels.ops.norm._own_gradient import by_kernel, with_own_gradient
from ryot_jax.kernels.probes import custom_call
from ryot_jax.kernels.requirements import pallas_refusal


def _forward(
    settings: Settings, x: jax.Array, residual: jax.Array | None, scale_D: jax.Array, bias_D: jax.Array | None
) -> tuple[jax.Array, jax.Array, Any]:
    if x.size == 0:
        return forward(settings, x, residual, scale_D, bias_D)
    from ryot_jax.kernels.ops.norm._triton_kernels import norm_forward

    y_ND, s_ND, mean_N1, inverse_N1 = norm_forward(
        rows(x),
        None if residual is None else rows(residual),
        scale_D,
        bias_D,
        centre=settings.centre,
        epsilon=settings.epsilon,
        dtype=settings.dtype,
    )
    return y_ND.reshape(x.shape), s_ND.reshape(x.shape), (mean_N1, inverse_N1)


def _kernel(*arrays: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Imported on the first call: importing Pallas takes a second, which runs without a GPU should not pay.
    from ryot_jax.kernels.ops.norm._triton_kernels import norm_backward

    return norm_backward(*arrays)


def _refusal(spec: Spec) -> str | None:
    if spec.d_model > LARGEST_D:
        return f"triton's norms take d_model up to {LARGEST_D}, not {spec.d_model}"
    return pallas_refusal("triton", spec)


IMPLEMENTATION = Implementation(
    function=with_own_gradient(_forward, by_kernel(_kernel)),
    equivalence="allclose",
    probe=custom_call("ryot_norm"),
    refusal=_refusal,
    where="NVIDIA GPUs from Ampere on",
)
