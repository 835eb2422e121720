"""Linear + cross-entropy by a scan over chunks of rows, whose logits are the largest array at a time."""

import jax
import jax.numpy as jnp
from jax import lax

from ryot_jax.kernels.declaration import Evidence, Implementation, Spec
from ryot_jax.kernels.operands import accumulator, zeros_like
from ryot_jax.kernels.ops.linear_cross_entropy._gradients import with_gradients
from ryot_jax.kernels.ops.linear_cross_entropy._logits import logits, losses
from ryot_jax.kernels.ops.linear_cross_entropy._terms import Terms, chunk_rows, chunks
from ryot_jax.kernels.probes import FLOATS, rows_of_a_device, vanished
from ryot_jax.runtime.hlo import Array, Program

# Large enough for full-speed products; an eighth of a small batch.
_LEAST_CHUNK_ROWS = 512
_CHUNK_LOGITS_BYTES = 2**30  # the limit if it allows more rows


def rows_at_a_time(n_rows: int, d_model: int, vocab_size: int) -> int:
    """The number of rows of a chunk.

    Each chunk's gradient of w is added to a sum in memory, so a chunk's logits should be much larger than w: four rows
    per column of x, as far as memory allows.
    """
    most = min(4 * d_model, _CHUNK_LOGITS_BYTES // (4 * vocab_size))
    return chunk_rows(n_rows, max(most, _LEAST_CHUNK_ROWS))


def _chunk_losses(
    terms: Terms, x_CD: jax.Array, w_VD: jax.Array, targets_C: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Losses, logits, and the logarithm of each row's sum of exponentials."""
    logits_CV = logits(terms, x_CD, w_VD)
    top_C1 = jnp.max(logits_CV, axis=-1, keepdims=True)
    log_sum_exp_C1 = top_C1 + jnp.log(jnp.sum(jnp.exp(logits_CV - top_C1), axis=-1, keepdims=True))
    return losses(terms, logits_CV, log_sum_exp_C1[:, 0], targets_C), logits_CV, log_sum_exp_C1


def _xla_losses(terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
    rows = rows_at_a_time(x_ND.shape[0], x_ND.shape[1], w_VD.shape[0])
    losses_nC = lax.map(
        lambda chunk: _chunk_losses(terms, chunk[0], w_VD, chunk[1])[0],
        (chunks(x_ND, rows, 0), chunks(targets_N, rows, -1)),
    )
    return losses_nC.reshape(-1)[: x_ND.shape[0]]


def _xla_gradients(
    terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array, weights_N: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    accumulate = accumulator(x_ND.dtype)
    classes_1V = jnp.arange(w_VD.shape[0], dtype=targets_N.dtype)[None, :]
    weights_N = jnp.ones(targets_N.shape, accumulate) if weights_N is None else weights_N.astype(accumulate)
    weights_N = jnp.where(targets_N >= 0, weights_N, 0)

    def body(
        dw_VD: jax.Array, chunk: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        x_CD, targets_C, weights_C = chunk
        losses_C, logits_CV, log_sum_exp_C1 = _chunk_losses(terms, x_CD, w_VD, targets_C)
        dlogits_CV = jnp.exp(logits_CV - log_sum_exp_C1)
        if terms.z_loss:
            dlogits_CV = dlogits_CV * (1 + 2 * terms.z_loss * log_sum_exp_C1)
        dlogits_CV = dlogits_CV - (1 - terms.label_smoothing) * (classes_1V == targets_C[:, None])
        if terms.label_smoothing:
            dlogits_CV = dlogits_CV - terms.label_smoothing / w_VD.shape[0]
        if terms.soft_cap is not None:
            dlogits_CV = dlogits_CV * (1 - jnp.square(logits_CV / terms.soft_cap))
        dlogits_CV = jnp.where((targets_C >= 0)[:, None], dlogits_CV * weights_C[:, None], 0).astype(x_CD.dtype)
        dx_CD = jnp.matmul(dlogits_CV, w_VD.astype(x_CD.dtype), preferred_element_type=accumulate)
        dw_VD = dw_VD + jnp.matmul(dlogits_CV.T, x_CD, preferred_element_type=accumulate)
        return dw_VD, (losses_C, dx_CD.astype(x_CD.dtype))

    rows = rows_at_a_time(x_ND.shape[0], x_ND.shape[1], w_VD.shape[0])
    of_chunks = chunks(x_ND, rows, 0), chunks(targets_N, rows, -1), chunks(weights_N, rows, 0)
    dw_VD, (losses_nC, dx_nCD) = lax.scan(body, zeros_like(w_VD, accumulate), of_chunks)
    rows = x_ND.shape[0]
    return losses_nC.reshape(-1)[:rows], dx_nCD.reshape(-1, x_ND.shape[1])[:rows], dw_VD


def _refusal(spec: Spec) -> str | None:
    if spec.n_devices > 1:
        # Its chunks follow one another along the sharded axis: each device would wait for the others.
        return f"a scan over rows cannot be partitioned over {spec.n_devices} devices (shard_map can)"
    if spec.rows <= (chunk := rows_at_a_time(spec.rows, spec.d_model, spec.vocab_size)):
        return f"its first chunk of {chunk} rows is the whole of {spec.rows}: it would do what the reference does"
    return None


def _no_logits(program: Program, baseline: Program, spec: Spec) -> Evidence:
    """Evidence that no whole [N, V] arrays (rows x vocabulary) are made, as the baseline does.

    If the vocabulary has the width of another array of the model, fewer such arrays suffice.
    """
    rows = rows_of_a_device(spec)
    shape = f"[{rows},{spec.vocab_size}] (rows x vocabulary)"

    def is_logits(array: Array) -> bool:
        return array.dtype in FLOATS and spec.vocab_size in array.dims and array.size == rows * spec.vocab_size

    other_widths = {k * spec.d_ff for k in (1, 2)} | {k * spec.d_model for k in (1, 2, 3)}
    return vanished(program, baseline, is_logits, shape, shared=spec.vocab_size in other_widths)


IMPLEMENTATION = Implementation(
    function=with_gradients(_xla_losses, _xla_gradients),
    equivalence="allclose",
    probe=_no_logits,
    refusal=_refusal,
    is_compiled_by_xla=True,
)
