"""One step of AdamW over a pytree of parameters, with clipping by the global gradient norm.

The learning-rate schedule, the choice of decayed parameters and the choice of AdamW itself are left to the caller.
"""

from collections.abc import Mapping
from typing import Any

from ryot_jax.kernels.declaration import Modules, Op


def _exclusion(config: Mapping[str, Any]) -> str | None:
    optimizer = config["training"]["optimizer"]
    return None if optimizer == "adamw" else f"the kernel takes steps of adamw, not of {optimizer}"


OP = Op(
    name="optimizer",
    description="clipping and AdamW of all weights in one pass over memory",
    place=7,
    package=__name__,
    functions=("adamw", "AdamWStep"),
    implementations=Modules(__name__, order=("cpu",)),
    is_benchmarked=False,  # it has no gradients, as the others have; whole steps are timed with it and without it
    exclusion=_exclusion,
    plan_without="static order, XLA's AdamW",
)
