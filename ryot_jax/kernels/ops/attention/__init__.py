"""Multi-head attention: grouped heads, causal and sliding-window masks, padding.

`reference` scores every query against every key and masks what must not be seen; the others never compute most of what
the causal mask or the window takes away.
"""

from ryot_jax.kernels.declaration import Modules, Op

OP = Op(
    name="attention",
    description="causal attention in blocks, without the masked half and the whole score array",
    place=2,
    package=__name__,
    functions=("attention", "packed_attention", "reads_packed"),
    implementations=Modules(__name__, order=("cpu", "mosaic", "cudnn", "xla")),
    is_on_activations=True,
)
