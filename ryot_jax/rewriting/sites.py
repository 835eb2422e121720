"""Sites: places of a graph that an op of `kernels` computes, and the patterns by which they are found."""

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax.rewriting.bindings import Bound, Pattern
from ryot_jax.rewriting.graph import Node, Value, build
from ryot_jax.rewriting.views import base

Shapes = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and dtype of each input of a pattern, by name."""


@dataclasses.dataclass(frozen=True, eq=False)
class Operand:
    """An argument of an op: a value of the graph with its axes in the order of the op's.

    Attributes:
      value: the value.
      labels: for each of its axes the op's axis, None where it has size 1.
      shape: the op's shape; axes that the value lacks are repeated.
    """

    value: Value
    labels: tuple[Any, ...]
    shape: tuple[int, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it is the value as it is."""
        axes = enumerate(self.value.shape)
        return self.shape == self.value.shape and self.labels == tuple(None if n == 1 else axis for axis, n in axes)

    def arranged(self, array: jax.Array) -> jax.Array:
        """The array in the op's order of axes and shape."""
        kept = [axis for axis, label in enumerate(self.labels) if label is not None]
        array = jnp.reshape(array, [array.shape[axis] for axis in kept])
        labels = [self.labels[axis] for axis in kept]
        order = sorted(range(len(labels)), key=lambda i: labels[i])
        array = jnp.transpose(array, order)
        places = {labels[i]: self.shape[labels[i]] for i in order}
        array = jnp.reshape(array, [places.get(axis, 1) for axis in range(len(self.shape))])
        return jnp.broadcast_to(array, self.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """A place that an op computes.

    Attributes:
      op: name of the op.
      root: the value that it computes.
      operands: its arguments.
      call: (implementation, *arrays) -> the root's array, in any dtype.
      words: what it is, for people: `attention, causal`.
      names: names of the operands.
      about: what a fused op has to know; None: no fused op takes the place.
      exact: names of operands that are not rounded to another precision: what is added up from layer to layer.
      rounds: whether products have the dtype of their operands in the op, and not float32.
      made_of: the sites that it is made of; none: it was found as it is.
      passing: a call that returns the operand `x` besides, through which other uses of it are to be read, so that all
        its gradients meet in one pass; None: there is none.
      passes: whether `call` is that call.
    """

    op: str
    root: Value
    operands: tuple[Operand, ...]
    call: Callable[..., Any]
    words: str
    names: tuple[str, ...]
    about: Any = None
    exact: tuple[str, ...] = ("residual",)
    rounds: bool = False
    made_of: "tuple[Site, ...]" = ()
    passing: Callable[..., Any] | None = None
    passes: bool = False

    def part(self, name: str) -> Operand | None:
        """The operand of this name, if there is one."""
        return dict(zip(self.names, self.operands, strict=True)).get(name)

    @functools.cached_property
    def dtype(self) -> str:
        """The dtype in which it is computed: that of the products that it replaces, or else of its first operand."""
        dots = [node for node in self.covered() if node.primitive == "dot_general"]
        of_dots = [value for dot in dots for value in (*dot.inputs, *(dot.outputs if self.rounds else ()))]
        dtypes = {value.dtype for value in of_dots} or {self.operands[0].value.dtype}
        return str(jnp.result_type(*map(jnp.dtype, dtypes)))

    @property
    def keys(self) -> list[str]:
        """Texts that name what it is made of among the sites of a function that is traced again."""
        if self.made_of:
            return [key for site in self.made_of for key in site.keys]
        assert self.root.node is not None
        return [f"{self.op} {self.words} {self.root.shape} {self.root.node.place} {self.root.source}"]

    def covered(self) -> list[Node]:
        """The nodes that it replaces, from the root down to the operands, in no order."""
        if self.made_of:
            return list(dict.fromkeys(node for site in self.made_of for node in site.covered()))
        ends = {operand.value for operand in self.operands}
        found: dict[Node, None] = {}
        pending = [self.root]
        while pending:
            value = pending.pop()
            if (value in ends and value is not self.root) or value.node is None or value.node in found:
                continue
            found[value.node] = None
            pending += value.node.inputs
            if value.inside is not None:
                pending.append(value.inside)
        return list(found)


@dataclasses.dataclass(frozen=True)
class Refused:
    """A place that looked like an op's, and the reason why it is left as it is."""

    op: str
    root: Value
    reason: str


def pattern(
    function: Callable[..., Any],
    shapes: Shapes,
    numbers: Iterable[str] = (),
    optional: Iterable[str] = (),
    whole: Iterable[str] = (),
    weighted: Iterable[str] = (),
) -> Pattern:
    """A reference function as a pattern.

    Args:
      function: a JAX function of its inputs by name, hashable, the same object for each use.
      shapes: its inputs that are arrays.
      numbers: its inputs that stand for numbers.
      optional: arrays that a sum or a product may lack.
      whole: arrays that have all their axes; others may be the same along some of them.
      weighted: arrays that may be a multiple of a value.
    """
    entries = tuple((name, tuple(shape), dtype) for name, (shape, dtype) in shapes.items())
    return _pattern(function, entries, frozenset(numbers), frozenset(optional), frozenset(whole), frozenset(weighted))


@functools.lru_cache(maxsize=4096)
def _pattern(
    function: Callable[..., Any],
    shapes: tuple[tuple[str, tuple[int, ...], str], ...],
    numbers: frozenset[str],
    optional: frozenset[str],
    whole: frozenset[str],
    weighted: frozenset[str],
) -> Pattern:
    shapes = (*shapes, *((name, (), "float32") for name in sorted(numbers)))
    names = [name for name, _, _ in shapes]
    structs = [jax.ShapeDtypeStruct(shape, dtype) for _, shape, dtype in shapes]
    with jax.numpy_rank_promotion("allow"):
        closed = jax.make_jaxpr(lambda *arrays: function(**dict(zip(names, arrays, strict=True))))(*structs)
    graph = build(closed)
    for name, value in zip(names, graph.inputs, strict=True):
        value.name = name
    return Pattern(graph.outputs[0], numbers, optional, whole, weighted)


def above(value: Value, depth: int, through: Collection[str] | None = None) -> Iterator[Node]:
    """The nodes that a value is computed from, nearest first, and nothing beyond products of matrices.

    Args:
      value: the value.
      depth: the number of equations between it and the last nodes; views do not count.
      through: primitives whose operands are looked at; None: all.
    """
    pending, seen = deque([(value, 0)]), set()
    while pending:
        found, distance = pending.popleft()
        node = base(found).node
        if node is None or node in seen or distance > depth:
            continue
        seen.add(node)
        yield node
        if node.primitive != "dot_general" and (through is None or node.primitive in through):
            pending.extend((operand, distance + 1) for operand in node.inputs)


def products_above(value: Value, depth: int, through: Collection[str] | None = None) -> Iterator[Node]:
    """The products of matrices among the nodes of `above`."""
    return (node for node in above(value, depth, through) if node.primitive == "dot_general")


def reaches(value: Value, primitives: Collection[str], depth: int) -> bool:
    """Whether one of these primitives is among the nodes of `above`."""
    return any(node.primitive in primitives for node in above(value, depth))


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without its axes of size 1."""
    return tuple(size for size in shape if size != 1)


def whole(value: Value) -> Operand:
    """An argument that is a value as it is."""
    labels = tuple(None if size == 1 else axis for axis, size in enumerate(value.shape))
    return Operand(value, labels, value.shape)


def operand(bound: Bound, shape: Sequence[int]) -> Operand:
    """The argument that stands for an input of this shape."""
    return Operand(bound.value, bound.labels, tuple(shape))
