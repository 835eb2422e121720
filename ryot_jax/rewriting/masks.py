"""Masks, understood by proof: a value is computed where it depends on no input, and its axes tell the rest.

A mask is a conjunction. Each of its parts is all true, causal, causal with a window, or says of each key whether it is
padding. Anything else is not known, and what it belongs to is left as it is.
"""

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ryot_jax.rewriting.graph import Value
from ryot_jax.rewriting.normal import product, total
from ryot_jax.rewriting.views import Labels, number, of_operand, strip

HIDDEN = -1e9  # fill values and summands from here on leave nothing of a score
REPLACES = -1e30  # summands from here on leave the same sum whatever the score is
_LARGEST = 1 << 24  # elements of a mask that is computed


@dataclasses.dataclass(frozen=True)
class Mask:
    """The keys that a mask lets a query see.

    Attributes:
      causal: only keys up to its own place.
      window: only so many keys up to its own place; None: all of them.
      parts: values of which each is True where a query sees a key, with their labels, besides.
    """

    causal: bool = False
    window: int | None = None
    parts: tuple[tuple[Value, Labels], ...] = ()

    def both(self, other: "Mask") -> "Mask":
        """The conjunction of two masks."""
        windows = [window for window in (self.window, other.window) if window is not None]
        return Mask(self.causal or other.causal, min(windows, default=None), (*self.parts, *other.parts))


def of_bool(value: Value, labels: Labels, query: Hashable, key: Hashable) -> Mask | None:
    """The mask that an array of bools is.

    Args:
      value: True where a query sees a key.
      labels: of its axes.
      query: label of the axis of queries.
      key: label of the axis of keys.
    """
    known: list[tuple[np.ndarray, Labels]] = []
    parts: list[tuple[Value, Labels]] = []
    for part, its_labels in _conjuncts(value, labels):
        array = computed(part)
        if array is not None:
            known.append((array != 0, its_labels))
        elif part.dtype != "bool" or (query in its_labels and key in its_labels) or not set(its_labels) - {None}:
            return None
        else:
            parts.append((part, its_labels))
    found = _classified(known, query, key)
    return None if found is None else dataclasses.replace(found, parts=tuple(parts))


def _conjuncts(value: Value, labels: Labels) -> Iterator[tuple[Value, Labels]]:
    """The values of which an array is the conjunction: of bools, and of numbers of at least 0 that are multiplied."""
    value, labels = strip(value, labels)
    node = value.node
    if node is not None and node.primitive == "and":
        for operand in node.inputs:
            yield from _conjuncts(operand, of_operand(operand, value, labels))
        return
    if node is not None and node.primitive in ("gt", "ne") and number(node.inputs[1]) == 0.0:
        operand = node.inputs[0]
        factors = list(_factors(operand, of_operand(operand, value, labels)))
        if all(factor.dtype == "bool" or _is_no_less(factor) for factor, _ in factors):
            for factor, its_labels in factors:
                yield from _conjuncts(factor, its_labels)
            return
    yield value, labels


def _factors(value: Value, labels: Labels) -> Iterator[tuple[Value, Labels]]:
    value, labels = strip(value, labels)
    node = value.node
    if node is not None and node.primitive == "mul":
        for operand in node.inputs:
            yield from _factors(operand, of_operand(operand, value, labels))
    elif node is not None and node.primitive == "convert_element_type" and node.inputs[0].dtype == "bool":
        yield strip(node.inputs[0], labels)
    else:
        yield value, labels


def _is_no_less(value: Value) -> bool:
    """Whether a value is proven to be nowhere below 0."""
    array = computed(value)
    return array is not None and not (array < 0).any()


def of_hidden(value: Value, labels: Labels, query: Hashable, key: Hashable) -> Mask | None:
    """The mask that is True where a query does not see a key."""
    value, labels = strip(value, labels)
    if value.node is not None and value.node.primitive == "not":
        return of_bool(value.node.inputs[0], labels, query, key)
    array = computed(value)
    return None if array is None else _classified([(array == 0, labels)], query, key)


def of_summand(
    value: Value, labels: Labels, weight: float, query: Hashable, key: Hashable
) -> tuple[Mask, float] | None:
    """The mask that a multiple of an array is when it is added to scores, and the largest number that hides one."""
    if (whole := _of_term(value, labels, weight, query, key)) is not None:
        return whole
    form = total(value, labels)
    if form.number:
        return None
    mask, largest = Mask(), -np.inf
    for term in form.factors:
        found = _of_term(term.value, term.labels, float(term.weight) * weight, query, key)
        if found is None:
            return None
        mask, largest = mask.both(found[0]), max(largest, found[1])
    return mask, largest


def _of_term(value: Value, labels: Labels, weight: float, query: Hashable, key: Hashable) -> tuple[Mask, float] | None:
    array = computed(value)
    if array is not None:
        array = array * weight
        hidden = array <= HIDDEN
        if not (hidden | (array == 0)).all():
            return None
        mask = _classified([(~hidden, labels)], query, key)
        return None if mask is None else (mask, float(array.max(where=hidden, initial=-np.inf)))
    node = value.node
    if node is None or weight <= 0:
        return None
    if node.primitive == "select_n" and len(node.inputs) == 3:
        fills = [number(operand) for operand in node.inputs[1:]]
        if fills[1] == 0.0 and fills[0] is not None and fills[0] * weight <= HIDDEN:
            mask = of_bool(node.inputs[0], of_operand(node.inputs[0], value, labels), query, key)
            return None if mask is None else (mask, fills[0] * weight)
    form = product(value, labels)
    if form.number * weight <= HIDDEN and len(form.factors) == 1:  # (1 - mask) * -1e9
        rest = total(form.factors[0].value, form.factors[0].labels)
        if rest.number == 1.0 and len(rest.factors) == 1 and rest.factors[0].weight == -1.0:
            parts = list(_factors(rest.factors[0].value, rest.factors[0].labels))
            if len(parts) == 1 and parts[0][0].dtype == "bool":  # of other numbers than 0 and 1 something would be left
                mask = of_bool(*parts[0], query, key)
                return None if mask is None else (mask, form.number * weight)
    return None


def _classified(known: Sequence[tuple[np.ndarray, Labels]], query: Hashable, key: Hashable) -> Mask | None:
    """The mask that a conjunction of arrays is: nothing hidden, causal, or causal with a window."""
    square: np.ndarray = np.ones((1, 1), bool)
    for array, labels in known:
        places = [axis for axis, label in enumerate(labels) if label in (query, key) and label is not None]
        flat = np.moveaxis(array, places, range(array.ndim - len(places), array.ndim))
        flat = flat.reshape(-1, *flat.shape[flat.ndim - len(places) :])
        if not (flat == flat[0]).all():
            return None
        one = flat[0]
        if [labels[axis] for axis in places] == [key, query]:
            one = one.T
        elif len(places) == 1:
            one = one[None] if labels[places[0]] == key else one[:, None]
        square = square & one
    if square.all():
        return Mask()
    if square.shape[0] != square.shape[1] or not square.any():
        return None
    distance = np.subtract.outer(np.arange(len(square)), np.arange(len(square)))
    for window in (None, int(square[-1].sum())):
        expected = (distance >= 0) & (distance < (len(square) if window is None else window))
        if np.array_equal(square, expected):
            return Mask(causal=True, window=window)
    return None


def computed(value: Value) -> np.ndarray | None:
    """The array of a value that depends on no input, or None."""
    known: dict[Value, Any] = {}

    def compute(value: Value) -> Any:
        if value not in known:
            known[value] = _compute(value, compute)
        return known[value]

    with jax.ensure_compile_time_eval():
        array = compute(value)
    return None if array is None else np.asarray(array)


def _compute(value: Value, compute: Any) -> Any:
    if value.constant is not None:
        return None if isinstance(value.constant, jax.core.Tracer) else value.constant
    if value.outer is not None:
        return compute(value.outer)
    node = value.node
    if node is None or node.eqn.effects or np.prod(value.shape) > _LARGEST or node.bodies:
        return None
    if value.inside is not None:
        return compute(value.inside)
    operands = []
    for operand in node.inputs:
        array = compute(operand)
        if array is None:
            return None
        operands.append(array)
    return node.evaluate(operands)[value.index]
