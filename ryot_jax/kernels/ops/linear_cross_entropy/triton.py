"""Linear + cross-entropy from exponentials of a kernel in Pallas' Triton dialect."""

from typing import Any

from ryot_jax.kernels.declaration import Implementation, Spec
from ryot_jax.kernels.ops.linear_cross_entropy import _tiled
from ryot_jax.kernels.probes import custom_call
from ryot_jax.kernels.requirements import pallas_refusal


def _exponentials(*arrays: Any, **options: Any) -> _tiled.Tiles:
    # Imported on the first call: importing Pallas takes a second, which runs without a GPU should not pay.
    from ryot_jax.kernels.ops.linear_cross_entropy._triton_kernel import exponentials

    return exponentials(*arrays, **options)


def _refusal(spec: Spec) -> str | None:
    return pallas_refusal("triton", spec)


IMPLEMENTATION = Implementation(
    function=_tiled.reductions(_exponentials),
    equivalence="allclose",
    probe=custom_call("ryot_linear_cross_entropy"),
    refusal=_refusal,
    where="from Ampere on",
)
