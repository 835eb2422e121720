"""Neighbouring sites as one, by the fused ops of `kernels`: a norm and the layer after it, the two layers of an MLP."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from ryot_jax.rewriting.graph import Value
from ryot_jax.rewriting.layers import (
    LayerAbout,
    MlpAbout,
    NormAbout,
    call_mlp,
    call_norm_dense,
    call_norm_mlp,
    is_piece,
    piece,
)
from ryot_jax.rewriting.sites import Operand, Site
from ryot_jax.rewriting.steps import Step, reads


def fused(steps: Sequence[Step], outputs: Sequence[Value], choice: Callable[[Site], str]) -> list[Step]:
    """Steps with neighbouring sites made one, each in the place of the last of them.

    Args:
      steps: the steps of a graph.
      outputs: the results of the graph.
      choice: the implementation of a site.
    """
    sites = {step.root: step for step in steps if isinstance(step, Site)}
    readers = collections.Counter([*outputs, *(value for step in steps for value in reads(step))])
    for root in [step.root for step in reversed(steps) if isinstance(step, Site)]:
        while root in sites and (found := _with_neighbour(sites[root], sites, readers, choice)) is not None:
            sites[root], taken = found
            del sites[taken.root]
    every = (sites.get(step.root) if isinstance(step, Site) else step for step in steps)
    return [step for step in every if step is not None]


def _with_neighbour(
    site: Site, sites: dict[Value, Site], readers: dict[Value, int], choice: Callable[[Site], str]
) -> tuple[Site, Site] | None:
    """The site together with the one that computes its first operand, if nothing else reads what lies between."""
    x = site.part("x") if isinstance(site.about, LayerAbout | MlpAbout) else None
    before = sites.get(x.value) if x is not None else None
    if x is None or before is None or readers[x.value] != 1 or not x.is_whole:
        return None
    if choice(before) != choice(site) or before.root.dtype != site.root.dtype:
        return None
    if isinstance(before.about, LayerAbout) and isinstance(site.about, LayerAbout):
        return (_mlp(before, site), before) if _is_mlp(before, site) else None
    if isinstance(before.about, NormAbout) and site.about.n_summed == 1:
        of_mlp, residual, x = isinstance(site.about, MlpAbout), site.part("residual"), before.part("x")
        if residual is None:
            return None if of_mlp else (_norm_dense(before, site), before)
        is_same = x is not None and (residual.value, residual.labels) == (x.value, x.labels)
        if of_mlp and is_same and residual.value.dtype == site.root.dtype:
            return _norm_mlp(before, site), before
    return None


def _is_mlp(up: Site, down: Site) -> bool:
    """Whether the second layer is a plain one, over the one axis that the first one's weights add to its rows."""
    rows = len(up.operands[0].shape) - up.about.n_summed
    is_plain = down.about.activation == "none" and down.about.n_summed == 1 and down.part(piece("w", 1)) is None
    return is_plain and up.about.activation != "none" and len(up.root.shape) == rows + 1


def _named(site: Site, given: dict[str, str]) -> list[tuple[str, Operand]]:
    """Operands of a site, in all their pieces, under the names that a fused op gives them."""
    parts = list(zip(site.names, site.operands, strict=True))
    return [
        (new + name.removeprefix(old), part)
        for old, new in given.items()
        for name, part in parts
        if is_piece(name, old)
    ]


def _made(
    first: Site, last: Site, parts: Sequence[tuple[str, Operand]], call: Callable[..., Any], words: str, about: Any
) -> Site:
    names = tuple(name for name, _ in parts)
    return dataclasses.replace(
        last,
        operands=tuple(operand for _, operand in parts),
        names=names,
        call=functools.partial(call, names, last.root.shape),
        words=words,
        about=about,
        made_of=(first, last),
    )


def _mlp(up: Site, down: Site) -> Site:
    parts = _named(up, {"x": "x", "w": "up", "bias": "up_bias"})
    parts += _named(down, {"w": "down", "bias": "down_bias", "residual": "residual"})
    about = MlpAbout(up.about.activation, up.about.n_summed)
    words = " + ".join([f"mlp, {about.kind}", *(["residual"] if down.part("residual") is not None else [])])
    return _made(up, down, parts, functools.partial(call_mlp, about.kind, about.n_summed), words, about)


def _norm_mlp(norm: Site, mlp: Site) -> Site:
    parts = _named(norm, {"x": "x", "scale": "scale", "norm_bias": "norm_bias"})
    parts += _named(mlp, {name: name for name in ("up", "up_bias", "down", "down_bias")})
    call = functools.partial(call_norm_mlp, norm.about, mlp.about.kind)
    return _after_norm(_made(norm, mlp, parts, call, f"{norm.words} + {mlp.words}", None))


def _norm_dense(norm: Site, layer: Site) -> Site:
    parts = _named(norm, {"x": "x", "scale": "scale", "norm_bias": "norm_bias"})
    parts += _named(layer, {"w": "w", "bias": "bias"})
    call = functools.partial(call_norm_dense, norm.about, layer.about.activation)
    words = f"{norm.words} + {layer.words}"
    site = _after_norm(_made(norm, layer, parts, functools.partial(call, False), words, None))
    return dataclasses.replace(site, passing=functools.partial(call, True, site.names, site.root.shape))


def _after_norm(site: Site) -> Site:
    """The site with the operands of its norm as they are; the norm's result has the precision of the products."""
    return dataclasses.replace(site, exact=("x", "scale", "norm_bias"))
