"""A jaxpr as a graph of values: calls inlined, equal computations merged, control flow kept as nodes with bodies.

The nodes keep their equations, so that what is not replaced is evaluated exactly as it was written. A function with a
derivative rule of the user's own (`jax.custom_vjp`) is one node without an inside. One with `jax.custom_jvp` is a node
too, but its outputs know the values `inside` that they are equal to, for patterns to look at.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend import core

_INLINED = {"jit", "pjit", "closed_call", "core_call"}
REMAT = ("remat2", "checkpoint", "remat")  # by version of JAX
_BODIES = dict.fromkeys(("scan", "shard_map", *REMAT), "jaxpr") | {"while": "body_jaxpr", "cond": "branches"}
_KEPT_BYTES = 64  # constants up to this size are merged by value, larger ones by identity


@dataclasses.dataclass(eq=False, slots=True)
class Value:
    """An array of the graph: an input, a constant or an output of a node.

    Attributes:
      shape: its shape.
      dtype: the name of its dtype; '' where it has none.
      node: the node that computes it; None for inputs and constants.
      index: which of the node's outputs it is, or which of the graph's inputs.
      constant: the array, for a constant that is known; else None.
      name: the name of a pattern's input, see `pattern`.
      inside: a value equal to it within a function with a custom JVP rule.
      outer: for an input of a body, the same value in the graph around it.
      number: the cache of `numbers.number`.
    """

    shape: tuple[int, ...]
    dtype: str
    node: "Node | None" = None
    index: int = 0
    constant: Any = None
    name: str | None = None
    inside: "Value | None" = None
    outer: "Value | None" = None
    number: float | None = math.nan

    @property
    def source(self) -> str:
        """The line of the caller's code that computes it: `file:line`, or ''."""
        if self.node is None:
            return ""
        file, _, line = source_of(self.node.eqn, self.node.caller).rpartition(":")
        path = Path(file)
        return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}" if file else ""


@dataclasses.dataclass(eq=False, slots=True)
class Node:
    """An equation of the graph.

    Attributes:
      primitive: name of its primitive.
      params: parameters of the primitive.
      inputs: operands.
      outputs: results.
      eqn: the equation of the jaxpr that it was made of.
      caller: the equation of the call that it was inlined from, or None.
      place: its place in the order of evaluation.
      bodies: the graphs of the functions that it calls.
      function: the cache of `evaluate`.
    """

    primitive: str
    params: dict[str, Any]
    inputs: tuple[Value, ...]
    eqn: Any
    caller: Any
    place: int
    outputs: list[Value] = dataclasses.field(default_factory=list)
    bodies: "tuple[Graph, ...]" = ()
    function: Callable[..., list[Any]] | None = None

    def evaluate(self, operands: Sequence[Any]) -> list[Any]:
        """The node's results, by its equation as it was written; None for those that nothing reads."""
        if self.function is None:
            self.function = _function_of(self.eqn)
        return self.function(*operands)


@dataclasses.dataclass(eq=False, slots=True)
class Graph:
    """A function as a graph.

    Attributes:
      inputs: its arguments, flattened.
      outputs: its results, flattened.
      nodes: all equations, in the order of evaluation.
    """

    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node]

    def walk(self) -> "Iterator[Graph]":
        """This graph and all graphs within it."""
        yield self
        for node in self.nodes:
            for body in node.bodies:
                yield from body.walk()


def build(closed: core.ClosedJaxpr) -> Graph:
    """The graph of a closed jaxpr."""
    builder = _Builder()
    inputs = [_of_aval(variable.aval, index=i) for i, variable in enumerate(closed.jaxpr.invars)]
    outputs = builder.inline(closed.jaxpr, closed.consts, inputs)
    return Graph(inputs, outputs, builder.nodes)


@functools.cache
def _nameless() -> Any:
    """The debugging information of a jaxpr whose arguments have no names."""
    return jax.make_jaxpr(lambda: 0)().jaxpr.debug_info.with_unknown_names()


def _function_of(eqn: Any) -> Callable[..., list[Any]]:
    """An equation as a function of its operands: a jaxpr of one, so that JAX itself knows how to call its primitive."""
    places = {atom: i for i, atom in enumerate(eqn.invars) if not isinstance(atom, core.Literal)}
    kept = [i for i, variable in enumerate(eqn.outvars) if type(variable).__name__ != "DropVar"]
    outvars = [eqn.outvars[i] for i in kept]
    jaxpr = core.Jaxpr([], list(places), outvars, [eqn], effects=eqn.effects, debug_info=_nameless())
    function = core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, []))

    def evaluate(*operands: Any) -> list[Any]:
        results: list[Any] = [None] * len(eqn.outvars)
        for i, result in zip(kept, function(*(operands[i] for i in places.values())), strict=True):
            results[i] = result
        return results

    return evaluate


def source_of(eqn: Any, caller: Any = None) -> str:
    """The line of the caller's code that an equation comes from, as `file:line`; '' if it is not known.

    Functions of libraries are traced once and kept: the lines of their callers are then those of the first call, and
    `caller`, the equation of the call at hand, tells better.
    """
    frames = getattr(getattr(eqn.source_info, "traceback", None), "frames", [])
    if caller is not None and (not frames or _is_library(frames[0].file_name)):
        return source_of(caller)
    for frame in frames:
        if not _is_library(frame.file_name):
            return f"{frame.file_name}:{frame.line_num}"
    return ""


_LIBRARIES = ("/site-packages/", "/dist-packages/", "/lib/python", "/ryot_jax/rewriting/", "<frozen")


def _is_library(file: str) -> bool:
    return any(part in file for part in _LIBRARIES)


def _of_aval(aval: Any, **fields: Any) -> Value:
    return Value(tuple(getattr(aval, "shape", ())), str(getattr(aval, "dtype", "")), **fields)


class _Builder:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._merged: dict[Any, Node] = {}
        self._constants: dict[Any, Value] = {}

    def inline(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Value], caller: Any = None) -> list[Value]:
        """The outputs of a jaxpr for these arguments; `caller` is the equation that calls it."""
        known: dict[Any, Value] = dict(zip(jaxpr.constvars, map(self._constant, consts), strict=True))
        known.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            return self._constant(atom.val, atom.aval) if isinstance(atom, core.Literal) else known[atom]

        for eqn in jaxpr.eqns:
            outputs = self._equation(eqn, tuple(map(read, eqn.invars)), caller)
            known.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, inputs: tuple[Value, ...], caller: Any) -> Sequence[Value]:
        name, outermost = eqn.primitive.name, caller if caller is not None else eqn
        if name in _INLINED and not eqn.effects and _is_unconstrained(eqn.params):
            return self.inline(
                *_open(eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]), inputs, outermost
            )
        if name == "convert_element_type" and inputs[0].dtype == str(eqn.params["new_dtype"]):
            return inputs
        key = None if eqn.effects else _key(name, eqn.params, inputs)
        if key is not None and key in self._merged:
            return self._merged[key].outputs
        inside = None
        if name == "custom_jvp_call" and not eqn.effects and _is_of_jax(eqn.params["call_jaxpr"]):
            inside = self.inline(*_open(eqn.params["call_jaxpr"]), inputs, outermost)
        node = Node(name, eqn.params, inputs, eqn, caller, len(self.nodes))
        node.outputs = [_of_aval(var.aval, node=node, index=i) for i, var in enumerate(eqn.outvars)]
        for output, equal in zip(node.outputs, inside or (), strict=False):
            output.inside = equal
        if name in _BODIES:
            node.bodies = tuple(map(_body, _bodies(eqn)))
            for body in node.bodies:
                for inner, value in zip(body.inputs, _passed(node), strict=False):
                    inner.outer = value
        self.nodes.append(node)
        if key is not None:
            self._merged[key] = node
        return node.outputs

    def _constant(self, array: Any, aval: Any = None) -> Value:
        if isinstance(array, jax.core.Tracer):
            return self._constants.setdefault(("traced", id(array)), _of_aval(array.aval, constant=array))
        small = np.asarray(array) if getattr(array, "nbytes", 0) <= _KEPT_BYTES and _is_plain(array) else None
        key: Any = id(array) if small is None else (small.shape, str(small.dtype), small.tobytes())
        if key not in self._constants:
            self._constants[key] = _of_aval(aval if aval is not None else jax.typeof(array), constant=array)
        return self._constants[key]


def _is_of_jax(jaxpr: Any) -> bool:
    """Whether JAX itself defines a function: its derivative is then the one of its body, which others' need not be."""
    origin = str(getattr(_open(jaxpr)[0].debug_info, "func_src_info", ""))
    return str(Path(jax.__file__).parent) in origin


def _is_plain(array: Any) -> bool:
    dtype = getattr(array, "dtype", None)
    return dtype is None or not jax.dtypes.issubdtype(dtype, jax.dtypes.extended)


def _open(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, core.ClosedJaxpr) else (jaxpr, ())


def _bodies(eqn: Any) -> list[Any]:
    found = eqn.params[_BODIES[eqn.primitive.name]]
    return list(found) if isinstance(found, (tuple, list)) else [found]


def _passed(node: Node) -> Sequence[Value | None]:
    """For each of the first inputs of a node's bodies the value that it is in every call; None: it changes."""
    params, inputs = node.params, node.inputs
    match node.primitive:
        case "scan":
            return inputs[: params["num_consts"]]
        case "while":
            return inputs[params["cond_nconsts"] :][: params["body_nconsts"]]
        case "cond":
            return inputs[1:]
        case "shard_map":  # a body has a part of each
            return ()
    return inputs


def _body(jaxpr: Any) -> Graph:
    opened, consts = _open(jaxpr)
    return build(core.ClosedJaxpr(opened, list(consts)))


def _is_unconstrained(params: dict[str, Any]) -> bool:
    """Whether a call gives no placement of its own, so that it says no more than its body."""
    shardings = (*params.get("in_shardings", ()), *params.get("out_shardings", ()))
    return all(type(sharding).__name__ == "UnspecifiedValue" for sharding in shardings)


def _key(name: str, params: dict[str, Any], inputs: tuple[Value, ...]) -> Any:
    try:
        key = (name, tuple(sorted(params.items(), key=lambda item: item[0])), tuple(map(id, inputs)))
        hash(key)
    except TypeError:
        return None
    return key


def consumers(graph: Graph) -> tuple[set[Node], dict[Value, list[Node]]]:
    """The nodes that outputs or effects depend on, and which of them read each value."""
    live: set[Node] = set()
    pending = [value.node for value in graph.outputs if value.node is not None]
    pending += [node for node in graph.nodes if node.eqn.effects]
    while pending:
        node = pending.pop()
        if node not in live:
            live.add(node)
            pending += [value.node for value in node.inputs if value.node is not None]
    readers: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        if node in live:
            for value in node.inputs:
                readers.setdefault(value, []).append(node)
    return live, readers
