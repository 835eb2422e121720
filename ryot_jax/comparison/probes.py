"""Active probes: proof from the compiled programs that an optimization is really on.

A probe compares the program of an arm with the baseline's program. Which probe belongs to which optimization
is said in `variants`; how a program is read, in `hlo`.
"""

import dataclasses
from collections.abc import Callable

from ryot_jax.kernels import Spec
from ryot_jax.runtime.hlo import Array, Program
from ryot_jax.training.parallel import STEPS_PER_CALL

_FLOATS = frozenset({"f32", "bf16", "f16"})


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a probe found: whether the optimization is on, and the finding in words for people."""

    active: bool
    text: str


Probe = Callable[[Program, Program, Spec], Evidence]
"""(program of the arm, program of the baseline, sizes) -> Evidence."""


def custom_call(*target_parts: str) -> Probe:
    """A probe that wants a custom call whose target contains one of `target_parts`, which the baseline has not."""

    def probe(program: Program, baseline: Program, spec: Spec) -> Evidence:
        del spec
        ours, theirs = (
            [target for target in which.custom_calls if any(part in target for part in target_parts)]
            for which in (program, baseline)
        )
        named = ", ".join(sorted(set(ours))) or " or ".join(target_parts)
        return Evidence(
            bool(ours) and not theirs, f"{len(ours)} custom calls to {named}, {len(theirs)} in the baseline"
        )

    return probe


def no_logits(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """The baseline makes whole [N, V] arrays (rows x vocabulary); an arm with chunked logits makes none.

    Where the vocabulary has the width of another array of the model, fewer of them must be left.
    """
    rows = _per_device(spec.rows, spec)
    shape = f"[{rows},{spec.vocab_size}] (rows x vocabulary)"

    def is_logits(array: Array) -> bool:
        return array.dtype in _FLOATS and spec.vocab_size in array.dims and array.size == rows * spec.vocab_size

    other_widths = {k * spec.d_ff for k in (1, 2)} | {k * spec.d_model for k in (1, 2, 3)}
    return _vanished(program, baseline, is_logits, shape, shared=spec.vocab_size in other_widths)


def no_scores(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """The baseline makes whole [B, H, T, T] score arrays; an arm with blocked attention makes none."""
    rows = _per_device(spec.rows, spec)
    scores = rows * spec.n_heads * spec.seq_len
    shape = f"[{rows // spec.seq_len},{spec.n_heads},{spec.seq_len},{spec.seq_len}] (attention scores)"

    def is_scores(array: Array) -> bool:
        square = array.dims.count(spec.seq_len) >= 2 and array.dims[-2:] == (spec.seq_len, spec.seq_len)
        return array.dtype in _FLOATS and square and array.size == scores

    return _vanished(program, baseline, is_scores, shape, shared=False)


def bf16_dense(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """An arm with bf16 dense products has bf16 x bf16 dots with an MLP weight, and more than the baseline."""
    return _narrow_dense(program, baseline, spec, "bf16")


def fp8_dense(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """The same of 8-bit floats, whichever two of them a product has."""
    return _narrow_dense(program, baseline, spec, "f8")


def bf16_activations(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """An arm with bf16 between the ops makes bf16 arrays of rows x width, which the float32 baseline never does."""
    rows = _per_device(spec.rows, spec)

    def is_activation(array: Array) -> bool:
        return array.dtype == "bf16" and array.size == rows * spec.d_model

    ours, theirs = (sum(map(is_activation, which.arrays)) for which in (program, baseline))
    text = f"{ours} arrays of bf16[{rows},{spec.d_model}] (rows x width) are made, {theirs} in the baseline"
    return Evidence(ours > 0 and theirs == 0, text)


def own_norm_gradient(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """Automatic differentiation divides once a row, for the derivative of 1/deviation; the norm's own VJP does not."""
    rows = _per_device(spec.rows, spec)
    per_row = {(rows,), (rows // spec.seq_len, spec.seq_len)}  # a softmax divides by numbers that have heads, too

    def is_per_row(array: Array) -> bool:
        return tuple(size for size in array.dims if size > 1) in per_row

    ours, theirs = (
        sum(opcode == "divide" and is_per_row(array) for opcode, array in which.operations)
        for which in (program, baseline)
    )
    return Evidence(ours < theirs, f"{ours} divisions of one number a row, {theirs} in the baseline")


def no_random_bits(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """The baseline draws a random integer an element, in arrays of their own; a hash is computed where it is used."""
    rows = _per_device(spec.rows, spec)
    shape = f"u32[{rows},{spec.d_model}] (random bits)"

    def is_bits(array: Array) -> bool:
        return array.dtype == "u32" and array.size == rows * spec.d_model

    return _vanished(program, baseline, is_bits, shape, shared=True)


def rounded_weights(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """An arm that trains on rounded weights rounds arrays of their sizes to integers; the baseline never does."""
    # In whatever shape a compiler keeps them; a scan over layers has stacks of matrices.
    sizes = [spec.d_model * width for width in (spec.d_ff, spec.vocab_size)]

    def count(which: Program) -> int:
        return sum(
            opcode.startswith("round-nearest") and any(array.size and array.size % size == 0 for size in sizes)
            for opcode, array in which.operations
        )

    ours, theirs = count(program), count(baseline)
    text = f"{ours} roundings of arrays with the size of an MLP weight or the embedding, {theirs} in the baseline"
    return Evidence(ours > theirs, text)


def scanned_steps(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """An arm with several steps a call has a loop of as many turns over their stacked token ids; the baseline none."""
    size = STEPS_PER_CALL * _per_device(spec.rows, spec)  # of one microbatch, where gradients are accumulated

    def is_stack(array: Array) -> bool:
        return array.dtype == "s32" and array.dims[:1] == (STEPS_PER_CALL,) and array.size % size == 0

    ours, theirs = (
        sum(loop.turns == STEPS_PER_CALL and any(map(is_stack, loop.carried)) for loop in which.loops)
        for which in (program, baseline)
    )
    text = f"{ours} loops of {STEPS_PER_CALL} turns over s32[{STEPS_PER_CALL},...] token ids, {theirs} in the baseline"
    return Evidence(ours > theirs, text)


def _vanished(
    program: Program, baseline: Program, wanted: Callable[[Array], bool], shape: str, *, shared: bool
) -> Evidence:
    ours, theirs = (sum(map(wanted, which.arrays)) for which in (program, baseline))
    text = f"{ours} arrays of {shape} are made, {theirs} in the baseline"
    return Evidence(ours < theirs if shared else theirs > 0 and ours == 0, text)


def _narrow_dense(program: Program, baseline: Program, spec: Spec, dtype: str) -> Evidence:
    # A gated MLP may hold both of its input matrices in one, twice as wide.
    widths = {spec.d_ff, 2 * spec.d_ff} - ({spec.vocab_size} - {spec.d_ff})

    def is_weight(array: Array) -> bool:
        return len(array.dims) == 2 and any(sorted(array.dims) == sorted((spec.d_model, width)) for width in widths)

    def count(which: Program) -> int:
        return sum(
            all(operand.dtype.startswith(dtype) for operand in operands) and any(map(is_weight, operands))
            for operands in which.dots
        )

    ours, theirs = count(program), count(baseline)
    text = f"{ours} {dtype} x {dtype} products with an MLP weight, {theirs} in the baseline"
    return Evidence(ours > theirs, text)


def _per_device(rows: int, spec: Spec) -> int:
    """Rows that one device sees: the batch is split over the devices."""
    return rows // max(1, spec.n_devices)
