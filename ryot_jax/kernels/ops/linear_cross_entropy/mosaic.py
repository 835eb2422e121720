"""Exponentials of the logits from a kernel in Pallas Mosaic, for Hopper."""

from typing import Any

from ryot_jax.kernels.declaration import Implementation
from ryot_jax.kernels.ops.linear_cross_entropy import _tiled
from ryot_jax.kernels.probes import custom_call
from ryot_jax.kernels.requirements import mosaic_products_refusal


def _exponentials(*arrays: Any, **options: Any) -> _tiled.Tiles:
    # Imported with the first call: Pallas takes a second, which no run without a GPU should wait for.
    from ryot_jax.kernels.ops.linear_cross_entropy._mosaic_kernel import exponentials

    return exponentials(*arrays, **options)


IMPLEMENTATION = Implementation(
    function=_tiled.reductions(_exponentials),
    equivalence="allclose",
    probe=custom_call("ryot_linear_cross_entropy"),
    refusal=mosaic_products_refusal,
    where="Hopper",
)
