"""Look-up of token embeddings, with learned positions.

The forward pass is XLA's gather in all implementations. In the backward pass XLA's scatter-add on a CPU runs on one
thread; `cpu` uses all. XLA's sum over the sequences, the gradient of the positions, is up to fifty times slower there
than memory bandwidth allows (jaxlib 0.10.2, 32 x 128 x 512); `cpu` computes it as a product with a row of ones.
"""

from ryot_jax.kernels.declaration import Modules, Op

OP = Op(
    name="embedding",
    description="gradient of the embedding added up in all threads",
    place=5,
    package=__name__,
    functions=("embedding",),
    implementations=Modules(__name__, order=("cpu",)),
)
