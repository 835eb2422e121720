"""The cost of a function, and the part of it that ops take: FLOPs of products, bytes of everything else."""

import math
from collections.abc import Iterable, Iterator

import jax.numpy as jnp

from ryot_jax.rewriting.graph import Graph, Node, Value
from ryot_jax.rewriting.plan import Plan

_VIEWS = {
    "reshape",
    "squeeze",
    "expand_dims",
    "broadcast_in_dim",
    "stop_gradient",
    "copy",
    "split",
    "slice",
    "transpose",
}
_PRODUCTS = {"dot_general", "conv_general_dilated"}


def with_bodies(plan: Plan, times: int = 1) -> Iterator[tuple[Plan, int]]:
    """A plan and those within it, with how often each is evaluated; of a loop whose end is not known, once."""
    yield plan, times
    for node, bodies in plan.bodies.items():
        for body in bodies:
            yield from with_bodies(body, times * _times(node))


def shares(plan: Plan) -> tuple[float, float]:
    """The parts that ops take: of the FLOPs of products, and of the bytes that other equations read and write.

    Bytes are those of operands and results of each equation by itself, without the ones that only rearrange; a compiler
    that fuses equations moves fewer. Convolutions count as neither.
    """
    ours, whole = [0.0, 0.0], [0.0, 0.0]
    for inner, times in with_bodies(plan):
        kept = set(inner.nodes)
        taken = {node for site in inner.sites for node in site.covered()} - kept
        left = kept | {node for step in kept if step not in inner.bodies for node in _within(step.bodies)}
        for i, cost in enumerate((_flops, _bytes)):
            mine = times * sum(map(cost, taken))
            ours[i] += mine
            whole[i] += mine + times * sum(map(cost, left))
    return ours[0] / whole[0] if whole[0] else 0.0, ours[1] / whole[1] if whole[1] else 0.0


def _within(bodies: Iterable[Graph]) -> Iterator[Node]:
    return (node for body in bodies for graph in body.walk() for node in graph.nodes)


def _times(node: Node) -> int:
    return int(node.params["length"]) if node.primitive == "scan" else 1


def _flops(node: Node) -> float:
    if node.primitive != "dot_general":
        return 0.0
    contracted = node.params["dimension_numbers"][0][0]
    return 2.0 * math.prod(node.outputs[0].shape) * math.prod(node.inputs[0].shape[int(axis)] for axis in contracted)


def _bytes(node: Node) -> float:
    if node.primitive in _PRODUCTS or node.primitive in _VIEWS or node.bodies:
        return 0.0
    return float(sum(map(_size, (*node.inputs, *node.outputs))))


def _size(value: Value) -> int:
    try:
        return math.prod(value.shape) * jnp.dtype(value.dtype).itemsize
    except TypeError:
        return 0  # a key of random numbers, or a token
