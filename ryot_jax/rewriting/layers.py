"""Calls of the ops for layers: dense, MLP and norm, alone and fused; operands have any number of axes.

Operands come by name. Weights may come in pieces, `w`, `w_1`, `w_2` and so on, each with a bias or none: they are one
matrix, side by side.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax import kernels

Names = tuple[str, ...]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class NormAbout:
    """A norm: the number added to the variance, whether the mean is subtracted, and the dtype of its result."""

    epsilon: float
    centre: bool
    dtype: str


@dataclasses.dataclass(frozen=True)
class LayerAbout:
    """A dense layer on the last axes of its rows: its activation, and the number of axes that it sums over."""

    activation: str
    n_summed: int


@dataclasses.dataclass(frozen=True)
class MlpAbout:
    """Two layers: the activation between them, and the number of axes that the first one sums over."""

    kind: str
    n_summed: int


def piece(name: str, place: int) -> str:
    """The name of a piece of an operand."""
    return f"{name}_{place}" if place else name


def is_piece(found: str, name: str) -> bool:
    """Whether a name is that of a piece of an operand."""
    return found == name or (found.startswith(f"{name}_") and found.removeprefix(f"{name}_").isdigit())


def call_layer(
    activation: str,
    names: Names,
    n_summed: int,
    axes: tuple[int, ...],
    shape: Shape,
    dtype: str,
    implementation: str,
    *arrays: jax.Array,
) -> jax.Array:
    """A dense layer whose result, [*rows, *outs], has its axes in another order.

    Args:
      activation: as in `kernels.dense`.
      names: names of the arrays: x, w, bias and residual.
      n_summed: the number of axes summed over, the last ones of x and the first ones of w.
      axes: the order of the result's axes.
      shape: the result's shape.
      dtype: the result's dtype.
      implementation: as in `kernels.dense`.
      *arrays: the operands.
    """
    given = dict(zip(names, arrays, strict=True))
    x, w, residual = given["x"], given["w"], given.get("residual")
    rows = x.shape[: x.ndim - n_summed]
    if residual is not None:
        order = sorted(range(len(axes)), key=lambda i: axes[i])
        residual = jnp.transpose(residual, order).reshape(*rows, -1)
    y = kernels.dense(
        x.reshape(*rows, -1),
        _weights(given, "w", n_summed),
        _bias(given, "bias", "w", n_summed),
        activation=activation,
        residual=residual,
        implementation=implementation,
    )
    if piece("w", 1) not in given:
        y = jnp.transpose(y.reshape(*rows, *w.shape[n_summed:]), axes)
    return y.reshape(shape).astype(dtype)


def call_mlp(
    kind: str, n_summed: int, names: Names, shape: Shape, implementation: str, *arrays: jax.Array
) -> jax.Array:
    """The op `kernels.mlp`, of x, up, up_bias, down, down_bias and residual."""
    given = dict(zip(names, arrays, strict=True))
    x = given["x"]
    rows = x.shape[: x.ndim - n_summed]
    residual = given.get("residual")
    y = kernels.mlp(
        x.reshape(*rows, -1),
        _weights(given, "up", n_summed),
        _weights(given, "down", 1),
        _bias(given, "up_bias", "up", n_summed),
        _bias(given, "down_bias", "down", 1),
        kind=kind,
        residual=None if residual is None else residual.reshape(*rows, -1),
        implementation=implementation,
    )
    return y.reshape(shape)


def call_norm(about: NormAbout, passes: bool, names: Names, implementation: str, *arrays: jax.Array) -> Any:
    """A norm of x, by scale and norm_bias; and x, if it is passed on."""
    norm = _norm(about, dict(zip(names, arrays, strict=True)), about.dtype, implementation)
    return norm(arrays[0]) if passes else norm.alone(arrays[0])


def call_norm_mlp(
    about: NormAbout, kind: str, names: Names, shape: Shape, implementation: str, *arrays: jax.Array
) -> jax.Array:
    """The op `kernels.norm_mlp`, of x, scale, norm_bias, up, up_bias, down and down_bias."""
    given = dict(zip(names, arrays, strict=True))
    y = kernels.norm_mlp(
        given["x"],
        _norm(about, given, given["up"].dtype, implementation),
        _weights(given, "up", 1),
        _weights(given, "down", 1),
        _bias(given, "up_bias", "up", 1),
        _bias(given, "down_bias", "down", 1),
        kind=kind,
        implementation=implementation,
    )
    return y.reshape(shape)


def call_norm_dense(
    about: NormAbout,
    activation: str,
    passes: bool,
    names: Names,
    shape: Shape,
    implementation: str,
    *arrays: jax.Array,
) -> Any:
    """The op `kernels.norm_dense`, of x, scale, norm_bias, w and bias; and x, if it is passed on."""
    given = dict(zip(names, arrays, strict=True))
    y, x = kernels.norm_dense(
        given["x"],
        _norm(about, given, given["w"].dtype, implementation),
        _weights(given, "w", 1),
        _bias(given, "bias", "w", 1),
        activation=activation,
        implementation=implementation,
    )
    return (y.reshape(shape), x) if passes else y.reshape(shape)


def _norm(about: NormAbout, given: Mapping[str, jax.Array], dtype: Any, implementation: str) -> kernels.NormSpec:
    scale = given["scale"] if "scale" in given else jnp.ones(given["x"].shape[-1:], jnp.float32)
    return kernels.NormSpec(scale, given.get("norm_bias"), about.centre, about.epsilon, dtype, implementation)


def _pieces(given: Mapping[str, jax.Array], name: str) -> list[jax.Array]:
    return [given[piece(name, i)] for i in range(sum(is_piece(found, name) for found in given))]


def _weights(given: Mapping[str, jax.Array], name: str, n_summed: int) -> jax.Array:
    matrices = [w.reshape(math.prod(w.shape[:n_summed]), -1) for w in _pieces(given, name)]
    return matrices[0] if len(matrices) == 1 else jnp.concatenate(matrices, axis=1)


def _bias(given: Mapping[str, jax.Array], name: str, of: str, n_summed: int) -> jax.Array | None:
    weights = _pieces(given, of)
    found = [given.get(piece(name, i)) for i in range(len(weights))]
    some = next((bias for bias in found if bias is not None), None)
    if some is None:
        return None
    widths = [math.prod(w.shape[n_summed:]) for w in weights]
    flat = [
        jnp.zeros(width, some.dtype) if bias is None else bias.reshape(-1)
        for bias, width in zip(found, widths, strict=True)
    ]
    return flat[0] if len(flat) == 1 else jnp.concatenate(flat)
