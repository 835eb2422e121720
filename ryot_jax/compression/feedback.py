"""Rounding with feedback: each element compensates for the errors of those before it.

With the moments R and C of `calibration` factored as (I + U) D (I + U)^T, U strictly upper triangular, the rise of the
loss for an error E = W' - W is 1/2 sum_ij D^R_i D^C_j eta_ij^2 / tr(R), eta = (I + U^R)^T E (I + U^C). Going through
rows and columns in order, eta_ij is E_ij plus what is already fixed, so that every element can be rounded to make its
eta small. With U^C = 0 this is GPTQ (arXiv:2210.17323; as LDLQ in arXiv:2307.13304); with both, arXiv:2505.22988.

The sum is smallest at a given rate if every element's step is proportional to (D^R_i D^C_j)^-1/2: a step costs as much
as it saves where all terms are equal (reverse water-filling). Hence `step_scales`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.compression.calibration import Moments


@dataclasses.dataclass(frozen=True)
class Factors:
    """Moments in triangular form; float64 on the host.

    Attributes:
      rows_U, columns_U: strictly upper triangular; None: no feedback along that side.
      rows_D, columns_D: the diagonals.
      trace: of the moments.
    """

    rows_U: np.ndarray | None
    rows_D: np.ndarray
    columns_U: np.ndarray | None
    columns_D: np.ndarray
    trace: float

    def step_scales(self) -> tuple[np.ndarray, np.ndarray]:
        """Factors of the step along rows and columns: with step_ij = t r_i c_j each element's error costs t^2 / 24.

        The mean square of a rounding error is step^2 / 12, and the rise half of what it is weighed with.
        """
        return (self.trace / self.rows_D) ** 0.5, self.columns_D**-0.5


@functools.lru_cache(maxsize=512)  # a search factors the same moments for every setting
def factor(moments: Moments, damping: float, *, sides: str = "both") -> Factors:
    """Factors moments for feedback along both sides, the 'rows' or 'columns' only, or 'none'.

    `damping` times the mean of the diagonal is added to it: moments from few examples claim directions to be free of
    cost that are not.
    """
    rows_U, rows_D = _triangular(moments.rows, damping, sides in ("both", "rows"))
    columns_U, columns_D = _triangular(moments.columns, damping, sides in ("both", "columns"))
    # An array without any gradient takes the coarsest of steps: a trace of zero would ask for the finest.
    trace = max(moments.trace * (1 + damping), float(np.finfo(np.float32).tiny))
    return Factors(rows_U, rows_D, columns_U, columns_D, trace)


def _triangular(moments: np.ndarray, damping: float, feedback: bool) -> tuple[np.ndarray | None, np.ndarray]:
    diagonal = np.diag(moments) if moments.ndim == 2 else moments
    # A side without any gradient (an input that is never used) still needs steps that are finite.
    floor = max(damping * diagonal.mean(), np.finfo(np.float32).tiny)
    if moments.ndim == 1 or not feedback:
        return None, diagonal + floor
    # The Cholesky factor of the matrix read backwards is the upper one of the matrix.
    lower = np.linalg.cholesky((moments + floor * np.eye(len(moments)))[::-1, ::-1])
    scale = np.diag(lower)
    return (lower / scale)[::-1, ::-1] - np.eye(len(moments)), (scale**2)[::-1].copy()


def round_with_feedback(
    w: np.ndarray | jax.Array, step: np.ndarray | jax.Array, factors: Factors, n_bits: int, offset: float
) -> np.ndarray:
    """Codes of a matrix, uint16[R, C] from 0 to 2^n_bits - 1, so that (code - offset) * step approximates it.

    Args:
      w: [R, C].
      step: positive, broadcasts to [R, C].
      factors: of its moments.
      n_bits: 1 to 16.
      offset: the code of zero.
    """
    w, step = jnp.asarray(w, jnp.float32), jnp.broadcast_to(jnp.asarray(step, jnp.float32), np.shape(w))
    rows_U = None if factors.rows_U is None else jnp.asarray(factors.rows_U, jnp.float32)
    columns_U = None if factors.columns_U is None else jnp.asarray(factors.columns_U, jnp.float32)
    grid = jnp.float32(2**n_bits - 1), jnp.float32(offset)
    if columns_U is None and rows_U is not None:
        codes = _along_columns(w.T, step.T, rows_U, *grid).T
    elif columns_U is None:
        codes = _code(w / step, *grid)
    elif rows_U is None:
        codes = _along_columns(w, step, columns_U, *grid)
    else:
        codes = _along_both(w, step, rows_U, columns_U, *grid)
    return np.asarray(codes, np.uint16)


def _code(scaled: jax.Array, top: jax.Array, offset: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(scaled + offset), 0, top)


@jax.jit
def _along_columns(
    w_RC: jax.Array, step_RC: jax.Array, U_CC: jax.Array, top: jax.Array, offset: jax.Array
) -> jax.Array:
    def column(made_up_RC: jax.Array, j: jax.Array) -> tuple[jax.Array, jax.Array]:
        code_R = _code((w_RC[:, j] - made_up_RC[:, j]) / step_RC[:, j], top, offset)
        error_R = (code_R - offset) * step_RC[:, j] - w_RC[:, j]
        return made_up_RC + error_R[:, None] * U_CC[j][None], code_R

    _, codes_CR = jax.lax.scan(column, jnp.zeros_like(w_RC), jnp.arange(w_RC.shape[1]))
    return codes_CR.T


@jax.jit
def _along_both(
    w_RC: jax.Array, step_RC: jax.Array, U_RR: jax.Array, U_CC: jax.Array, top: jax.Array, offset: jax.Array
) -> jax.Array:
    def row(error_RC: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        w_C, step_C, from_rows_C = w_RC[i], step_RC[i], U_RR[:, i] @ error_RC

        def column(made_up_C: jax.Array, j: jax.Array) -> tuple[jax.Array, jax.Array]:
            code = _code((w_C[j] - from_rows_C[j] - made_up_C[j]) / step_C[j], top, offset)
            error = (code - offset) * step_C[j] - w_C[j] + from_rows_C[j]
            return made_up_C + error * U_CC[j], code

        _, code_C = jax.lax.scan(column, jnp.zeros_like(w_C), jnp.arange(len(w_C)))
        return error_RC.at[i].set((code_C - offset) * step_C - w_C), code_C

    return jax.lax.scan(row, jnp.zeros_like(w_RC), jnp.arange(len(w_RC)))[1]
