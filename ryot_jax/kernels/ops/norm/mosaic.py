"""Norms by their definition, with a backward kernel in Pallas Mosaic for Hopper."""

from typing import Any

import jax

from ryot_jax.kernels.declaration import Implementation, Spec
from ryot_jax.kernels.ops.norm._definition import forward
from ryot_jax.kernels.ops.norm._own_gradient import by_kernel, with_own_gradient
from ryot_jax.kernels.probes import custom_call
from ryot_jax.kernels.requirements import pallas_refusal

LANES = 32  # of a warp
RUN = 4  # neighbouring columns that a lane takes: 16 bytes of float32
# Warps of a row and up to how many columns: the first that divides them (128 a warp), two numbers a column stay in
# registers, at best for 32 columns a lane and at worst for 64.
_WARPS_PER_ROW = (1, 1024), (2, 2048), (4, 8192), (2, 4096), (1, 2048)


def refusal(d: int) -> str | None:
    """Why rows of D numbers cannot be taken; None: they can."""
    if warps_per_row(d) is None:
        return f"need D, a multiple of 128 up to 2048, of 256 up to 4096, of 512 up to 8192; got D={d}"
    return None


def warps_per_row(d: int) -> int | None:
    """How many warps share a row of D numbers; None: such rows cannot be taken."""
    return next((warps for warps, most in _WARPS_PER_ROW if 0 < d <= most and d % (warps * LANES * RUN) == 0), None)


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
