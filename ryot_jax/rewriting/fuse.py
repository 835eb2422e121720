"""Neighbouring sites as one, by the fused ops of `kernels`: a norm and the layer after it, the two layers of an MLP."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax import kernels
from ryot_jax.rewriting.graph import Node, Value
from ryot_jax.rewriting.sites import Operand, Site


@dataclasses.dataclass(frozen=True)
class NormAbout:
    """A norm: the number added to the variance, and whether the mean is subtracted."""

    epsilon: float
    centre: bool


@dataclasses.dataclass(frozen=True)
class LayerAbout:
    """A dense layer on the last axes of its rows: its activation, and the number of axes that it sums over."""

    activation: str
    n_summed: int


def fused(
    sites: dict[Value, Site],
    order: Sequence[Node],
    outputs: Sequence[Value],
    choice: Callable[[Site], str],
) -> tuple[dict[Value, Site], list[Node]]:
    """Sites with neighbours made one, and the nodes that are still evaluated.

    Args:
      sites: the sites of a graph by their roots.
      order: the nodes to evaluate.
      outputs: the results of the graph.
      choice: the implementation of a site.
    """
    sites = dict(sites)
    readers: dict[Value, int] = {}
    for node in order:
        here = [sites[value] for value in node.outputs if value in sites]
        read = [operand.value for site in here for operand in site.operands] if here else list(node.inputs)
        for value in [*read, *(outputs if node is order[-1] else ())]:
            readers[value] = readers.get(value, 0) + 1
    gone: set[Value] = set()
    for root in [value for node in reversed(order) for value in node.outputs if value in sites]:
        while root in sites and (found := _with_neighbour(sites[root], sites, readers, choice)) is not None:
            sites[root], taken = found
            gone.add(taken.root)
            del sites[taken.root]
    return sites, [node for node in order if not any(value in gone for value in node.outputs)]


def _with_neighbour(
    site: Site, sites: dict[Value, Site], readers: dict[Value, int], choice: Callable[[Site], str]
) -> tuple[Site, Site] | None:
    """The site together with the one that computes its first operand, if nothing else reads what lies between."""
    x = site.part("x") if isinstance(site.about, (LayerAbout, _MlpAbout)) else None
    before = sites.get(x.value) if x is not None else None
    if x is None or before is None or before.about is None or readers[x.value] != 1 or x.shape != before.root.shape:
        return None
    if x.labels != tuple(range(len(x.shape))) or choice(before) != choice(site) or before.root.dtype != site.root.dtype:
        return None
    if isinstance(before.about, LayerAbout) and isinstance(site.about, LayerAbout):
        is_mlp = site.about.activation == "none" and before.about.activation in ("gelu", "relu2") and _sums_last(site)
        return (_mlp(before, site), before) if is_mlp else None
    if isinstance(before.about, NormAbout) and _sums_last(site):
        of_mlp, residual, x = isinstance(site.about, _MlpAbout), site.part("residual"), before.part("x")
        if residual is None:
            return None if of_mlp else (_norm_dense(before, site), before)
        if of_mlp and x is not None and (residual.value, residual.labels) == (x.value, x.labels):
            return _norm_mlp(before, site), before
    return None


@dataclasses.dataclass(frozen=True)
class _MlpAbout:
    kind: str
    n_summed: int


def _sums_last(site: Site) -> bool:
    return site.about.n_summed == 1


def _named(site: Site, names: Sequence[str], given: dict[str, str]) -> list[tuple[str, Operand]]:
    found = ((given[name], site.part(name)) for name in names)
    return [(name, operand) for name, operand in found if operand is not None]


def _made(site: Site, parts: Sequence[tuple[str, Operand]], call: Callable[..., Any], words: str, about: Any) -> Site:
    names = tuple(name for name, _ in parts)
    return dataclasses.replace(
        site,
        operands=tuple(operand for _, operand in parts),
        names=names,
        call=functools.partial(call, names, site.root.shape),
        words=words,
        about=about,
    )


def _mlp(up: Site, down: Site) -> Site:
    parts = _named(up, ("x", "w", "bias"), {"x": "x", "w": "up", "bias": "up_bias"})
    parts += _named(down, ("w", "bias", "residual"), {"w": "down", "bias": "down_bias", "residual": "residual"})
    kind = up.about.activation
    words = " + ".join([f"mlp, {kind}", *(["residual"] if down.part("residual") is not None else [])])
    return _made(down, parts, functools.partial(_call_mlp, kind), words, _MlpAbout(kind, up.about.n_summed))


def _norm_mlp(norm: Site, mlp: Site) -> Site:
    parts = _named(norm, ("x", "scale", "bias"), {"x": "x", "scale": "scale", "bias": "norm_bias"})
    names = ("up", "up_bias", "down", "down_bias")
    parts += _named(mlp, names, {name: name for name in names})
    call = functools.partial(_call_norm_mlp, norm.about, mlp.about.kind)
    return _after_norm(_made(mlp, parts, call, f"{norm.words} + {mlp.words}", None))


def _norm_dense(norm: Site, layer: Site) -> Site:
    parts = _named(norm, ("x", "scale", "bias"), {"x": "x", "scale": "scale", "bias": "norm_bias"})
    parts += _named(layer, ("w", "bias"), {"w": "w", "bias": "bias"})
    call = functools.partial(_call_norm_dense, norm.about, layer.about.activation)
    return _after_norm(_made(layer, parts, call, f"{norm.words} + {layer.words}", None))


def _after_norm(site: Site) -> Site:
    """The site with the operands of its norm as they are; the norm's result has the precision of the products."""
    return dataclasses.replace(site, exact=("x", "scale", "norm_bias"))


def _matrix(w: jax.Array, n_summed: int) -> jax.Array:
    return w.reshape(math.prod(w.shape[:n_summed]), -1)


def _call_mlp(
    kind: str, names: tuple[str, ...], shape: tuple[int, ...], implementation: str, *arrays: jax.Array
) -> jax.Array:
    given = dict(zip(names, arrays, strict=True))
    up, x = given["up"], given["x"]
    n_summed = up.ndim - 1
    y = kernels.mlp(
        x.reshape(*x.shape[: x.ndim - n_summed], -1),
        _matrix(up, n_summed),
        _matrix(given["down"], 1),
        _flat(given.get("up_bias")),
        _flat(given.get("down_bias")),
        kind=kind,
        residual=_rows_of(given.get("residual"), x.shape[: x.ndim - n_summed]),
        implementation=implementation,
    )
    return y.reshape(shape)


def _call_norm_mlp(
    norm: NormAbout,
    kind: str,
    names: tuple[str, ...],
    shape: tuple[int, ...],
    implementation: str,
    *arrays: jax.Array,
) -> jax.Array:
    given = dict(zip(names, arrays, strict=True))
    y = kernels.norm_mlp(
        given["x"],
        _spec(norm, given, given["up"].dtype, implementation),
        _matrix(given["up"], 1),
        _matrix(given["down"], 1),
        _flat(given.get("up_bias")),
        _flat(given.get("down_bias")),
        kind=kind,
        implementation=implementation,
    )
    return y.reshape(shape)


def _call_norm_dense(
    norm: NormAbout,
    activation: str,
    names: tuple[str, ...],
    shape: tuple[int, ...],
    implementation: str,
    *arrays: jax.Array,
) -> jax.Array:
    given = dict(zip(names, arrays, strict=True))
    y, _ = kernels.norm_dense(
        given["x"],
        _spec(norm, given, given["w"].dtype, implementation),
        _matrix(given["w"], 1),
        _flat(given.get("bias")),
        activation=activation,
        implementation=implementation,
    )
    return y.reshape(shape)


def _spec(norm: NormAbout, given: dict[str, jax.Array], dtype: Any, implementation: str) -> kernels.NormSpec:
    scale = given["scale"] if "scale" in given else jnp.ones(given["x"].shape[-1:], jnp.float32)
    return kernels.NormSpec(scale, given.get("norm_bias"), norm.centre, norm.epsilon, dtype, implementation)


def _flat(bias: jax.Array | None) -> jax.Array | None:
    return None if bias is None else bias.reshape(-1)


def _rows_of(residual: jax.Array | None, rows: tuple[int, ...]) -> jax.Array | None:
    return None if residual is None else residual.reshape(*rows, -1)
