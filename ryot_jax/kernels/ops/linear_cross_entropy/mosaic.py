"""Linear + cross-entropy from exponentials of a Pallas Mosaic kernel, for Hopper."""

from typing import Any

from ryot_jax.kernels.declaration import Implementation
from ryot_jax.kernels.ops.linear_cross_entropy import _tiled
from ryot_jax.kernels.probes import custom_call
from ryot_jax.kernels.requirements import mosaic_products_refusal


def _exponentials(*arrays: Any, **options: Any) -> _tiled.Tiles:
    # Imported on the first call: importing Pallas takes a second, which runs without a GPU should not pay.
    from ryot_jax.kernels.ops.linear_cross_entropy._mosaic_kernel import exponentials

    return exponentials(*arrays, **options)


IMPLEMENTATION = Implementation(
    function=_tiled.reductions(_exponentials),
    equivalence="allclose",
    probe=custom_call("ryot_linear_cross_entropy"),
    refusal=mosaic_products_refusal,
    where="Hopper",
)
