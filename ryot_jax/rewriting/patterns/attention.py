"""Attention: a softmax over the products of queries and keys, times the values."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax.rewriting import masks
from ryot_jax.rewriting.bindings import Binding, Bound
from ryot_jax.rewriting.graph import Node, Value
from ryot_jax.rewriting.masks import Mask
from ryot_jax.rewriting.normal import unscaled
from ryot_jax.rewriting.patterns._attention_op import AttentionAbout, Layout, call, factor_of
from ryot_jax.rewriting.sites import Operand, Refused, Site, operand, pattern, reaches
from ryot_jax.rewriting.unify import unify
from ryot_jax.rewriting.views import base

PLACE = 2  # ops of larger parts of a function are looked for first
ROOTS = {"dot_general"}
_RANDOM = ("random_bits", "threefry2x32", "shift_right_logical")
_DEPTH_OF_SCORES = 12  # equations between the weights and the product of queries and keys


def _softmax(scores: jax.Array) -> jax.Array:
    shifted = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    return shifted / jnp.sum(shifted, axis=-1, keepdims=True)


def _bare_softmax(scores: jax.Array) -> jax.Array:
    return jnp.exp(scores) / jnp.sum(jnp.exp(scores), axis=-1, keepdims=True)


def _library_softmax(scores: jax.Array) -> jax.Array:
    return jax.nn.softmax(scores, axis=-1)


# Scores have the axes of batch, then of queries, then of keys.
def _plain(scores: jax.Array) -> jax.Array:
    return scores


def _selected(scores: jax.Array, seen: jax.Array, fill: jax.Array) -> jax.Array:
    return jnp.where(seen, scores, fill)


def _filled(scores: jax.Array, hidden: jax.Array, fill: jax.Array) -> jax.Array:
    return jnp.where(hidden, fill, scores)


def _added(scores: jax.Array, summand: jax.Array) -> jax.Array:
    return scores + summand


_MASKS: dict[Callable[..., jax.Array], dict[str, str]] = {
    _plain: {},
    _selected: {"seen": "bool"},
    _filled: {"hidden": "bool"},
    _added: {"summand": "float32"},
}
_SOFTMAXES = (_softmax, _library_softmax, _bare_softmax)


def _attention(
    softmax: Any,
    masked: Any,
    letters: "_Letters",
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    **mask: Any,
) -> jax.Array:
    scores = jnp.einsum(letters.scores, q, k) * scale
    return jnp.einsum(letters.values, softmax(masked(scores, **mask)), v)


@dataclasses.dataclass(frozen=True)
class _Letters:
    """Axes by letters: a, b, ... of batch, q and r of queries, s of keys, k of width."""

    batch: str
    queries: str
    weights_first: bool

    @property
    def scores(self) -> str:
        return f"{self.batch}{self.queries}k,{self.batch}sk->{self.batch}{self.queries}s"

    @property
    def values(self) -> str:
        outcome = f"{self.queries}k" if self.weights_first else f"k{self.queries}"
        return f"{self.batch}{self.queries}s,{self.batch}sk->{self.batch}{outcome}"


@functools.cache
def _spelling(softmax: Any, masked: Any, letters: _Letters) -> Callable[..., jax.Array]:
    return functools.partial(_attention, softmax, masked, letters)


def find(value: Value) -> Site | Refused | None:
    """The attention whose result the value is."""
    node = value.node
    assert node is not None
    for weights_first in (True, False):
        found = _at(value, node, weights_first)
        if found is not None:
            return found
    return None


def _at(value: Value, dot: Node, weights_first: bool) -> Site | Refused | None:
    contracted, batch = dot.params["dimension_numbers"]
    side = 0 if weights_first else 1
    weights, v = dot.inputs[side], dot.inputs[1 - side]
    if len(contracted[0]) != 1:
        return None
    if not _has_exponential(weights):
        is_dropped = reaches(weights, _RANDOM, _DEPTH_OF_SCORES) and reaches(weights, ("exp",), _DEPTH_OF_SCORES)
        return Refused("attention", value, "there is dropout between softmax and values") if is_dropped else None
    sizes = {
        "batch": [weights.shape[axis] for axis in batch[side] if weights.shape[axis] != 1],
        "queries": _free(weights, contracted[side], batch[side]),
        "width": _free(v, contracted[1 - side], batch[1 - side]),
    }
    keys = weights.shape[contracted[side][0]]
    if len(sizes["queries"]) not in (1, 2) or len(sizes["width"]) != 1 or len(sizes["batch"]) > 4 or keys < 2:
        return None
    letters = _Letters("abcd"[: len(sizes["batch"])], "qr"[: len(sizes["queries"])], weights_first)
    width = sizes["width"][0]
    shapes = {
        "q": ((*sizes["batch"], *sizes["queries"], width), "float32"),
        "k": ((*sizes["batch"], keys, width), "float32"),
        "v": ((*sizes["batch"], keys, width), "float32"),
    }
    scores = (*sizes["batch"], *sizes["queries"], keys)
    places = [axis for axis, size in enumerate(value.shape) if size != 1]
    for masked, inputs in _MASKS.items():
        more = {name: (scores, dtype) for name, dtype in inputs.items()}
        numbers = {"scale"} | ({"fill"} if inputs and "summand" not in inputs else set())
        for softmax in _SOFTMAXES:
            found = unify(
                pattern(_spelling(softmax, masked, letters), {**shapes, **more}, numbers, (), (), {"summand"}),
                value,
                places,
            )
            if found is not None:
                return _site(value, found, sizes, keys, weights_first)
    if reaches(weights, ("tanh",), _DEPTH_OF_SCORES):
        return Refused("attention", value, "its scores have a soft cap, which no kernel has")
    return Refused(
        "attention", value, "its softmax or its mask is spelled in a way that is not known, or is no softmax"
    )


def _free(value: Value, contracted: Any, batch: Any) -> list[int]:
    taken = {int(axis) for axis in (*contracted, *batch)}
    return [size for axis, size in enumerate(value.shape) if axis not in taken and size != 1]


def _has_exponential(weights: Value) -> bool:
    """Whether the value is a softmax at a glance: it is divided, and what is divided is an exponential."""
    node = base(weights).node
    if node is None or node.primitive not in ("div", "mul"):
        return False
    operands = [base(operand).node for operand in node.inputs]
    return any(operand is not None and operand.primitive == "exp" for operand in operands)


def _site(value: Value, found: Binding, sizes: dict[str, list[int]], keys: int, weights_first: bool) -> Site | Refused:
    n_batch, n_queries = len(sizes["batch"]), len(sizes["queries"])
    # The op's axis of heads is the last one of batch; queries that share keys are more heads.
    key_axis = n_batch + n_queries
    query_axes = range(n_batch, n_batch + n_queries)
    best: tuple[Mask, int] | None = None
    for query in query_axes:
        mask = _mask(found, query, key_axis)
        if mask is not None and not any(key_axis in labels and {*labels} & {*query_axes} for _, labels in mask.parts):
            best = (mask, query)
            break
    if best is None:
        return Refused("attention", value, "its mask is neither proven to be causal nor one of padding")
    mask, query = best
    if mask.causal and sizes["queries"][query - n_batch] != keys:
        return Refused("attention", value, "it is causal with fewer queries than keys")
    group_axis = next((axis for axis in query_axes if axis != query), None)
    of_parts = {label for _, labels in mask.parts for label in labels if label is not None}
    if group_axis in of_parts:
        return Refused("attention", value, "its mask differs between heads")
    head = max((axis for axis in range(n_batch) if axis not in of_parts), default=None)
    all_sizes = [*sizes["batch"], *sizes["queries"], keys]
    parts = [
        Operand(part, labels, tuple(size if axis in labels else 1 for axis, size in enumerate(all_sizes)))
        for part, labels in mask.parts
    ]
    fill = found.numbers.get("fill", masks.HIDDEN)
    if "fill" in found.numbers and fill > masks.HIDDEN:
        return Refused(
            "attention", value, f"its mask fills scores with {fill:g}, of which a softmax may leave something"
        )
    shapes = {
        "q": (*sizes["batch"], *sizes["queries"], sizes["width"][0]),
        "k": (*sizes["batch"], keys, sizes["width"][0]),
        "v": (*sizes["batch"], keys, sizes["width"][0]),
    }
    scale = found.numbers["scale"]
    bounds = {name: found.arrays[name] for name in ("q", "k", "v")}
    for name in ("q", "k"):  # queries that are divided by the root of the width before the product
        coefficient, base_value, labels = unscaled(bounds[name].value, bounds[name].labels)
        bounds[name] = Bound(base_value, labels)
        scale *= coefficient
    operands = [operand(bounds[name], shapes[name]) for name in bounds]
    layout = Layout(n_batch, head, query, group_axis, weights_first, value.shape, value.dtype)
    factor = factor_of(scale, sizes["width"][0])
    about = AttentionAbout(layout, mask.causal, mask.window, factor, fill == -math.inf)
    what = [("causal" if mask.causal else "not causal"), *([f"window {mask.window}"] if mask.window else [])]
    what += ["padding mask"] if parts else []
    return Site(
        "attention",
        value,
        (*operands, *parts),
        functools.partial(call, about),
        ", ".join(["attention", *what]),
        ("q", "k", "v", *(f"hiding.{i}" for i in range(len(parts)))),
        about,
    )


def _mask(found: Binding, query: int, key: int) -> Mask | None:
    if "seen" in found.arrays:
        bound = found.arrays["seen"]
        return masks.of_bool(bound.value, bound.labels, query, key)
    if "hidden" in found.arrays:
        bound = found.arrays["hidden"]
        return masks.of_hidden(bound.value, bound.labels, query, key)
    if "summand" in found.arrays:
        bound = found.arrays["summand"]
        outcome = masks.of_summand(bound.value, bound.labels, bound.weight, query, key)
        if outcome is None or (outcome[0].parts and outcome[1] > masks.REPLACES):
            # A query that sees no key would get other numbers: its scores would still count.
            return None
        return outcome[0]
    return Mask()
