"""One step of AdamW over a pytree of parameters, with clipping by the global gradient norm.

The learning-rate schedule, the choice of decayed parameters and the choice of AdamW itself are left to the caller.
"""

from ryot_jax.kernels.declaration import Modules, Op

OP = Op(
    name="optimizer",
    description="clipping and AdamW of all weights in one pass over memory",
    place=7,
    package=__name__,
    functions=("adamw", "AdamWStep"),
    implementations=Modules(__name__, order=("cpu",)),
    is_benchmarked=False,  # unlike the others it has no gradients; whole steps are timed with and without it
    plan_without="static order, XLA's AdamW",
)
