"""Rows of a table by integer indices, and learned positions that are added to them."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.lax import GatherScatterMode

from ryot_jax import kernels
from ryot_jax.rewriting.graph import Node, Value
from ryot_jax.rewriting.sites import Operand, Site, whole
from ryot_jax.rewriting.views import axes_of, of_operand, strip

PLACE = 5  # ops of larger parts of a function are looked for first
ROOTS = {"gather", "add"}


def find(value: Value) -> Site | None:
    """The look-up whose result the value is, with positions if it is a sum."""
    node = value.node
    assert node is not None
    if node.primitive == "gather":
        return _site(value, node, None) if _is_of_rows(node) else None
    for rows, other in (node.inputs, node.inputs[::-1]):
        labels = axes_of(value.shape, range(len(value.shape)))
        found, its_labels = strip(rows, of_operand(rows, value, labels))
        if found.node is None or not _is_of_rows(found.node) or found.shape != value.shape or its_labels != labels:
            continue
        positions, p_labels = strip(other, of_operand(other, value, labels))
        last = labels[-2:]
        if None not in last and len(last) == 2 and set(p_labels) - {None} == set(last):
            places = tuple(None if label is None else last.index(label) for label in p_labels)
            return _site(value, found.node, Operand(positions, places, value.shape[-2:]))
    return None


def _is_of_rows(node: Node) -> bool:
    """Whether a node takes whole rows of a matrix, and fills rows that are not there with NaN if with anything."""
    if node.primitive != "gather" or len(node.inputs[0].shape) != 2:
        return False
    table, indices = node.inputs
    if indices.dtype.endswith("64"):  # which XLA cuts off forward, and not backward
        return False
    dimensions, fill = node.params["dimension_numbers"], node.params["fill_value"]
    rank = len(node.outputs[0].shape)
    return bool(
        tuple(dimensions.offset_dims) == (rank - 1,)
        and tuple(dimensions.collapsed_slice_dims) == (0,)
        and tuple(dimensions.start_index_map) == (0,)
        and not dimensions.operand_batching_dims
        and tuple(node.params["slice_sizes"]) == (1, table.shape[1])
        and indices.shape[-1:] == (1,)
        and (node.params["mode"] != GatherScatterMode.FILL_OR_DROP or fill is None or math.isnan(fill))
    )


def _site(value: Value, gather: Node, positions: Operand | None) -> Site:
    table, indices = gather.inputs
    parts = [("table", whole(table)), ("indices", whole(indices))]
    parts += [("positions", positions)] if positions is not None else []
    mode = gather.params["mode"]
    return Site(
        "embedding",
        value,
        tuple(part for _, part in parts),
        functools.partial(_call, mode, value.dtype),
        "embedding" + (" + positions" if positions is not None else ""),
        tuple(name for name, _ in parts),
        exact=("table", "positions"),
    )


def _call(
    mode: GatherScatterMode,
    dtype: str,
    implementation: str,
    table: jax.Array,
    indices: jax.Array,
    positions: jax.Array | None = None,
) -> jax.Array:
    look_up = functools.partial(kernels.embedding, dtype=dtype, implementation=implementation)
    rows, V = indices[..., 0], table.shape[0]
    rows = rows if rows.dtype == jnp.uint32 else rows.astype(jnp.int32)
    if mode == GatherScatterMode.FILL_OR_DROP:
        return look_up(table, jnp.where((rows < 0) | (rows >= V), V, rows).astype(jnp.int32), positions)
    nearest = jnp.clip(rows, 0, V - 1).astype(jnp.int32)
    if mode != GatherScatterMode.PROMISE_IN_BOUNDS:
        return look_up(table, nearest, positions)
    # Of an index that breaks the promise the nearest row is taken, and its gradient is dropped.
    y = look_up(table, nearest)
    y = jnp.where((nearest == rows)[..., None], y, jax.lax.stop_gradient(y))
    if positions is None:
        return y
    nothing = jnp.zeros((1, table.shape[1]), table.dtype)  # for the op's own sum of the positions' gradients
    return y + look_up(nothing, jnp.zeros_like(nearest), positions)
