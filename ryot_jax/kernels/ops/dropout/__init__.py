"""Dropout: random elements set to zero."""

from ryot_jax.kernels.declaration import Modules, Op

OP = Op(
    name="dropout",
    description="dropout masks hashed from a counter in the pass that applies them, never stored",
    place=6,
    package=__name__,
    functions=("dropout",),
    implementations=Modules(__name__, order=("hash",)),
)
