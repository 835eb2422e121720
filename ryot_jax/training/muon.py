"""Muon with its Newton-Schulz iterations batched over matrices of one shape, and in bfloat16.

optax computes the same matrix by matrix (`optax.contrib.scale_by_muon`), but the matrices of a small model are too
small to keep even two cores busy.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonState

from ryot_jax.machine.processor import cpu_flags

# Coefficients of the quintic a x + b x^3 + c x^5, whose iterates move singular values to 0.7 to 1.2 (Jordan 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_EPSILON = 1e-8


def muon(
    rate: optax.Schedule,
    *,
    is_matrix: Callable[[Any], Any],
    weight_decay: float,
    adam_b1: float,
    adam_b2: float,
    beta: float = 0.95,
    rms: float = 0.2,
) -> optax.GradientTransformation:
    """`optax.contrib.muon`, with states of the same structure, for matrices; AdamW without decay for the rest.

    Args:
      rate: learning rate of both.
      is_matrix: params -> whether each leaf [.., rows, columns] is orthogonalized.
      weight_decay: weight decay of the matrices.
      adam_b1: decay of AdamW's first moment.
      adam_b2: decay of AdamW's second moment.
      beta: decay of Muon's momentum.
      rms: root mean square of a matrix's update before it is multiplied by the rate, about that of AdamW, so that one
        rate serves both (Liu et al., arXiv:2502.16982, 2.2).
    """

    def scaled(updates: optax.Updates) -> optax.Updates:
        return jax.tree.map(lambda u: rms * max(u.shape[-2:]) ** 0.5 * u, updates)

    of_matrices = optax.chain(
        scale_by_batched_muon(beta=beta),
        optax.stateless(lambda updates, params: scaled(updates)),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(rate),
    )
    of_rest = optax.adamw(rate, b1=adam_b1, b2=adam_b2, eps=_EPSILON, weight_decay=0.0, nesterov=True)

    def labels(params: optax.Params) -> Any:
        return jax.tree.map(lambda muon: "muon" if muon else "adam", is_matrix(params))

    return optax.partition({"muon": of_matrices, "adam": of_rest}, labels)


def scale_by_batched_muon(*, beta: float = 0.95, steps: int = 5) -> optax.GradientTransformation:
    """Orthogonalized Nesterov momentum: approximately the nearest semi-orthogonal matrix to each momentum.

    Args:
      beta: decay of the momentum, with bias correction as in optax.
      steps: number of Newton-Schulz iterations.

    Leaves are matrices [.., rows, columns]; leading axes are layers of a stack.
    """

    def init(params: optax.Params) -> MuonState:
        return MuonState(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params), jnp.asarray(_COEFFICIENTS))

    def update(
        updates: optax.Updates, state: MuonState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, MuonState]:
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, beta, 1)
        ahead = jax.tree.map(
            lambda m, g: beta * m + (1 - beta) * g,
            optax.tree.bias_correction(mu, beta, optax.safe_increment(count)),
            optax.tree.bias_correction(updates, beta, count),
        )
        leaves, structure = jax.tree.flatten(ahead)
        return jax.tree.unflatten(structure, orthogonalized(leaves, steps)), state._replace(count=count, mu=mu)

    return optax.GradientTransformation(init, update)


def orthogonalized(matrices: Sequence[jax.Array], steps: int = 5) -> list[jax.Array]:
    """The matrices [.., rows, columns] with singular values moved to about 1, in the order given.

    Matrices of one shape, or its transpose, form a batch. Products have bfloat16 operands and float32 sums if the
    hardware multiplies these faster, which a CPU without AVX512-BF16 does not.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    wide = [jnp.swapaxes(matrix, -1, -2) if _is_tall(matrix) else matrix for matrix in matrices]
    for i, matrix in enumerate(wide):
        groups.setdefault((matrix.shape[-2], matrix.shape[-1]), []).append(i)
    orthogonal: list[jax.Array] = list(wide)
    for shape, members in groups.items():
        batch = jnp.concatenate([wide[i].reshape(-1, *shape) for i in members])
        done, first = _newton_schulz(batch, steps), 0
        for i in members:
            count = wide[i].size // (shape[0] * shape[1])
            orthogonal[i] = done[first : first + count].reshape(wide[i].shape).astype(wide[i].dtype)
            first += count
    return [
        jnp.swapaxes(matrix, -1, -2) if _is_tall(original) else matrix
        for matrix, original in zip(orthogonal, matrices, strict=True)
    ]


def _is_tall(matrix: jax.Array) -> bool:
    return bool(matrix.shape[-2] > matrix.shape[-1])


def _newton_schulz(x_NRC: jax.Array, steps: int) -> jax.Array:
    a, b, c = _COEFFICIENTS
    x_NRC = x_NRC / (jnp.linalg.norm(x_NRC, axis=(-2, -1), keepdims=True) + _EPSILON)
    for _ in range(steps):
        gram_NRR = _product("nij,nkj->nik", x_NRC, x_NRC)
        polynomial_NRR = b * gram_NRR + c * _product("nij,njk->nik", gram_NRR, gram_NRR)
        x_NRC = a * x_NRC + _product("nij,njk->nik", polynomial_NRR, x_NRC)
    return x_NRC


def _product(axes: str, left: jax.Array, right: jax.Array) -> jax.Array:
    if jax.default_backend() != "cpu" or "avx512_bf16" in cpu_flags():
        left, right = left.astype(jnp.bfloat16), right.astype(jnp.bfloat16)
    return jnp.einsum(axes, left, right, preferred_element_type=jnp.float32)
