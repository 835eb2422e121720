"""Multi-head attention: grouped heads, causal and sliding-window masks, padding.

`reference` scores every query against every key and masks the hidden ones; the others skip most of the scores that the
causal mask or the window would remove.
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
