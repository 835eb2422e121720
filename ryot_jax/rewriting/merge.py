"""Layers of the same rows as one product: projections to queries, keys and values that were written apart.

Rows are read once instead of three times, forward and backward, and a norm in front of them has one reader, so that it
becomes part of the layer. The joined weights are small beside the rows, or layers are left apart.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from ryot_jax.rewriting.graph import Node, Value
from ryot_jax.rewriting.layers import LayerAbout, call_layer, piece
from ryot_jax.rewriting.sites import Site
from ryot_jax.rewriting.steps import Cut, Step

_MOST_LOOKED_AT = 50


def merged(steps: Sequence[Step], choice: Callable[[Site], str]) -> list[Step]:
    """Steps in which plain layers of the same rows are one, and what each of them computed is a cut.

    Args:
      steps: the steps of a graph.
      choice: the implementation of a site.
    """
    if any(not isinstance(step, Site | Cut) and step.eqn.effects for step in steps):
        return list(steps)  # effects keep their order
    groups: dict[Any, list[Site]] = {}
    for step in steps:
        if isinstance(step, Site) and (key := _key(step, choice)) is not None:
            groups.setdefault(key, []).append(step)
    instead: dict[Site, list[Step]] = {}
    several = [group for group in groups.values() if len(group) > 1]
    roots = {site.root.node for group in several for site in group}
    for group in several:
        if _is_worth_it(group) and not _depends_on(group, roots):
            instead |= {site: _joined(group) if site is group[0] else [] for site in group}
    return [new for step in steps for new in (instead.get(step, [step]) if isinstance(step, Site) else [step])]


def _key(site: Site, choice: Callable[[Site], str]) -> Any:
    """What layers that can be one have in common; None: the site is no plain layer."""
    about, x = site.about, site.part("x")
    if not isinstance(about, LayerAbout) or about.activation != "none" or site.part("residual") is not None:
        return None
    assert x is not None
    return x.value, x.labels, x.shape, about.n_summed, site.root.dtype, choice(site)


def _is_worth_it(group: Sequence[Site]) -> bool:
    x = group[0].operands[0].shape
    width = math.prod(x[len(x) - group[0].about.n_summed :])
    return math.prod(x) > width * width


def _depends_on(group: Sequence[Site], roots: Collection[Node | None]) -> bool:
    """Whether the weights of a layer are computed from the result of one that may be merged, of this group or not."""
    pending = [operand.value for site in group for operand in site.operands[1:]]
    seen: set[Value] = set()
    while pending:
        value = pending.pop()
        if value.node is None or value in seen:
            continue
        seen.add(value)
        if value.node in roots or len(seen) > _MOST_LOOKED_AT:
            return True
        pending += value.node.inputs
    return False


def _joined(group: Sequence[Site]) -> list[Step]:
    first, n_summed = group[0], group[0].about.n_summed
    rows = first.operands[0].shape[: len(first.operands[0].shape) - n_summed]
    widths = [math.prod(site.root.shape[len(rows) :]) for site in group]
    root = dataclasses.replace(first.root, shape=(*rows, sum(widths)))
    parts = [("x", first.operands[0])]
    for i, site in enumerate(group):
        parts += [(piece(name, i), part) for name in ("w", "bias") if (part := site.part(name)) is not None]
    names, axes = tuple(name for name, _ in parts), tuple(range(len(root.shape)))
    layer = dataclasses.replace(
        first,
        root=root,
        operands=tuple(part for _, part in parts),
        names=names,
        call=functools.partial(call_layer, "none", names, n_summed, axes, root.shape, root.dtype),
        words=f"dense x {len(group)}",
        made_of=tuple(group),
    )
    steps: list[Step] = [layer]
    for i, site in enumerate(group):
        steps.append(Cut(site.root, root, sum(widths[:i]), sum(widths[: i + 1])))
    return steps
