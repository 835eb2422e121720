"""The sensitivity of the loss to an error in each parameter: second moments of per-example gradients.

For a matrix W and the gradients G_n of the negative log-likelihoods of n examples, an error E of W raises their mean by
about 1/2 E_n[<G_n, E>^2] (the Fisher information in place of the Hessian). Its Kronecker approximation
(arXiv:1503.05671, and with both sides arXiv:2505.22988) needs E[G G^T] and E[G^T G] alone:

    rise(E) = 1/2 tr(R E C E^T) / tr(R),    R = E[G G^T],  C = E[G^T G].

Gradients see what a layer's inputs are and how much its outputs matter, and need no hooks in a model: any function of a
pytree of parameters will do.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.compression.compressed import PyTree, path_name

# (params, batch) -> mean loss of the batch, a scalar; the batch is a mapping of arrays with the examples on axis 0.
LossFn = Callable[[PyTree, Any], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)  # equal if it is the same: a key of compiled programs
class Moments:
    """Second moments of a parameter's gradient over examples, seen as a matrix [rows, columns].

    Attributes:
      rows: R = E[G G^T], float64[rows, rows], or its diagonal, float64[rows].
      columns: C = E[G^T G], float64[columns, columns], or its diagonal.
    """

    rows: np.ndarray
    columns: np.ndarray

    @property
    def trace(self) -> float:
        """E[|G|^2], the trace that both factors have."""
        return float(_diagonal(self.columns).sum())

    def sensitivity(self) -> np.ndarray:
        """Second derivative of the loss by each element alone, float64[rows, columns]."""
        return np.outer(_diagonal(self.rows), _diagonal(self.columns)) / max(self.trace, np.finfo(float).tiny)

    def rise(self, error: np.ndarray) -> float:
        """Predicted rise of the mean loss for an error of the matrix, in the loss's unit."""
        error = np.asarray(error, np.float64).reshape(len(self.rows), len(self.columns))
        left = self.rows @ error if self.rows.ndim == 2 else self.rows[:, None] * error
        right = error @ self.columns if self.columns.ndim == 2 else error * self.columns
        return float(0.5 * np.sum(left * right) / max(self.trace, np.finfo(float).tiny))


Stats = Mapping[str, Moments]


def calibrate(
    loss_fn: LossFn,
    params: PyTree,
    batches: Iterable[Any],
    *,
    targets: int = 1,
    max_factor: int = 1024,
    microbatch: int = 16,
) -> dict[str, Moments]:
    """Second moments of the gradients of single examples' losses.

    Args:
      loss_fn: `(params, batch) -> mean loss`; it is called with batches of one example under `jax.vmap`.
      params: pytree of float arrays; one with more than two axes is seen as [product of all but the last, last].
      batches: of the kind that the parameters were trained on; a few hundred examples or more in all.
      targets: how many log-likelihoods an example's loss is the mean of, such as the tokens of a sequence. Their
        gradients are uncorrelated at a good model, so that the mean's moments are this much too small.
      max_factor: sides longer than this keep the diagonal of their moments only.
      microbatch: examples whose gradients are in memory together.

    Returns:
      Moments by the dotted path of each parameter.

    Raises:
      ValueError: no batches.
    """

    def gradient(params: PyTree, example: Any) -> PyTree:
        return jax.grad(loss_fn)(params, jax.tree.map(lambda x: x[None], example))

    @jax.jit
    def add(sums: Any, params: PyTree, batch: Any) -> Any:
        grads_n = jax.vmap(gradient, (None, 0))(params, batch)
        return jax.tree.map(_add_moments, grads_n, sums)

    sums = jax.tree.map(lambda p: _zero_moments(jnp.shape(p), max_factor), params)
    examples = 0
    for batch in batches:
        n = len(jax.tree.leaves(batch)[0])
        for start in range(0, n, microbatch):
            part = jax.tree.map(lambda x, start=start: jnp.asarray(x[start : start + microbatch]), batch)
            sums = add(sums, params, part)
        examples += n
    if not examples:
        raise ValueError("no batches to calibrate with: give at least one")
    paths, _ = jax.tree_util.tree_flatten_with_path(sums, is_leaf=lambda x: isinstance(x, tuple))
    return {
        path_name(path): Moments(*(np.asarray(s, np.float64) * (targets / examples) for s in pair))
        for path, pair in paths
    }


def as_matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """[rows, columns] of a parameter of this shape; a vector is one row."""
    if len(shape) < 2:
        return 1, int(np.prod(shape))
    return int(np.prod(shape[:-1])), shape[-1]


def _zero_moments(shape: tuple[int, ...], max_factor: int) -> tuple[jax.Array, ...]:
    sides = as_matrix_shape(shape)
    # A vector's columns are its elements, of which only the diagonal is kept: they are few.
    full = [len(shape) > 1 and n <= max_factor for n in sides]
    return tuple(jnp.zeros((n, n) if whole else n) for n, whole in zip(sides, full, strict=True))


def _add_moments(grads: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    g_nRC = grads.reshape(len(grads), len(sums[0]), len(sums[1]))
    rows = jnp.einsum("nrc,nsc->rs", g_nRC, g_nRC) if sums[0].ndim == 2 else jnp.sum(g_nRC**2, (0, 2))
    columns = jnp.einsum("nrc,nrd->cd", g_nRC, g_nRC) if sums[1].ndim == 2 else jnp.sum(g_nRC**2, (0, 1))
    return sums[0] + rows, sums[1] + columns


def _diagonal(moments: np.ndarray) -> np.ndarray:
    return np.diag(moments) if moments.ndim == 2 else moments
