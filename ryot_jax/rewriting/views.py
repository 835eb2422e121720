"""Views: values that hold the same numbers as another one, with axes moved, inserted, dropped or repeated.

A value may also be one number everywhere, known before the program runs.

Axes are named by labels, which are any hashable objects: two arrays are compared label by label, so that a pattern
written for one order of axes is found in every other. Axes of size 1 have the label None.
"""

import math
from collections.abc import Callable, Hashable, Sequence

import jax
import numpy as np

from ryot_jax.rewriting.graph import Node, Value

Labels = tuple[Hashable | None, ...]

_SAME = {"copy", "copy_p", "optimization_barrier", "pvary"}  # the last one: on all devices of `shard_map`
_FLOATS = {"float32", "bfloat16", "float16"}


def axes_of(shape: Sequence[int], labels: Sequence[Hashable | None]) -> Labels:
    """The labels of an array of this shape, None for axes of size 1."""
    return tuple(None if size == 1 else label for size, label in zip(shape, labels, strict=True))


def of_operand(operand: Value, value: Value, labels: Labels) -> Labels:
    """The labels of an elementwise operation's operand: a scalar, or with axes of size 1 where the result's are not."""
    if len(operand.shape) != len(value.shape):
        return (None,) * len(operand.shape)
    return axes_of(operand.shape, labels)


def step(value: Value) -> tuple[Value, tuple[int | None, ...]] | None:
    """The value that this one is a view of, and for each of its axes the axis here; None: it is no view."""
    node = value.node
    if node is None:
        return None
    if value.inside is not None:
        return value.inside, tuple(range(len(value.shape)))
    if node.primitive == "dot_general":
        return _times_one(node)
    if len(node.inputs) != 1:
        same = _neutral(node)
        return None if same is None or same.shape != value.shape else (same, tuple(range(len(value.shape))))
    (source,) = node.inputs
    match node.primitive:
        case "broadcast_in_dim":
            places = [int(axis) for axis in node.params["broadcast_dimensions"]]
            return source, tuple(places)
        case "transpose":
            permutation = [int(axis) for axis in node.params["permutation"]]
            return source, tuple(permutation.index(axis) for axis in range(len(permutation)))
        case "squeeze" | "expand_dims" | "reshape":
            return _regrouped(source, value)
        case "convert_element_type" if source.dtype in _FLOATS and value.dtype in _FLOATS:
            return source, tuple(range(len(value.shape)))
        case name if name in _SAME:
            return source, tuple(range(len(value.shape)))
    return None


def _times_one(node: Node) -> tuple[Value, tuple[int | None, ...]] | None:
    """The operand of a product that sums over nothing and multiplies with 1: heads with a mask of ones."""
    contracted, batch = node.params["dimension_numbers"]
    if contracted[0]:
        return None
    for side in (0, 1):
        one, other = node.inputs[side], node.inputs[1 - side]
        if len(batch[side]) == len(one.shape) and number(one) == 1.0:
            shared = [int(axis) for axis in batch[1 - side]]
            order = [*shared, *(axis for axis in range(len(other.shape)) if axis not in shared)]
            return other, tuple(order.index(axis) for axis in range(len(order)))
    return None


def _neutral(node: Node) -> Value | None:
    """The operand that an operation leaves as it is: a number is added that is 0, multiplied that is 1, or decides."""
    if node.primitive == "select_n":
        decided = number(node.inputs[0])
        return None if decided is None else node.inputs[1 + int(decided)]
    if node.primitive not in ("add", "sub", "mul", "div"):
        return None
    left, right = node.inputs
    neutral = 0.0 if node.primitive in ("add", "sub") else 1.0
    if number(right) == neutral:
        return left
    return right if node.primitive in ("add", "mul") and number(left) == neutral else None


def _regrouped(source: Value, value: Value) -> tuple[Value, tuple[int | None, ...]] | None:
    """A reshape that only inserts and drops axes of size 1."""
    before = [axis for axis, size in enumerate(source.shape) if size != 1]
    after = [axis for axis, size in enumerate(value.shape) if size != 1]
    if [source.shape[axis] for axis in before] != [value.shape[axis] for axis in after]:
        return None
    places = dict(zip(before, after, strict=True))
    return source, tuple(places.get(axis) for axis in range(len(source.shape)))


def strip(value: Value, labels: Labels) -> tuple[Value, Labels]:
    """The value that this one is a view of in the end, with the labels of its axes."""
    found = step(value)
    if found is None:
        return value, axes_of(value.shape, labels)
    while found is not None:
        source, places = found
        labels = axes_of(source.shape, [None if place is None else labels[place] for place in places])
        value, found = source, step(source)
    return value, labels


def base(value: Value) -> Value:
    """The value that this one is a view of in the end."""
    while (found := step(value)) is not None:
        value = found[0]
    return value


_LARGEST = 1 << 16  # elements of a constant that is looked through

_PARTS = {"slice", "dynamic_slice", "rev", "convert_element_type"}  # all elements of one number are that number
_FOLDED: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "max": max,
    "min": min,
    "neg": lambda a: -a,
    "sqrt": math.sqrt,
    "rsqrt": lambda a: 1 / math.sqrt(a),
    "square": lambda a: a * a,
    "exp": math.exp,
    "log": math.log,
    "gt": lambda a, b: float(a > b),
    "lt": lambda a, b: float(a < b),
    "ge": lambda a, b: float(a >= b),
    "le": lambda a, b: float(a <= b),
    "eq": lambda a, b: float(a == b),
    "ne": lambda a, b: float(a != b),
}


def number(value: Value) -> float | None:
    """The one number that all elements of a value are; None: they are not, or it is not known."""
    if value.number is not None and math.isnan(value.number):
        value.number = _number(value)
    return value.number


def _number(value: Value) -> float | None:
    if value.name is not None:
        return None
    if value.outer is not None:
        return number(value.outer)
    if value.constant is not None:
        return _of_constant(value)
    if value.node is None or (value.shape != () and step(value) is None and value.node.primitive not in _PARTS):
        # Folding is for scalars and views of them: what is computed elementwise from arrays of one number is rare.
        return None
    if (found := step(value)) is not None:
        return number(found[0])
    if value.node.primitive in _PARTS:
        whole = number(value.node.inputs[0])
        is_same = whole is None or value.dtype in _FLOATS or whole in (0.0, 1.0)
        return whole if is_same else None
    if value.node.primitive == "integer_pow":
        base = number(value.node.inputs[0])
        return None if base is None else base ** value.node.params["y"]
    fold = _FOLDED.get(value.node.primitive)
    operands = [number(operand) for operand in value.node.inputs] if fold is not None else [None]
    if fold is None or any(operand is None for operand in operands):
        return None
    try:
        return float(fold(*operands))
    except (ArithmeticError, ValueError):
        return None


def _of_constant(value: Value) -> float | None:
    array = value.constant
    if isinstance(array, jax.core.Tracer) or math.prod(value.shape) > _LARGEST:
        return None
    if not value.dtype.startswith(("float", "bfloat", "int", "uint", "bool")):
        return None
    flat = np.asarray(array).reshape(-1)
    if flat.size == 0 or not (flat == flat[0]).all():
        return None
    return float(flat[0])
