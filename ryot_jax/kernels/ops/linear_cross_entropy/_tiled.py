"""Linear + cross-entropy from exponentials that a GPU kernel writes in tiles of the vocabulary.

A kernel (`_mosaic_kernel`, `_triton_kernel`) writes exp(l - top), with one top and one sum per row and tile, in the
activations' dtype. Tops and sums give each row's log-sum-exp, and the gradient of the logits is then one pass over the
exponentials, scaled tile by tile. The logits are never written, and rounding to bfloat16 makes a relative error in the
probabilities, where rounding a logit of 20 nats would change its probability by 6 %.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ryot_jax.kernels.operands import zeros_like
from ryot_jax.kernels.ops.linear_cross_entropy._gradients import Reductions, with_gradients
from ryot_jax.kernels.ops.linear_cross_entropy._terms import Terms, chunk_rows, chunks

TILE_V = 128  # columns of the vocabulary in a tile, which share a top and a sum
CHUNK_BYTES = 3 * 2**28  # bytes of exponentials at a time


class Tiles(NamedTuple):
    """Exponentials of the logits l, in n tiles of `TILE_V` columns of the vocabulary.

    Attributes:
      exponentials_CV: exp(l - top) times the derivative of l by its uncapped value, in the dtype of the operands; None:
        not requested.
      top_nC: the largest logit of each tile and row, float32.
      sum_nC: the sum of exp(l - top) over the tile, float32.
    """

    exponentials_CV: jax.Array | None
    top_nC: jax.Array
    sum_nC: jax.Array


Exponentials = Callable[..., Tiles]
"""Signature of a kernel: (x_CD, w_VD, *, soft_cap, write) -> Tiles; w in x's dtype."""


def reductions(exponentials: Exponentials) -> Reductions:
    """Both reductions of an implementation whose kernel writes exponentials in tiles."""
    return with_gradients(functools.partial(losses, exponentials), functools.partial(gradients, exponentials))


def losses(
    exponentials: Exponentials, terms: Terms, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array
) -> jax.Array:
    """The losses of all rows, float32; terms and errors are those of `linear_cross_entropy`."""
    _check(terms)
    w_VD = w_VD.astype(x_ND.dtype)

    def chunk_losses(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
        x_CD, targets_C = chunk
        tiles = exponentials(x_CD, w_VD, soft_cap=terms.soft_cap, write=False)
        return _losses(terms, x_CD, w_VD, targets_C, _log_sum_exp(tiles))[0]

    rows = rows_at_a_time(x_ND.shape[0], w_VD.shape[0], x_ND.dtype.itemsize)
    losses_nC = lax.map(chunk_losses, (chunks(x_ND, rows, 0), chunks(targets_N, rows, -1)))
    return losses_nC.reshape(-1)[: x_ND.shape[0]]


def gradients(
    exponentials: Exponentials,
    terms: Terms,
    x_ND: jax.Array,
    w_VD: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The losses_N, dx_ND and dw_VD (float32) for the rows' cotangents `weights_N` (None: ones)."""
    _check(terms)
    w_VD = w_VD.astype(x_ND.dtype)
    weights_N = jnp.ones(targets_N.shape, jnp.float32) if weights_N is None else weights_N.astype(jnp.float32)
    weights_N = jnp.where(targets_N >= 0, weights_N, 0)
    if 0 in x_ND.shape:
        return jnp.zeros(targets_N.shape, jnp.float32), jnp.zeros_like(x_ND), jnp.zeros(w_VD.shape, jnp.float32)
    one_chunk = functools.partial(_chunk_gradients, exponentials, terms, w_VD)
    rows = rows_at_a_time(x_ND.shape[0], w_VD.shape[0], x_ND.dtype.itemsize)
    if rows >= x_ND.shape[0]:
        return one_chunk(x_ND, targets_N, weights_N)

    def body(
        dw_VD: jax.Array, chunk: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        losses_C, dx_CD, dw_of_chunk_VD = one_chunk(*chunk)
        return dw_VD + dw_of_chunk_VD, (losses_C, dx_CD)

    start = zeros_like(w_VD, jnp.float32)
    of_chunks = chunks(x_ND, rows, 0), chunks(targets_N, rows, -1), chunks(weights_N, rows, 0)
    dw_VD, (losses_nC, dx_nCD) = lax.scan(body, start, of_chunks)
    N, D = x_ND.shape
    return losses_nC.reshape(-1)[:N], dx_nCD.reshape(-1, D)[:N], dw_VD


def rows_at_a_time(n_rows: int, vocab_size: int, itemsize: int) -> int:
    """The number of rows of a chunk, as many as `CHUNK_BYTES` hold."""
    return chunk_rows(n_rows, CHUNK_BYTES // (vocab_size * itemsize))


def _check(terms: Terms) -> None:
    if terms.soft_cap is not None and terms.label_smoothing:
        raise NotImplementedError(
            "kernels in tiles take a soft cap or label smoothing, not both; use implementation='xla'"
        )


def _chunk_gradients(
    exponentials: Exponentials,
    terms: Terms,
    w_VD: jax.Array,
    x_CD: jax.Array,
    targets_C: jax.Array,
    weights_C: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    tiles = exponentials(x_CD, w_VD, soft_cap=terms.soft_cap, write=True)
    assert tiles.exponentials_CV is not None, "they were asked for"
    log_sum_exp_C = _log_sum_exp(tiles)
    losses_C, target_slope_C = _losses(terms, x_CD, w_VD, targets_C, log_sum_exp_C)
    scale_nC = jnp.exp(tiles.top_nC - log_sum_exp_C[None, :])
    scale_nC = scale_nC * ((1 + 2 * terms.z_loss * log_sum_exp_C) * weights_C)[None, :]
    scale_CV = jnp.repeat(scale_nC.T, TILE_V, axis=1)[:, : w_VD.shape[0]]
    is_target_CV = jnp.arange(w_VD.shape[0], dtype=targets_C.dtype)[None, :] == targets_C[:, None]
    target_share_C = (1 - terms.label_smoothing) * target_slope_C * weights_C
    dlogits_CV = tiles.exponentials_CV * scale_CV - jnp.where(is_target_CV, target_share_C[:, None], 0)
    if terms.label_smoothing:
        dlogits_CV = dlogits_CV - (terms.label_smoothing / w_VD.shape[0]) * weights_C[:, None]
    dlogits_CV = dlogits_CV.astype(x_CD.dtype)
    dx_CD = jnp.matmul(dlogits_CV, w_VD, preferred_element_type=jnp.float32)
    dw_VD = jnp.matmul(dlogits_CV.T, x_CD, preferred_element_type=jnp.float32)
    return losses_C, dx_CD.astype(x_CD.dtype), dw_VD


def _log_sum_exp(tiles: Tiles) -> jax.Array:
    top_1C = jnp.max(tiles.top_nC, axis=0, keepdims=True)
    return top_1C[0] + jnp.log(jnp.sum(tiles.sum_nC * jnp.exp(tiles.top_nC - top_1C), axis=0))


def _losses(
    terms: Terms, x_CD: jax.Array, w_VD: jax.Array, targets_C: jax.Array, log_sum_exp_C: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Losses, and the derivative of each target's logit by its uncapped value."""
    x_CD = x_CD.astype(jnp.float32)
    # With mode 'fill' a target beyond the vocabulary makes the loss NaN, not that of another token.
    w_target_CD = w_VD.at[jnp.maximum(targets_C, 0)].get(mode="fill", fill_value=jnp.nan).astype(jnp.float32)
    target_C, slope_C = jnp.sum(x_CD * w_target_CD, axis=1), jnp.ones(targets_C.shape, jnp.float32)
    if terms.soft_cap is not None:
        share_C = jnp.tanh(target_C / terms.soft_cap)
        target_C, slope_C = terms.soft_cap * share_C, 1 - jnp.square(share_C)
    losses_C = log_sum_exp_C - (1 - terms.label_smoothing) * target_C
    if terms.label_smoothing:  # the mean of the logits is the logit of the mean embedding
        mean_D = jnp.mean(w_VD.astype(jnp.float32), axis=0)
        losses_C = losses_C - terms.label_smoothing * jnp.sum(x_CD * mean_D[None, :], axis=1)
    if terms.z_loss:
        losses_C = losses_C + terms.z_loss * jnp.square(log_sum_exp_C)
    return jnp.where(targets_C >= 0, losses_C, 0), slope_C
