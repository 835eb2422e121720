"""Linear layer and softmax cross-entropy as one op.

The logits of a language model are its largest array. `reference` makes them all at once; the others make them chunk by
chunk, `mosaic` and `triton` as exponentials (see `_tiled`). With the reduction 'sum' they compute the gradients in the
forward pass, while a chunk's logits are available (Hsu et al. 2024, "Liger Kernel", arXiv:2410.10989): three matrix
products instead of the four that recomputation takes with 'none'.
"""

from ryot_jax.kernels.declaration import Modules, Op

OP = Op(
    name="linear_cross_entropy",
    description="output projection and loss in one op, gradients in the forward pass, logits never whole",
    place=1,
    package=__name__,
    functions=("linear_cross_entropy",),
    implementations=Modules(__name__, order=("cpu", "mosaic", "triton", "xla")),
    is_on_activations=True,
)
