"""Dense layer: product with a weight matrix, bias, activation and residual in one op."""

from ryot_jax.kernels.declaration import Modules, Op

OP = Op(
    name="dense",
    description="dense products with activation and residual sum in one op (cpu), or of bf16 or 8-bit operands "
    "(xla, fp8)",
    place=3,
    package=__name__,
    functions=("dense",),
    implementations=Modules(__name__, order=("cpu", "xla", "fp8")),
    is_on_activations=True,
)
