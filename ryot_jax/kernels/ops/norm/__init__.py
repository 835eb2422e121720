"""LayerNorm and RMSNorm over the last axis of x, or of the sum of x and a residual.

All but the reference keep two numbers per row for the backward pass, where automatic differentiation of the reference
keeps arrays; the gradient of the sum's other use (the residual path) is added within the backward pass.
"""

from ryot_jax.kernels.declaration import Modules, Op

OP = Op(
    name="norm",
    description="layer norm or RMS norm that keeps two numbers a row for its backward pass",
    place=4,
    package=__name__,
    functions=("layer_norm", "rms_norm"),
    implementations=Modules(__name__, order=("cpu", "triton", "mosaic", "xla")),
    is_on_activations=True,
)
