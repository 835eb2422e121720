"""The dtype of the arrays between the ops of a transformer block; the residual stream keeps the model's dtype."""

import dataclasses

from ryot_jax.kernels.catalogue import ops
from ryot_jax.kernels.declaration import Evidence, Implementation, Optimization, Spec, Wishes
from ryot_jax.kernels.probes import rows_of_a_device
from ryot_jax.runtime.hlo import Array, Program

# Times the rate of float32 products from which on bfloat16 needs no measured step. Instructions for bfloat16 have half,
# twice or 16 times the rate, and without them it is the same: far enough that two processes find the same.
_CLEARLY = 1.5


def _refusal(spec: Spec) -> str | None:
    if spec.compute_dtype != "float32":
        return f"the model computes in {spec.compute_dtype} already"
    return None


def _drawback(spec: Spec, wanted: Wishes) -> str | None:
    # XLA:CPU stores bfloat16 but computes in float32, with a conversion at each end. It is a matter of speed, yet no
    # doubt that a measurement overrules: what was measured does not tell with which wishes for the ops.
    narrow = dataclasses.replace(spec, activations="bfloat16")
    in_cpp = [op for op in ops() if op.is_on_activations and "cpu" in op.implementations]
    for op in in_cpp:
        if reason := op.implementations["cpu"].refusal(narrow):
            return f"it pays with C++ kernels alone, and {reason}"
    for op in in_cpp:
        if (wish := wanted.get(op.name, "off")) not in ("auto", "cpu"):
            return f"it pays with C++ kernels alone, and optimizations.{op.name} = {wish!r}"
    return None


def _doubt(spec: Spec, wanted: Wishes) -> str | None:
    del wanted
    if spec.platform != "cpu":
        return None
    from ryot_jax.kernels import cpu  # which imports JAX

    narrow, wide = (cpu.product_rate(dtype) / 1e9 for dtype in ("bfloat16", "float32"))
    if narrow > _CLEARLY * wide:
        return None
    return (
        f"products of bfloat16 are no faster on this processor ({narrow:.0f} beside {wide:.0f} GFLOP/s a thread), and "
        "no step was measured"
    )


def _narrow_arrays(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """Evidence of bf16 arrays of rows x width, which the float32 baseline never makes."""
    rows = rows_of_a_device(spec)

    def is_activation(array: Array) -> bool:
        return array.dtype == "bf16" and array.size == rows * spec.d_model

    ours, theirs = (sum(map(is_activation, which.arrays)) for which in (program, baseline))
    text = f"{ours} arrays of bf16[{rows},{spec.d_model}] (rows x width) are made, {theirs} in the baseline"
    return Evidence(ours > 0 and theirs == 0, text)


OPTIMIZATION = Optimization(
    name="activations",
    description="bf16 arrays between the ops of a block, forward and backward; the residual stream stays float32",
    implementations={
        "": Implementation(is_compiled_by_xla=True),
        "bfloat16": Implementation(
            equivalence="statistical",
            probe=_narrow_arrays,
            refusal=_refusal,
            drawback=_drawback,
            doubt=_doubt,
            where="`auto`: with C++ kernels, where a race of steps or the rates of products speak for it",
        ),
    },
    place=0,  # the ops have to take this dtype
    sets="activations",
    plan_without="static order, no bfloat16 between ops",
)
