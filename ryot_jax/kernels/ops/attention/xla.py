"""Attention in blocks of queries, each against the keys that it can see, as XLA products."""

import jax
import jax.numpy as jnp

from ryot_jax.kernels.declaration import Evidence, Implementation, Spec
from ryot_jax.kernels.ops.attention._visible import Functions, Visible
from ryot_jax.kernels.ops.attention.reference import masked, reference
from ryot_jax.kernels.probes import FLOATS, rows_of_a_device, vanished
from ryot_jax.runtime.hlo import Array, Program

# Four blocks of queries compute 5/8 of the causal score matrix, and more blocks make for slower products; narrow
# windows justify more blocks, but each is unrolled into the program.
_QUERY_BLOCKS, _MAX_QUERY_BLOCKS = 4, 16


def _xla(
    visible: Visible, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask_BS: jax.Array | None
) -> jax.Array:
    if not visible.causal:
        return reference(visible, q_BTHK, k_BSGK, v_BSGK, mask_BS)
    length = q_BTHK.shape[1]
    window = length if visible.window is None else visible.window
    block = max(1, -(-length // _MAX_QUERY_BLOCKS), min(-(-length // _QUERY_BLOCKS), window))
    outputs = []
    for start in range(0, length, block):
        queries = range(start, min(start + block, length))
        keys = range(max(0, start + 1 - window), queries.stop)
        outputs.append(
            masked(
                q_BTHK[:, queries.start : queries.stop],
                k_BSGK[:, keys.start : keys.stop],
                v_BSGK[:, keys.start : keys.stop],
                visible.matrix(queries, keys),
                None if mask_BS is None else mask_BS[:, keys.start : keys.stop],
            )
        )
    return jnp.concatenate(outputs, axis=1)


def _no_scores(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """Evidence that no whole [B, H, T, T] array of scores is made, as the baseline does."""
    rows = rows_of_a_device(spec)
    scores = rows * spec.n_heads * spec.seq_len
    shape = f"[{rows // spec.seq_len},{spec.n_heads},{spec.seq_len},{spec.seq_len}] (attention scores)"

    def is_scores(array: Array) -> bool:
        square = array.dims.count(spec.seq_len) >= 2 and array.dims[-2:] == (spec.seq_len, spec.seq_len)
        return array.dtype in FLOATS and square and array.size == scores

    return vanished(program, baseline, is_scores, shape, shared=False)


IMPLEMENTATION = Implementation(
    function=Functions(_xla), equivalence="allclose", probe=_no_scores, is_compiled_by_xla=True
)
