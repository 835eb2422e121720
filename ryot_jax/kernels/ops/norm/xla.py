"""Norms by their definition, with a gradient that needs only the mean and deviation of each row."""

from ryot_jax.kernels.declaration import Evidence, Implementation, Spec, Wishes
from ryot_jax.kernels.ops.norm._definition import forward
from ryot_jax.kernels.ops.norm._own_gradient import backward, with_own_gradient
from ryot_jax.kernels.probes import rows_of_a_device
from ryot_jax.runtime.hlo import Array, Program


def _doubt(spec: Spec, wanted: Wishes) -> str | None:
    del spec, wanted
    return "no faster than XLA's own derivative where it was measured; it saves memory"


def _own_gradient(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """Evidence of fewer divisions per row: autodiff divides for the derivative of 1/deviation, the own VJP does not."""
    rows = rows_of_a_device(spec)
    per_row = {(rows,), (rows // spec.seq_len, spec.seq_len)}  # a softmax's divisors have an axis of heads too

    def is_per_row(array: Array) -> bool:
        return tuple(size for size in array.dims if size > 1) in per_row

    ours, theirs = (
        sum(opcode == "divide" and is_per_row(array) for opcode, array in which.operations)
        for which in (program, baseline)
    )
    return Evidence(ours < theirs, f"{ours} divisions of one number a row, {theirs} in the baseline")


IMPLEMENTATION = Implementation(
    function=with_own_gradient(forward, backward),
    equivalence="allclose",
    probe=_own_gradient,
    doubt=_doubt,
    is_compiled_by_xla=True,
)
