"""Normal forms of arithmetic: a value as a product of powers, or as a sum of multiples, whatever way it is written.

(x - m) / sqrt(v) * s and s * ((x - m) * rsqrt(v)) are the same product; a number anywhere in it is part of its
coefficient. Reordering changes rounding, as any other kernel does.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

from ryot_jax.rewriting.graph import Value
from ryot_jax.rewriting.views import Labels, number, of_operand, strip

MULTIPLICATIVE = {"mul", "div", "neg", "integer_pow", "square", "sqrt", "rsqrt"}
ADDITIVE = {"add", "sub", "add_any"}
_FLOATS = {"float32", "bfloat16", "float16"}
_MOST_WAYS = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Factor:
    """A power of a value, or a multiple of it in a sum.

    Attributes:
      value: the value.
      labels: of its axes.
      weight: the power or the multiple.
      bare: for a product of matrices or the sum of an array: without the numbers that its operands are multiplied with.
    """

    value: Value
    labels: Labels
    weight: Fraction | float
    bare: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """A value as a number times factors, or as a number plus terms."""

    number: float
    factors: tuple[Factor, ...]


def is_float(value: Value) -> bool:
    """Whether arithmetic on it may be reordered: on floats of up to 32 bits."""
    return value.dtype in _FLOATS


def products(value: Value, labels: Labels, most: int) -> Iterator[Form]:
    """The ways to write a value as a product of at most so many factors, the coarsest first."""
    return _ways(Factor(value, labels, Fraction(1)), _factors, Form(1.0, ()), most)


def sums(value: Value, labels: Labels, most: int) -> Iterator[Form]:
    """The ways to write a value as a sum of at most so many terms, the coarsest first."""
    return _ways(Factor(value, labels, 1.0), _terms, Form(0.0, ()), most)


def product(value: Value, labels: Labels) -> Form:
    """The finest way to write a value as a product."""
    return _finest(Factor(value, labels, Fraction(1)), _factors, Form(1.0, ()))


def total(value: Value, labels: Labels) -> Form:
    """The finest way to write a value as a sum."""
    return _finest(Factor(value, labels, 1.0), _terms, Form(0.0, ()))


_Split = Callable[[Factor], Form | None]


def _ways(whole: Factor, split: _Split, nothing: Form, most: int) -> Iterator[Form]:
    pending = deque([_joined(nothing, (_stripped(whole),), split)])
    seen: set[Form] = set()
    while pending and len(seen) < _MOST_WAYS:
        form = pending.popleft()
        if form in seen:
            continue
        seen.add(form)
        if len(form.factors) <= most:
            yield form
            for i, factor in enumerate(form.factors):
                parts = split(factor)
                if parts is not None:
                    rest = (*form.factors[:i], *form.factors[i + 1 :])
                    pending.append(_joined(_with(form.number, parts, split), (*rest, *parts.factors), split))


def _finest(whole: Factor, split: _Split, nothing: Form) -> Form:
    form = _joined(nothing, (_stripped(whole),), split)
    while True:
        for i, factor in enumerate(form.factors):
            parts = split(factor)
            if parts is not None:
                rest = (*form.factors[:i], *form.factors[i + 1 :])
                form = _joined(_with(form.number, parts, split), (*rest, *parts.factors), split)
                break
        else:
            return form


def _with(number: float, parts: Form, split: _Split) -> Form:
    return Form(number * parts.number if split is _factors else number + parts.number, ())


def _joined(form: Form, factors: Sequence[Factor], split: _Split) -> Form:
    """A form with these factors: numbers become part of its number, and equal factors one."""
    value = form.number
    weights: dict[tuple[Value, Labels, bool], Fraction | float] = {}
    for factor in factors:
        known = number(factor.value)
        power = factor.weight
        if known is not None and split is _terms:
            value += float(power) * known
        elif known is not None and isinstance(power, Fraction) and _has_power(known, power):
            value *= known ** float(power)
        else:
            key = (factor.value, factor.labels, factor.bare)
            weights[key] = weights.get(key, 0) + power
    found = (Factor(key[0], key[1], weight, key[2]) for key, weight in weights.items() if weight)
    return Form(value, tuple(found))


def _has_power(known: float, power: Fraction) -> bool:
    return known > 0 or (power.denominator == 1 and (known != 0 or power > 0))


def _stripped(factor: Factor) -> Factor:
    value, labels = strip(factor.value, factor.labels)
    return Factor(value, labels, factor.weight, factor.bare)


def _part(factor: Factor, operand: Value, weight: Fraction | float) -> Factor:
    return _stripped(Factor(operand, of_operand(operand, factor.value, factor.labels), weight))


def _factors(factor: Factor) -> Form | None:
    """A factor as a product, by its outermost operation; None: it is none."""
    node, power = factor.value.node, factor.weight
    if node is None or not is_float(factor.value) or not isinstance(power, Fraction):
        return None
    first = node.inputs[0]
    match node.primitive:
        case "mul":
            return Form(1.0, (_part(factor, first, power), _part(factor, node.inputs[1], power)))
        case "div":
            return Form(1.0, (_part(factor, first, power), _part(factor, node.inputs[1], -power)))
        case "neg" if power.denominator == 1:
            return Form(-1.0 if power.numerator % 2 else 1.0, (_part(factor, first, power),))
        case "square":
            return Form(1.0, (_part(factor, first, 2 * power),))
        case "integer_pow":
            return Form(1.0, (_part(factor, first, int(node.params["y"]) * power),))
        case "sqrt":
            return Form(1.0, (_part(factor, first, power / 2),))
        case "rsqrt":
            return Form(1.0, (_part(factor, first, -power / 2),))
        case "dot_general" if power == 1 and not factor.bare:
            coefficient = unscaled(first)[0] * unscaled(node.inputs[1])[0]
            return None if coefficient == 1.0 else Form(coefficient, (dataclasses.replace(factor, bare=True),))
        case "reduce_sum" if power == 1 and not factor.bare:
            coefficient = unscaled(first)[0]
            return None if coefficient == 1.0 else Form(coefficient, (dataclasses.replace(factor, bare=True),))
    return None


def _terms(term: Factor) -> Form | None:
    """A term as a sum, by its outermost operation; None: it is none."""
    node, weight = term.value.node, float(term.weight)
    if node is None or not is_float(term.value):
        return None
    if node.primitive in ADDITIVE:
        last = -weight if node.primitive == "sub" else weight
        return Form(0.0, (_part(term, node.inputs[0], weight), _part(term, node.inputs[1], last)))
    coefficient, value, labels = unscaled(term.value, term.labels)
    return None if coefficient == 1.0 else Form(0.0, (Factor(value, labels, weight * coefficient),))


def unscaled(value: Value, labels: Labels | None = None) -> tuple[float, Value, Labels]:
    """A value as a number times another one, without numbers that it is multiplied with or divided by."""
    coefficient = 1.0
    value, labels = strip(value, tuple(range(len(value.shape))) if labels is None else labels)
    while value.node is not None and is_float(value):
        node, numbers = value.node, [number(operand) for operand in value.node.inputs]
        match node.primitive, numbers:
            case "neg", _:
                factor, kept = -1.0, 0
            case "mul", [float(factor), None]:
                kept = 1
            case "mul", [None, float(factor)]:
                kept = 0
            case "div", [None, float(divisor)] if divisor:
                factor, kept = 1 / divisor, 0
            case _:
                break
        coefficient *= factor
        value, labels = strip(node.inputs[kept], of_operand(node.inputs[kept], value, labels))
    return coefficient, value, labels
