"""A matrix as the product of two thin ones: singular value decompositions, truncated by the loss's sensitivity."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.compression.calibration import Moments, as_matrix_shape
from ryot_jax.compression.compressed import Bits, Compressed, decode, memory_bits, register, take_rows
from ryot_jax.compression.feedback import factor
from ryot_jax.compression.transforms import Transform, leafwise


@register
@dataclasses.dataclass(frozen=True)
class LowRank(Compressed):
    """left @ right; an array with more than two axes is seen as [product of all but the last, last].

    Attributes:
      left: [R, K], an array or compressed itself.
      right: [K, C], likewise.
      array_shape: of the array.
    """

    left: Any
    right: Any
    array_shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.array_shape

    def decode(self, dtype: Any = jnp.float32) -> jax.Array:
        """The product of both factors, in float32."""
        return _product(decode(self.left), decode(self.right)).reshape(self.array_shape).astype(dtype)

    def take(self, ids: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
        """Rows `ids`: the product of the left factor's rows alone."""
        left = take_rows(self.left, self.array_shape[0], ids)
        rows = _product(left, decode(self.right))
        return rows.reshape(jnp.shape(ids) + self.array_shape[1:]).astype(dtype)

    def bits(self) -> Bits:
        """Bits of both factors."""
        return memory_bits((self.left, self.right))


def lowrank(
    rank: int | None = None, *, keep: float | None = None, damping: float = 0.05, min_ndim: int = 2
) -> Transform:
    """The product of two matrices of given rank that is nearest, to the loss where there are stats.

    With the moments of `calibrate`, R = L L^T and C = M M^T, the predicted rise of the loss for an error E is
    |L^T E M|^2 / (2 tr R). By Eckart and Young the best W' is L^-T SVD_k(L^T W M) M^-1, SVD_k with the k largest
    singular values alone: the whitening of SVD-LLM (arXiv:2403.07378), on both sides. Without stats it is SVD_k(W).
    Each factor gets the square root of a singular value. A matrix for which this saves nothing is left as it is.

    Args:
      rank: of the product; at least 1.
      keep: in place of `rank`, the share of a matrix's numbers that the factors may have: above 0, below 1.
      damping: see `feedback.factor`; above 0.
      min_ndim: arrays with fewer axes are left as they are.

    Raises:
      ValueError: not just one of rank and keep, or one of the numbers out of range.
    """
    if (rank is None) == (keep is None):
        raise ValueError(f"rank = {rank}, keep = {keep}: give one of them")
    if rank is not None and rank < 1:
        raise ValueError(f"rank = {rank}: must be at least 1")
    if keep is not None and not 0 < keep < 1:
        raise ValueError(f"keep = {keep}: must lie between 0 and 1")
    if not damping > 0:
        raise ValueError(f"damping = {damping}: must be above 0, as moments need not have an inverse")

    def rank_of(shape: tuple[int, int]) -> int:
        if rank is not None:
            return rank
        assert keep is not None
        return max(1, int(keep * shape[0] * shape[1] / sum(shape)))

    def fit(w: jax.Array, moments: Moments | None) -> tuple[np.ndarray, ...] | None:
        shape = as_matrix_shape(jnp.shape(w))
        if jnp.ndim(w) < min_ndim or rank_of(shape) * sum(shape) >= shape[0] * shape[1]:
            return None
        if moments is None:
            return ()
        factors = factor(moments, damping)
        return _root(factors.rows_U, factors.rows_D), _root(factors.columns_U, factors.columns_D)

    def compress(w: jax.Array, roots: tuple[jax.Array, ...]) -> LowRank:
        shape = as_matrix_shape(jnp.shape(w))
        w_RC = jnp.reshape(w, shape).astype(jnp.float32)
        rows, columns = roots or (jnp.ones(shape[0]), jnp.ones(shape[1]))
        whitened_RC = _whiten(columns, _whiten(rows, w_RC).T).T
        u_RS, s_S, v_SC = jnp.linalg.svd(whitened_RC, full_matrices=False)
        k = rank_of(shape)
        root_1K = jnp.sqrt(s_S[None, :k])
        left_RK = _unwhiten(rows, u_RS[:, :k] * root_1K)
        right_KC = _unwhiten(columns, v_SC[:k].T * root_1K).T
        dtype = jnp.result_type(w)
        return LowRank(left_RK.astype(dtype), right_KC.astype(dtype), jnp.shape(w))

    return leafwise(fit, compress)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left.astype(jnp.float32), right.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def _root(U: np.ndarray | None, D: np.ndarray) -> np.ndarray:
    """An upper triangular L of factored moments L L^T, or its diagonal; scaled, as the outcome does not mind, to 1."""
    scale = np.sqrt(D / D.mean())
    return scale if U is None else (U + np.eye(len(U))) * scale


def _whiten(root: Any, x: jax.Array) -> jax.Array:
    """L^T x."""
    root = jnp.asarray(root, jnp.float32)
    return root[:, None] * x if root.ndim == 1 else jnp.matmul(root.T, x, precision=jax.lax.Precision.HIGHEST)


def _unwhiten(root: Any, x: jax.Array) -> jax.Array:
    """L^-T x."""
    root = jnp.asarray(root, jnp.float32)
    return x / root[:, None] if root.ndim == 1 else jax.scipy.linalg.solve_triangular(root, x, trans="T")
