"""Softmax cross-entropy of a product with the output weights, by integer targets."""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ryot_jax import kernels
from ryot_jax.rewriting.graph import Node, Value
from ryot_jax.rewriting.sites import Site, above, operand, pattern, products_above, reaches, squeezed
from ryot_jax.rewriting.unify import unify
from ryot_jax.rewriting.views import base

_DEPTH, _DEPTH_OF_LOG = 24, 8  # equations between the losses and the product, and the logarithm


def _logits(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.einsum("...d,vd->...v", x, w)


def _optax(logits: jax.Array, targets: jax.Array) -> jax.Array:
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def _taken_from_logits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    taken = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - taken


# Logarithms of probabilities, whose negatives are the losses.
def _taken(logits: jax.Array, targets: jax.Array) -> jax.Array:
    logs = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(logs, targets[..., None], axis=-1)


def _indexed(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(logits, axis=-1)[jnp.arange(targets.shape[0]), targets]


def _one_hot(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.sum(jax.nn.one_hot(targets, logits.shape[-1]) * jax.nn.log_softmax(logits, axis=-1), axis=-1)


def _wrapped(targets: jax.Array, classes: int) -> jax.Array:
    """As indexing does: negative targets count from the end, and others beyond the classes give NaN."""
    wrapped = jnp.where(targets < 0, targets + classes, targets)
    return jnp.where(wrapped < 0, classes, wrapped)


def _dropped(targets: jax.Array, classes: int) -> jax.Array:
    """As a one-hot code does: targets beyond the classes are all zeros, and add nothing."""
    return jnp.where((targets < 0) | (targets >= classes), -1, targets)


def _one_hot_total(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.sum(jax.nn.one_hot(targets, logits.shape[-1]) * jax.nn.log_softmax(logits, axis=-1))


@dataclasses.dataclass(frozen=True)
class _Spelling:
    """A way to write losses.

    Attributes:
      function: of logits and targets.
      roots: primitives of its result.
      sign: times the losses it is the result.
      normalized: targets as the op takes them.
    """

    function: Callable[..., jax.Array]
    roots: tuple[str, ...]
    sign: int
    normalized: Callable[[jax.Array, int], jax.Array]


_SPELLINGS = (
    _Spelling(_optax, ("sub",), 1, _wrapped),
    _Spelling(_taken_from_logits, ("sub",), 1, _wrapped),
    _Spelling(_taken, ("gather",), -1, _wrapped),
    _Spelling(_indexed, ("gather",), -1, _wrapped),
    _Spelling(_one_hot, ("reduce_sum",), -1, _dropped),
    _Spelling(_one_hot_total, ("reduce_sum",), -1, _dropped),
)
PLACE = 1  # ops of larger parts of a function are looked for first
ROOTS = {"reduce_sum", *(root for spelling in _SPELLINGS for root in spelling.roots)}


@dataclasses.dataclass(frozen=True)
class _Cut:
    """The part of the rows that has losses, such as all places but the last one: bounds of a slice of the logits."""

    start: tuple[int, ...]
    limit: tuple[int, ...]
    strides: tuple[int, ...] | None

    def of_rows(self, x: jax.Array) -> jax.Array:
        """The part of an array with the axes of rows and one more."""
        rows = x.ndim - 1
        strides = None if self.strides is None else (*self.strides[:rows], 1)
        return jax.lax.slice(x, (*self.start[:rows], 0), (*self.limit[:rows], x.shape[-1]), strides)


def _of_product(
    spelling: Callable[..., jax.Array],
    is_sum: bool,
    cut: _Cut | None,
    x: jax.Array,
    w: jax.Array,
    targets: jax.Array,
) -> jax.Array:
    logits = _logits(x, w)
    if cut is not None:
        logits = jax.lax.slice(logits, cut.start, cut.limit, cut.strides)
    losses = spelling(logits, targets)
    return jnp.sum(losses) if is_sum else losses


@functools.cache
def _whole(function: Callable[..., jax.Array], is_sum: bool, cut: _Cut | None) -> Callable[..., jax.Array]:
    return functools.partial(_of_product, function, is_sum and function is not _one_hot_total, cut)


def find(value: Value) -> Site | None:
    """The losses that the value is, or their sum."""
    if value.node is None or not reaches(value, ("log",), _DEPTH_OF_LOG):
        return None
    for dot in itertools.islice(products_above(value, _DEPTH), 2):
        contracted, batch = dot.params["dimension_numbers"]
        if batch[0] or len(contracted[0]) != 1:
            continue
        width, sizes = dot.inputs[0].shape[contracted[0][0]], dot.outputs[0].shape
        for axis in dict.fromkeys((len(sizes) - 1, 0)):  # of the classes: that of the left or of the right operand
            rows = tuple(size for place, size in enumerate(sizes) if place != axis)
            for cut in (_cut(value, dot) if axis == len(sizes) - 1 else None, None):
                site = _at(value, squeezed(rows) if cut is None else rows, width, sizes[axis], cut)
                if site is not None:
                    return site
    return None


def _cut(value: Value, dot: Node) -> _Cut | None:
    """The slice of the product that the losses are of."""
    for node in above(value, _DEPTH):
        if node.primitive == "slice" and base(node.inputs[0]).node is dot:
            params, whole = node.params, node.inputs[0].shape
            if whole != dot.outputs[0].shape or params["limit_indices"][-1] - params["start_indices"][-1] != whole[-1]:
                return None
            return _Cut(params["start_indices"], params["limit_indices"], params["strides"])
    return None


def _at(value: Value, rows: tuple[int, ...], width: int, classes: int, cut: _Cut | None) -> Site | None:
    kept = rows
    if cut is not None:
        kept = jax.eval_shape(cut.of_rows, jax.ShapeDtypeStruct((*rows, width), "float32")).shape[:-1]
    if not rows or squeezed(value.shape) not in (squeezed(kept), ()):
        return None
    shapes = {
        "x": ((*rows, width), "float32"),
        "w": ((classes, width), "float32"),
        "targets": (kept, "int32"),
    }
    is_sum = squeezed(value.shape) == ()
    places = [axis for axis, size in enumerate(value.shape) if size != 1]
    assert value.node is not None
    for spelling in _SPELLINGS:
        if value.node.primitive not in (("reduce_sum",) if is_sum else spelling.roots):
            continue
        if (spelling.function is _indexed and len(kept) != 1) or (spelling.function is _one_hot_total and not is_sum):
            continue
        traced = pattern(_whole(spelling.function, is_sum, cut), shapes, (), (), {"x", "w", "targets"})
        found = unify(traced, value, [*places, *[0] * (len(traced.root.shape) - len(places))])
        if found is not None:
            return Site(
                "linear_cross_entropy",
                value,
                tuple(operand(found.arrays[name], shape) for name, (shape, _) in shapes.items()),
                functools.partial(_call, spelling, cut, value.shape, value.dtype),
                "projection + cross-entropy",
            )
    return None


def _call(
    spelling: _Spelling,
    cut: _Cut | None,
    shape: tuple[int, ...],
    dtype: str,
    implementation: str,
    x: jax.Array,
    w: jax.Array,
    targets: jax.Array,
) -> jax.Array:
    x = x if cut is None else cut.of_rows(x)
    losses = kernels.linear_cross_entropy(
        x.reshape(-1, x.shape[-1]),
        w,
        spelling.normalized(targets.reshape(-1).astype(jnp.int32), w.shape[0]),
        reduction="none" if shape else "sum",
        implementation=implementation,
    )
    losses = losses if shape else losses[0]
    return (spelling.sign * losses).reshape(shape).astype(dtype)
