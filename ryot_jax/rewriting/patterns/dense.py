"""Dense layers: a product with weights, its bias, its activation and the sum with a residual."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from ryot_jax.rewriting.graph import Node, Value
from ryot_jax.rewriting.layers import LayerAbout, call_layer, is_piece, piece
from ryot_jax.rewriting.sites import Site, operand, pattern, products_above, reaches, squeezed
from ryot_jax.rewriting.unify import unify
from ryot_jax.rewriting.views import base

_LOOKED_THROUGH = {"add", "mul", "tanh", "integer_pow", "square", "max", "sub", "neg", "div", "logistic", "exp"}
_DEPTH = 14  # equations between a root and its product


def _product(n_summed: int, axes: tuple[int, ...], x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.transpose(jnp.tensordot(x, w, n_summed), axes)


def _bias(rows: int, axes: tuple[int, ...], bias: jax.Array) -> jax.Array:
    return jnp.transpose(jnp.reshape(bias, (1,) * rows + bias.shape), axes)


def _layer(
    activation: Callable[[jax.Array], jax.Array],
    rows: int,
    n_summed: int,
    axes: tuple[int, ...],
    x: jax.Array,
    w: jax.Array,
    bias: jax.Array,
    residual: jax.Array | None = None,
) -> jax.Array:
    y = activation(_product(n_summed, axes, x, w) + _bias(rows, axes, bias))
    return y if residual is None else y + residual


def _gated(
    silu: Callable[[jax.Array], jax.Array],
    rows: int,
    n_summed: int,
    axes: tuple[int, ...],
    x: jax.Array,
    w: jax.Array,
    bias: jax.Array,
    w_1: jax.Array,
    bias_1: jax.Array,
) -> jax.Array:
    gate = _product(n_summed, axes, x, w) + _bias(rows, axes, bias)
    return silu(gate) * (_product(n_summed, axes, x, w_1) + _bias(rows, axes, bias_1))


def _silu_by_hand(h: jax.Array) -> jax.Array:
    return h / (1 + jnp.exp(-h))


def _none(h: jax.Array) -> jax.Array:
    return h


def _gelu(h: jax.Array) -> jax.Array:
    return jax.nn.gelu(h, approximate=True)


def _relu2(h: jax.Array) -> jax.Array:
    return jnp.square(jnp.maximum(h, 0.0))


@dataclasses.dataclass(frozen=True)
class _Spelling:
    """A way to write a layer.

    Attributes:
      activation: the op's.
      function: the layer, of the numbers of rows' and of summed axes, the order of the result's axes, and arrays.
      roots: primitives of its result.
      pieces: the number of its matrices of weights.
    """

    activation: str
    function: Callable[..., jax.Array]
    roots: tuple[str, ...]
    pieces: int = 1


_SPELLINGS = (
    _Spelling("gelu", functools.partial(_layer, _gelu), ("mul",)),
    _Spelling("relu2", functools.partial(_layer, _relu2), ("square", "integer_pow", "mul")),
    _Spelling("swiglu", functools.partial(_gated, jax.nn.silu), ("mul",), 2),
    _Spelling("swiglu", functools.partial(_gated, _silu_by_hand), ("mul", "div"), 2),
    _Spelling("none", functools.partial(_layer, _none), ("add", "dot_general")),
)
PLACE = 4  # ops of larger parts of a function are looked for first
ROOTS = {root for spelling in _SPELLINGS for root in spelling.roots}


@functools.cache
def _traced(spelling: _Spelling, rows: int, n_summed: int, axes: tuple[int, ...]) -> Callable[..., jax.Array]:
    return functools.partial(spelling.function, rows, n_summed, axes)


def find(value: Value) -> Site | None:
    """The layer whose result the value is, the largest one."""
    if value.node is None or value.dtype == "float64":
        return None
    if value.node.primitive in ("mul", "div") and not reaches(value, ("tanh", "max", "logistic", "exp"), 6):
        return None
    for dot in itertools.islice(products_above(value, _DEPTH, _LOOKED_THROUGH), 2):
        for x, w, x_axes, w_axes in _orientations(dot):
            site = _at(value, dot, x, w, x_axes, w_axes)
            if site is not None:
                return site
    return None


def _orientations(dot: Node) -> Iterator[tuple[Value, Value, tuple[int, ...], tuple[int, ...]]]:
    """Both operands as rows and as weights, the likelier one first, with the axes of each that are summed over."""
    contracted, batch = dot.params["dimension_numbers"]
    if batch[0]:
        return
    left, right = dot.inputs
    sides = [(left, right, tuple(contracted[0]), tuple(contracted[1]))]
    sides.append((right, left, tuple(contracted[1]), tuple(contracted[0])))
    # Weights are arguments of the function; the rows were computed.
    sides.sort(key=lambda side: not _is_given(side[1]))
    yield sides[0]


def _is_given(value: Value) -> bool:
    return base(value).node is None


def _at(
    value: Value, dot: Node, x: Value, w: Value, x_summed: tuple[int, ...], w_summed: tuple[int, ...]
) -> Site | None:
    summed = [x.shape[axis] for axis in x_summed]
    rows = [size for axis, size in enumerate(x.shape) if axis not in x_summed]
    outs = [size for axis, size in enumerate(w.shape) if axis not in w_summed]
    result = rows + outs
    if not rows or not outs or any(math.prod(sizes) in (0, 1) for sizes in (rows, summed, outs)):
        return None
    n_rows = len(rows)
    rows_first, outs_first = tuple(range(len(result))), (*range(n_rows, len(result)), *range(n_rows))
    # The order of the product's axes may have been turned since.
    orders = (rows_first, outs_first) if x is dot.inputs[0] else (outs_first, rows_first)
    for axes in orders:
        shape = tuple(result[axis] for axis in axes)
        if squeezed(shape) == squeezed(value.shape):
            site = _in_order(value, dot, rows, summed, outs, axes, shape)
            if site is not None:
                return site
    return None


def _in_order(
    value: Value,
    dot: Node,
    rows: list[int],
    summed: list[int],
    outs: list[int],
    axes: tuple[int, ...],
    shape: tuple[int, ...],
) -> Site | None:
    places = _places(shape, value.shape)
    is_in_order = axes == tuple(range(len(axes))) == places
    for spelling in _SPELLINGS:
        if (
            value.node is None
            or value.node.primitive not in spelling.roots
            or (spelling.pieces > 1 and not is_in_order)
        ):
            continue
        shapes = {"x": ((*rows, *summed), "float32")}
        for i in range(spelling.pieces):
            shapes |= {piece("w", i): ((*summed, *outs), "float32"), piece("bias", i): (tuple(outs), "float32")}
        residuals = [{"residual": (shape, "float32")}, {}] if spelling.activation == "none" else [{}]
        for residual in residuals:
            traced = pattern(
                _traced(spelling, len(rows), len(summed), axes),
                shapes | residual,
                (),
                {name for name in shapes if is_piece(name, "bias")},
                {"residual", *(name for name in shapes if not is_piece(name, "bias"))},
            )
            found = unify(traced, value, places)
            if found is None or (residual and value.node is dot):
                continue
            all_shapes = shapes | residual
            names = tuple(name for name in all_shapes if name in found.arrays)
            activation = spelling.activation
            return Site(
                "dense",
                value,
                tuple(operand(found.arrays[name], all_shapes[name][0]) for name in names),
                functools.partial(call_layer, activation, names, len(summed), axes, value.shape, value.dtype),
                " + ".join(["dense", *([activation] if activation != "none" else []), *list(residual)]),
                names,
                LayerAbout(activation, len(summed)) if is_in_order else None,
                rounds=True,
            )
    return None


def _places(shape: tuple[int, ...], given: tuple[int, ...]) -> tuple[int, ...]:
    """The axis of the value for each axis of the pattern's result; both have the same sizes but for ones."""
    kept = iter([axis for axis, size in enumerate(given) if size != 1])
    return tuple(0 if size == 1 else next(kept) for size in shape)
