"""Axes of operands and results of a node, by their labels."""

from collections.abc import Mapping, Sequence
from typing import Any

from ryot_jax.rewriting.graph import Node, Value
from ryot_jax.rewriting.views import Labels, axes_of

_MIRRORED = {"gt": "lt", "ge": "le"}
_IRRELEVANT = {"sharding", "out_sharding", "accuracy", "precision", "preferred_element_type", "weak_type"}


def mirrored(node: Node) -> tuple[str, tuple[Value, ...]]:
    """The name and the operands of a node, comparisons written as less than."""
    if node.primitive in _MIRRORED:
        return _MIRRORED[node.primitive], node.inputs[::-1]
    return node.primitive, node.inputs


def reduced(node: Node) -> tuple[int, ...]:
    """The axes that a reduction sums over, without those of size 1."""
    return tuple(int(axis) for axis in node.params["axes"] if node.inputs[0].shape[int(axis)] != 1)


def inserted(operand: Value, node: Node, labels: Labels, axes: tuple[int, ...], fresh: Sequence[Any]) -> Labels:
    """The labels of a reduction's operand: `fresh` ones for the axes that it sums over."""
    kept = iter(labels)
    dropped = {int(axis) for axis in node.params["axes"]}
    names = dict(zip(axes, fresh, strict=True))
    return axes_of(
        operand.shape, [names.get(axis) if axis in dropped else next(kept) for axis in range(len(operand.shape))]
    )


def sides(node: Node, labels: Labels) -> tuple[list[tuple[Value, list[Any], tuple[int, ...]]], list[int]]:
    """Both operands of a product with the labels of their axes, the summed ones still to be named; and their sizes."""
    (contracted, batch) = node.params["dimension_numbers"]
    n_batch = len(batch[0])
    rest = list(labels[n_batch:])
    sides = []
    for operand, its_contracted, its_batch in zip(node.inputs, contracted, batch, strict=True):
        names: list[Any] = [None] * len(operand.shape)
        for label, axis in zip(labels, its_batch, strict=False):
            names[int(axis)] = label
        summed = tuple(int(axis) for axis in its_contracted)
        for axis in range(len(operand.shape)):
            if axis not in summed and axis not in {int(a) for a in its_batch}:
                names[axis] = rest.pop(0)
        sides.append((operand, names, summed))
    return sides, [node.inputs[0].shape[int(axis)] for axis in contracted[0]]


def with_summed(side: tuple[Value, list[Any], tuple[int, ...]], summed_labels: Sequence[Any]) -> tuple[Value, Labels]:
    """An operand of a product with the labels of its summed axes."""
    operand, names, summed = side
    named = list(names)
    for axis, label in zip(summed, summed_labels, strict=True):
        named[axis] = label
    return operand, axes_of(operand.shape, named)


def fits(pair: tuple[Value, Labels, Value, Labels]) -> bool:
    """Whether the axes of a value can be those of a pattern's."""
    p, p_labels, _, g_labels = pair
    wanted, given = set(p_labels) - {None}, set(g_labels) - {None}
    return given <= wanted if p.name is not None else given == wanted


def same_params(p: Mapping[str, Any], g: Mapping[str, Any]) -> bool:
    """Whether two nodes of one primitive do the same, but for how it is computed and placed."""
    return all(_equal(p[name], g.get(name)) for name in p if name not in _IRRELEVANT)


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b or (a != a and b != b))  # a fill value may be NaN
