"""Quantization-aware training: the loss of rounded weights in the last part of training. See `training.qat`."""

from ryot_jax.kernels.declaration import Evidence, Implementation, Optimization, Spec, Wishes
from ryot_jax.runtime.hlo import Program


def _drawback(spec: Spec, wanted: Wishes) -> str | None:
    del spec, wanted
    return "it changes what is trained, the loss of rounded weights, so the arms would be compared at other losses"


def _rounded_weights(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """Evidence of weight-sized arrays rounded to integers, which the baseline never makes."""
    # By size, as the compiler chooses the shape; a scan over layers has stacks of matrices.
    sizes = [spec.d_model * width for width in (spec.d_ff, spec.vocab_size)]

    def count(which: Program) -> int:
        return sum(
            opcode.startswith("round-nearest") and any(array.size and array.size % size == 0 for size in sizes)
            for opcode, array in which.operations
        )

    ours, theirs = count(program), count(baseline)
    text = f"{ours} roundings of arrays with the size of an MLP weight or the embedding, {theirs} in the baseline"
    return Evidence(ours > theirs, text)


OPTIMIZATION = Optimization(
    name="qat",
    description="the loss of weights rounded to compression.qat_bits in the last part of training; float ones kept",
    implementations={
        "float": Implementation(is_compiled_by_xla=True),
        "round": Implementation(equivalence="statistical", probe=_rounded_weights, drawback=_drawback),
    },
    place=8,
    note="the last part is 12 % of the steps, under the learning rate's decay; it pays where weights are rounded to "
    "the nearest code, not with `ryot compress` ([measured](experiments/results/qat_scaled.md)), so never by `auto`",
)
