"""Unification of a pattern with a value of a graph, modulo views and the order of sums, products and operands.

Both sides are traced JAX programs. A pattern's inputs are bound to values of the graph, with a label for each axis that
tells which axis of the input it is; inputs declared as numbers are bound to numbers.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from ryot_jax.rewriting import normal
from ryot_jax.rewriting.axes import fits, inserted, mirrored, reduced, same_params, sides, with_summed
from ryot_jax.rewriting.bindings import Binding, Bound, Pattern
from ryot_jax.rewriting.graph import Node, Value
from ryot_jax.rewriting.normal import ADDITIVE, MULTIPLICATIVE, Factor
from ryot_jax.rewriting.views import Labels, axes_of, number, of_operand, strip

_COMMUTATIVE = {"max", "min", "and", "or", "eq", "ne", "mul", "add"}
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or"}
_ELEMENTWISE = _COMMUTATIVE | {
    *("sub", "div", "neg", "exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "erf", "erfc", "abs", "sign"),
    *("sqrt", "rsqrt", "square", "integer_pow", "pow", "not", "is_finite", "select_n", "lt", "le", "gt", "ge"),
    *("floor", "convert_element_type", "clamp", "stop_gradient", "sin", "cos", "cbrt", "rem"),
}
_TOLERANCE = 1e-5  # of numbers: those of float32 programs are rounded


def unify(pattern: Pattern, value: Value, axes: Sequence[int] | None = None) -> Binding | None:
    """The inputs for which the pattern computes the value; None: it does not.

    Args:
      pattern: the pattern.
      value: a value of a graph.
      axes: the value's axis for each axis of the pattern's result; None: the same. Axes left out have size 1.
    """
    labels = axes_of(value.shape, [("root", axis) for axis in range(len(value.shape))])
    p_labels = axes_of(pattern.root.shape, [labels[axis] for axis in (range(len(labels)) if axes is None else axes)])
    return next(_Unifier(pattern).match(pattern.root, p_labels, value, labels, Binding()), None)


class _Unifier:
    def __init__(self, pattern: Pattern):
        self._pattern = pattern
        self._numbers, self._optional, self._whole = pattern.numbers, pattern.optional, pattern.whole
        self._fresh = itertools.count()

    def match(self, p: Value, p_labels: Labels, g: Value, g_labels: Labels, b: Binding) -> Iterator[Binding]:
        """All ways in which p, with its axes so labelled, is g."""
        p, p_labels = strip(p, p_labels)
        if p.name is not None:
            yield from self._bind(p, p_labels, g, g_labels, b)
            return
        known = number(p)
        if known is not None:
            if _close(known, number(g)):
                yield b
            return
        assert p.node is not None
        if p.node.primitive == "stop_gradient":  # of a shift, by which the result does not change
            yield from self.match(p.node.inputs[0], p_labels, *_without_stop(g, g_labels), b)
            return
        g, g_labels = strip(g, g_labels)
        if set(p_labels) - {None} != set(g_labels) - {None} or g.node is None:
            return
        if normal.is_float(p) and p.node.primitive in ADDITIVE:
            yield from self._sum(p, p_labels, g, g_labels, b)
        elif normal.is_float(p) and (p.node.primitive in MULTIPLICATIVE or p.node.primitive == "dot_general"):
            yield from self._product(p, p_labels, g, g_labels, b)
        else:
            yield from self._node(p, p_labels, g, g_labels, b)

    def _bind(self, p: Value, p_labels: Labels, g: Value, g_labels: Labels, b: Binding) -> Iterator[Binding]:
        assert p.name is not None
        if p.name in self._numbers:
            known, earlier = number(g), b.numbers.get(p.name)
            if known is not None and (earlier is None or _close(earlier, known)):
                yield dataclasses.replace(b, numbers={**b.numbers, p.name: known})
            return
        g, g_labels = strip(g, g_labels)
        places = {label: axis for axis, label in enumerate(p_labels) if label is not None}
        if any(label is not None and label not in places for label in g_labels):
            return
        if p.name in self._whole and not set(places) <= set(g_labels):
            return
        bound = Bound(g, tuple(None if label is None else places[label] for label in g_labels))
        if (before := b.arrays.get(p.name)) is None:
            yield dataclasses.replace(b, arrays={**b.arrays, p.name: bound})
        elif before.value is g and before.labels == bound.labels:
            yield b

    def _sum(self, p: Value, p_labels: Labels, g: Value, g_labels: Labels, b: Binding) -> Iterator[Binding]:
        wanted = self._pattern.form(normal.total, p, p_labels)
        symbols = [term for term in wanted.factors if term.value.name in self._numbers]
        terms = [term for term in wanted.factors if term not in symbols]
        for form in normal.sums(g, g_labels, len(terms)):
            if symbols:
                (symbol,) = symbols
                if form.number == wanted.number:
                    continue  # no number is added: the pattern needs one
                found = self._number(symbol, (form.number - wanted.number) / float(symbol.weight), b)
            else:
                found = b if _close(wanted.number, form.number) else None
            if found is not None:
                yield from self._multiset(terms, form.factors, found)

    def _has_number(self, term: Factor) -> bool:
        """Whether a term of a sum is a multiple that the pattern leaves open."""
        if isinstance(term.weight, Fraction) or term.value.node is None or not normal.is_float(term.value):
            return False
        form = self._pattern.form(normal.product, term.value, term.labels)
        return any(factor.value.name in self._numbers and factor.weight == 1 for factor in form.factors)

    def _product(
        self, p: Value, p_labels: Labels, g: Value, g_labels: Labels, b: Binding, times: float = 1.0
    ) -> Iterator[Binding]:
        wanted = self._pattern.form(normal.product, p, p_labels)
        symbols = [factor for factor in wanted.factors if factor.value.name in self._numbers]
        factors = [factor for factor in wanted.factors if factor not in symbols]
        for form in normal.products(g, g_labels, len(factors)):
            if symbols:
                (symbol,) = symbols
                ratio, power = times * form.number / wanted.number, float(symbol.weight)
                if ratio <= 0 and power != 1:
                    continue
                found = self._number(symbol, ratio if power == 1 else ratio ** (1 / power), b)
            else:
                found = b if _close(wanted.number, times * form.number) else None
            if found is not None:
                yield from self._multiset(factors, form.factors, found)

    @staticmethod
    def _number(symbol: Factor, found: float, b: Binding) -> Binding | None:
        name = symbol.value.name
        assert name is not None
        if name in b.numbers and not _close(b.numbers[name], found):
            return None
        return dataclasses.replace(b, numbers={**b.numbers, name: found})

    def _multiset(self, p_all: Sequence[Factor], g_all: Sequence[Factor], b: Binding) -> Iterator[Binding]:
        """All ways to pair the factors of both sides; those with a structure first, as they bind inputs."""
        if len(p_all) < len(g_all):
            return
        if not p_all:
            yield b
            return
        first = min(p_all, key=lambda factor: (factor.value.name is not None, factor.value.name in self._optional))
        rest = [factor for factor in p_all if factor is not first]
        for i, candidate in enumerate(g_all):
            if first.value.name in self._pattern.weighted:
                for found in self._factor(first, candidate, b):
                    scaled = dataclasses.replace(found.arrays[first.value.name], weight=float(candidate.weight))
                    arrays = {**found.arrays, first.value.name: scaled}
                    others = [*g_all[:i], *g_all[i + 1 :]]
                    yield from self._multiset(rest, others, dataclasses.replace(found, arrays=arrays))
            elif self._has_number(first):
                ratio = float(candidate.weight) / float(first.weight)
                for found in self._product(first.value, first.labels, candidate.value, candidate.labels, b, ratio):
                    yield from self._multiset(rest, [*g_all[:i], *g_all[i + 1 :]], found)
            elif _close(float(first.weight), float(candidate.weight)):
                others = [*g_all[:i], *g_all[i + 1 :]]
                for found in self._factor(first, candidate, b):
                    yield from self._multiset(rest, others, found)
        if first.value.name in self._optional and first.value.name not in b.arrays:
            yield from self._multiset(rest, g_all, b)

    def _factor(self, p: Factor, g: Factor, b: Binding) -> Iterator[Binding]:
        if p.value.node is None or not isinstance(p.weight, Fraction):
            yield from self.match(p.value, p.labels, g.value, g.labels, b)
        elif set(p.labels) - {None} == set(g.labels) - {None} and g.value.node is not None:
            # The pattern's factor is no product itself: it is a sum, a product of matrices or any other node.
            if p.value.node.primitive == "dot_general" == g.value.node.primitive:
                yield from self._dot(p, g, b)
            elif g.bare:
                if p.value.node.primitive == "reduce_sum" == g.value.node.primitive:
                    yield from self._reduction(p.value.node, p.labels, g.value.node, g.labels, b, is_bare=True)
            elif p.value.node.primitive in ADDITIVE and normal.is_float(p.value):
                yield from self._sum(p.value, p.labels, g.value, g.labels, b)
            else:
                yield from self._node(p.value, p.labels, g.value, g.labels, b)

    def _node(self, p: Value, p_labels: Labels, g: Value, g_labels: Labels, b: Binding) -> Iterator[Binding]:
        p_node, g_node = p.node, g.node
        assert p_node is not None
        if g_node is None or p.index != g.index:
            return
        p_name, p_inputs = mirrored(p_node)
        g_name, g_inputs = mirrored(g_node)
        if p_name != g_name or len(p_inputs) != len(g_inputs):
            return
        if p_name == "dot_general":
            yield from self._dot(Factor(p, p_labels, 1.0), Factor(g, g_labels, 1.0), b)
        elif p_name in _REDUCTIONS:
            yield from self._reduction(p_node, p_labels, g_node, g_labels, b)
        elif p_name in _ELEMENTWISE:
            if p_name == "integer_pow" and p_node.params["y"] != g_node.params["y"]:
                return
            orders = [g_inputs, g_inputs[::-1]] if p_name in _COMMUTATIVE else [g_inputs]
            for order in orders:
                pairs = [
                    (x, of_operand(x, p, p_labels), y, of_operand(y, g, g_labels))
                    for x, y in zip(p_inputs, order, strict=True)
                ]
                yield from self._all(pairs, b)
        elif p_labels == g_labels and same_params(p_node.params, g_node.params):
            pairs = []
            for x, y in zip(p_inputs, g_inputs, strict=True):
                if x.shape != y.shape:
                    return
                labels = axes_of(x.shape, self._new(len(x.shape)))
                pairs.append((x, labels, y, labels))
            yield from self._all(pairs, b)

    def _reduction(
        self, p: Node, p_labels: Labels, g: Node, g_labels: Labels, b: Binding, *, is_bare: bool = False
    ) -> Iterator[Binding]:
        p_axes, g_axes = (reduced(node) for node in (p, g))
        if len(p_axes) != len(g_axes):
            return
        fresh = self._new(len(p_axes))
        for order in itertools.permutations(fresh) if len(fresh) < 4 else [tuple(fresh)]:
            x, y = p.inputs[0], g.inputs[0]
            summed = y, inserted(y, g, g_labels, g_axes, order)
            summed = normal.unscaled(*summed)[1:] if is_bare else summed
            yield from self.match(x, inserted(x, p, p_labels, p_axes, fresh), *summed, b)

    def _dot(self, p: Factor, g: Factor, b: Binding) -> Iterator[Binding]:
        assert p.value.node is not None and g.value.node is not None
        p_sides, p_sizes = sides(p.value.node, p.labels)
        g_sides, g_sizes = sides(g.value.node, g.labels)
        if len(p_sizes) != len(g_sizes):
            return
        fresh = self._new(len(p_sizes))
        for order in itertools.permutations(range(len(fresh))):
            if any(p_sizes[k] != g_sizes[i] for i, k in enumerate(order)):
                continue
            wanted = [with_summed(side, fresh) for side in p_sides]
            given = [with_summed(side, [fresh[k] for k in order]) for side in g_sides]
            if g.bare:
                given = [normal.unscaled(*side)[1:] for side in given]
            for order_of_sides in (given, given[::-1]):
                pairs = [(*x, *y) for x, y in zip(wanted, order_of_sides, strict=True)]
                if all(map(fits, pairs)):
                    yield from self._all(pairs, b)

    def _all(self, pairs: Sequence[tuple[Value, Labels, Value, Labels]], b: Binding) -> Iterator[Binding]:
        if not pairs:
            yield b
            return
        # A pattern's own inputs last: what has a structure tells more.
        first = min(range(len(pairs)), key=lambda i: pairs[i][0].name is not None)
        for found in self.match(*pairs[first], b):
            yield from self._all([*pairs[:first], *pairs[first + 1 :]], found)

    def _new(self, count: int) -> list[Any]:
        return [("within", next(self._fresh)) for _ in range(count)]


def _close(a: float, b: float | None) -> bool:
    return b is not None and (a == b or math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=0.0))


def _without_stop(value: Value, labels: Labels) -> tuple[Value, Labels]:
    value, labels = strip(value, labels)
    while value.node is not None and value.node.primitive == "stop_gradient":
        value, labels = strip(value.node.inputs[0], labels)
    return value, labels
