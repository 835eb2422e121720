"""Compressed arrays: pytree nodes that take the place of an array and decode within a program.

The kinds are in `quantized`, `nested`, `lowrank`, `sparse` and `binary`, the transforms that make them in `transforms`.
Everything works under `jax.jit`; `coding` and `file` write files.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

PyTree = Any
T = TypeVar("T", bound="Compressed")


@dataclasses.dataclass(frozen=True)
class Bits:
    """The memory that an array takes, in bits.

    Attributes:
      payload: bits of the codes or values.
      side: bits of side information for decoding: scales, indices.
    """

    payload: int
    side: int

    @property
    def total(self) -> int:
        """Payload and side information together, in bits."""
        return self.payload + self.side


class Compressed(abc.ABC):
    """An array in fewer bits. Subclasses are frozen dataclasses registered as pytree nodes."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the array that this compresses."""

    @abc.abstractmethod
    def decode(self, dtype: Any = jnp.float32) -> jax.Array:
        """The decoded array."""

    @abc.abstractmethod
    def bits(self) -> Bits:
        """The memory that the compressed array takes, in bits."""

    def take(self, ids: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
        """Rows `ids` of the array, [*ids.shape, *shape[1:]]: an embedding's look-up."""
        return jnp.take(self.decode(dtype), ids, axis=0)

    @property
    def size(self) -> int:
        """Number of elements of the array that this compresses."""
        size = 1
        for n in self.shape:
            size *= n
        return size


def register(kind: type[T]) -> type[T]:
    """Registers a dataclass as a pytree node: fields with `metadata={'static': True}` are part of the structure."""
    return jax.tree_util.register_dataclass(kind)


def is_compressed(x: Any) -> bool:
    """Whether `x` is a compressed array; `is_leaf` of tree functions that shall not look into them."""
    return isinstance(x, Compressed)


def decode(params: PyTree, dtype: Any = jnp.float32) -> PyTree:
    """The tree with every compressed array decoded; other leaves stay as they are."""
    return jax.tree.map(lambda x: x.decode(dtype) if is_compressed(x) else x, params, is_leaf=is_compressed)


def path_name(path: Any) -> str:
    """A path of `jax.tree_util`, dotted: 'blocks.0.mlp.up'."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def named_leaves(params: PyTree) -> dict[str, Any]:
    """Leaves by their dotted path, compressed arrays in one piece."""
    paths, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_compressed)
    return {path_name(path): leaf for path, leaf in paths}


def map_named(function: Callable[[str, Any], Any], params: PyTree) -> PyTree:
    """The tree of `function(dotted path, leaf)`, compressed arrays in one piece."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(path_name(path), leaf), params, is_leaf=is_compressed
    )


def float_leaves(params: PyTree) -> dict[str, Any]:
    """The floating-point arrays of a tree by their dotted path, those within compressed arrays too."""
    paths, _ = jax.tree_util.tree_flatten_with_path(params)
    return {path_name(path): leaf for path, leaf in paths if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)}


def take_rows(factor: Any, entries: int, ids: jax.Array) -> jax.Array:
    """Rows of a matrix [R, K], an array or compressed, that belong to entries `ids` of an array's first axis.

    The array has `entries` of them, each of which has R / entries rows: [*ids.shape, R / entries, K].
    """
    rows = jnp.take(jnp.arange(factor.shape[0]).reshape(entries, -1), ids, axis=0)
    return factor.take(rows) if isinstance(factor, Compressed) else jnp.take(factor, rows, axis=0)


def memory_bits(params: PyTree) -> Bits:
    """The memory that a tree takes, in bits; arrays that are not compressed are all payload."""
    payload = side = 0
    for leaf in named_leaves(params).values():
        if is_compressed(leaf):
            bits = leaf.bits()
            payload, side = payload + bits.payload, side + bits.side
        else:
            payload += 8 * jnp.asarray(leaf).nbytes
    return Bits(payload, side)
