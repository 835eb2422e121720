"""The number of training steps per call of the compiled program: one, or several by a scan over their batches."""

from collections.abc import Mapping
from typing import Any

from ryot_jax.kernels.declaration import Evidence, Implementation, Optimization, Spec, Wishes
from ryot_jax.kernels.probes import rows_of_a_device
from ryot_jax.runtime.hlo import Array, Program

# On a 2-core CPU the host takes 2 ms to dispatch a step of 45 ms, on a core that the kernels need: with 5 steps per
# call that step was 1.05 to 1.07 times as fast, and more steps per call gained nothing.
STEPS_PER_CALL = 5


def steps_per_call(plan: Mapping[str, str]) -> int:
    """Training steps that one call of a plan's program takes."""
    return STEPS_PER_CALL if plan[OPTIMIZATION.name] == "scan" else 1


def _exclusion(config: Mapping[str, Any]) -> str | None:
    if config["training"]["parallelism"] == "pmap":
        return "pmap takes one step a call"
    block_steps = config["comparison"]["block_steps"]
    if block_steps // 2 < STEPS_PER_CALL:
        return (
            f"half a block of comparison.block_steps = {block_steps} steps is over before a call of {STEPS_PER_CALL} is"
        )
    return None


def _doubt(spec: Spec, wanted: Wishes) -> str | None:
    del wanted
    # On a CPU the host dispatches on a core that the kernels need; with an accelerator the host's cores are free.
    return None if spec.platform == "cpu" else f"it was measured on CPUs, not on {spec.platform}"


def _scanned_steps(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """Evidence of a loop of STEPS_PER_CALL iterations over stacked token ids, which the baseline does not have."""
    size = STEPS_PER_CALL * rows_of_a_device(spec)  # of one microbatch, if gradients are accumulated

    def is_stack(array: Array) -> bool:
        return array.dtype == "s32" and array.dims[:1] == (STEPS_PER_CALL,) and array.size % size == 0

    ours, theirs = (
        sum(loop.turns == STEPS_PER_CALL and any(map(is_stack, loop.carried)) for loop in which.loops)
        for which in (program, baseline)
    )
    text = f"{ours} loops of {STEPS_PER_CALL} turns over s32[{STEPS_PER_CALL},...] token ids, {theirs} in the baseline"
    return Evidence(ours > theirs, text)


OPTIMIZATION = Optimization(
    name="dispatch",
    description="several training steps a call of the compiled program, by a scan over their batches",
    implementations={
        "step": Implementation(is_compiled_by_xla=True),
        "scan": Implementation(
            equivalence="allclose",
            probe=_scanned_steps,
            doubt=_doubt,
            where="not with `pmap`; `auto`: on CPUs",
        ),
    },
    place=9,
    exclusion=_exclusion,
    note=f"{STEPS_PER_CALL} steps a call",
)
