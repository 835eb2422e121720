"""Softmax cross-entropy of a product with the output weights, by integer targets."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax import kernels
from ryot_jax.rewriting.bindings import Binding
from ryot_jax.rewriting.graph import Node, Value
from ryot_jax.rewriting.patterns._losses import SPELLINGS, Missing, Spelling, soft_capped, z_term
from ryot_jax.rewriting.sites import Site, above, operand, pattern, products_above, reaches, squeezed
from ryot_jax.rewriting.unify import unify

_DEPTH, _DEPTH_OF_LOG = 24, 10  # equations between the losses and the product, and the logarithm
PLACE = 1  # ops of larger parts of a function are looked for first
ROOTS = {"reduce_sum", "add", *(root for spelling in SPELLINGS for root in spelling.roots)}


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


@dataclasses.dataclass(frozen=True)
class _Form:
    """What is done with the logits of a product and the losses of its rows.

    Attributes:
      spelling: the losses.
      cut: the rows that have any; None: all.
      is_capped: whether logits have a soft cap.
      z: 'rows': losses have a z-loss; 'total': the sum of all has one; '': there is none.
      is_sum: whether the losses are summed.
    """

    spelling: Spelling
    cut: _Cut | None
    is_capped: bool
    z: str
    is_sum: bool

    @property
    def numbers(self) -> frozenset[str]:
        """Names of its numbers."""
        names = {*self.spelling.numbers, *(["cap"] if self.is_capped else []), *(["z"] if self.z else [])}
        return frozenset(names | ({"share"} if self.z == "total" else set()))

    @property
    def roots(self) -> tuple[str, ...]:
        """Primitives of its result."""
        if self.z == "total" or (self.z and not self.is_sum):
            return ("add", "sub")
        return ("reduce_sum",) if self.is_sum else self.spelling.roots

    def __call__(
        self, x: jax.Array, w: jax.Array, targets: jax.Array, bias: jax.Array, **numbers: jax.Array
    ) -> jax.Array:
        """The losses, as a pattern."""
        logits = jnp.einsum("...d,vd->...v", x, w) + bias
        if self.is_capped:
            logits = soft_capped(logits, numbers["cap"])
        if self.cut is not None:
            logits = jax.lax.slice(logits, self.cut.start, self.cut.limit, self.cut.strides)
        losses = self.spelling.function(logits, targets, *(numbers[name] for name in self.spelling.numbers))
        if self.z == "total":
            total = losses if self.spelling.is_total else jnp.sum(losses)
            return self.spelling.sign * numbers["share"] * total + numbers["z"] * jnp.sum(z_term(logits))
        if self.z:
            losses = self.spelling.sign * losses + numbers["z"] * z_term(logits)
        return jnp.sum(losses) if self.is_sum and not self.spelling.is_total else losses


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
    """The slice of the logits that the losses are of."""
    for node in above(value, _DEPTH):
        if node.primitive == "slice" and node.inputs[0].shape == dot.outputs[0].shape:
            params, classes = node.params, node.inputs[0].shape[-1]
            if params["limit_indices"][-1] - params["start_indices"][-1] != classes:
                return None
            return _Cut(params["start_indices"], params["limit_indices"], params["strides"])
    return None


def _forms(value: Value, rows: tuple[int, ...], cut: _Cut | None) -> Iterator[_Form]:
    """The forms that the value may have, by a glance at it."""
    assert value.node is not None
    is_sum = squeezed(value.shape) == ()
    capped = (False, True) if reaches(value, ("tanh",), _DEPTH) else (False,)
    for z in ("", "rows", "total") if is_sum else ("", "rows"):
        for spelling, is_capped in itertools.product(SPELLINGS, capped):
            form = _Form(spelling, cut, is_capped, z, is_sum)
            if value.node.primitive not in form.roots or (spelling.one_axis and len(rows) != 1):
                continue
            if spelling.is_total and (not is_sum or z == "rows"):
                continue
            yield form


def _at(value: Value, rows: tuple[int, ...], width: int, classes: int, cut: _Cut | None) -> Site | None:
    kept = rows
    if cut is not None:
        kept = jax.eval_shape(cut.of_rows, jax.ShapeDtypeStruct((*rows, width), "float32")).shape[:-1]
    if not rows or 0 in (*kept, width, classes) or squeezed(value.shape) not in (squeezed(kept), ()):
        return None
    shapes = {
        "x": ((*rows, width), "float32"),
        "w": ((classes, width), "float32"),
        "targets": (kept, "int32"),
        "bias": ((classes,), "float32"),
    }
    places = [axis for axis, size in enumerate(value.shape) if size != 1]
    for form in _forms(value, kept, cut):
        traced = pattern(form, shapes, form.numbers, {"bias"}, {"x", "w", "targets", "bias"})
        found = unify(traced, value, [*places, *[0] * (len(traced.root.shape) - len(places))])
        terms = None if found is None else _terms(form, found, classes)
        if found is not None and terms is not None:
            names = tuple(name for name in shapes if name in found.arrays)
            return Site(
                "linear_cross_entropy",
                value,
                tuple(operand(found.arrays[name], shapes[name][0]) for name in names),
                functools.partial(_call, form, terms, value.shape, value.dtype),
                " + ".join(["projection", *(["bias"] if "bias" in names else []), "cross-entropy", *terms.words]),
                names,
            )
    return None


@dataclasses.dataclass(frozen=True)
class _Terms:
    """The op's options, and a number times which its losses are the value."""

    factor: float
    soft_cap: float | None
    z_loss: float
    label_smoothing: float

    @property
    def words(self) -> list[str]:
        """What there is besides cross-entropy."""
        words = ["soft cap"] if self.soft_cap is not None else []
        words += ["label smoothing"] if self.label_smoothing else []
        return words + (["z-loss"] if self.z_loss else [])


def _terms(form: _Form, found: Binding, classes: int) -> _Terms | None:
    """The options of the op; None: it has none for these numbers."""
    numbers = found.numbers
    factor = float(form.spelling.sign) if not form.z else numbers.get("share", 1.0)
    smoothing = 0.0
    if "on" in numbers:  # of the spelling's sum, which has the sign of logarithms
        whole = numbers["on"] + numbers["off"] * classes
        smoothing, factor = (numbers["off"] * classes / whole if whole else -1.0), factor * whole
    cap, z = numbers.get("cap"), numbers.get("z", 0.0)
    if not 0 <= smoothing <= 1 or (cap is not None and cap <= 0) or not factor:
        return None
    return _Terms(factor, cap, z / factor, smoothing)


def _call(
    form: _Form,
    terms: _Terms,
    shape: tuple[int, ...],
    dtype: str,
    implementation: str,
    x: jax.Array,
    w: jax.Array,
    targets: jax.Array,
    bias: jax.Array | None = None,
) -> jax.Array:
    x = x if form.cut is None else form.cut.of_rows(x)
    x = x.reshape(-1, x.shape[-1])
    if bias is not None:  # a weight of an input that is always 1
        x = jnp.concatenate([x, jnp.ones((x.shape[0], 1), x.dtype)], axis=1)
        w = jnp.concatenate([w, bias[:, None].astype(w.dtype)], axis=1)
    losses = _losses(
        functools.partial(
            kernels.linear_cross_entropy,
            label_smoothing=terms.label_smoothing,
            z_loss=terms.z_loss,
            soft_cap=terms.soft_cap,
            implementation=implementation,
        ),
        form,
        x,
        w,
        targets.reshape(-1),
    )
    return (terms.factor * losses).reshape(shape).astype(dtype)


def _losses(op: Callable[..., Any], form: _Form, x: jax.Array, w: jax.Array, targets: jax.Array) -> jax.Array:
    """The losses of rows, or their sum, with what the spelling makes of targets that are no class."""
    V = w.shape[0]
    targets = targets if targets.dtype.itemsize >= 4 else targets.astype(jnp.int32)
    missing = form.spelling.missing
    if missing is not Missing.NOTHING:
        targets = jnp.where(targets < 0, targets + V, targets)
    is_class = (targets >= 0) & (targets < V)
    if missing is Missing.NEAREST:
        losses = op(x, w, jnp.clip(targets, 0, V - 1).astype(jnp.int32), reduction="none")
        losses = jnp.where(is_class, losses, jax.lax.stop_gradient(losses))
        return jnp.sum(losses) if form.is_sum else losses
    others = V if missing is Missing.NAN else -1  # of which the op makes NaN, or nothing at all
    targets = jnp.where(is_class, targets, others).astype(jnp.int32)
    losses = op(x, w, targets, reduction="sum")[0] if form.is_sum else op(x, w, targets, reduction="none")
    if missing is Missing.CONSTANT_NAN:
        losses = losses + jnp.where(jnp.all(is_class) if form.is_sum else is_class, 0.0, jnp.nan)
    return losses
