"""Steps of an evaluation: nodes of a graph, sites, and cuts; and the order in which they run."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
from jax import lax

from ryot_jax.rewriting.graph import Node, Value
from ryot_jax.rewriting.sites import Site


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """A value that is a part of the last axis of another one, in its own shape.

    Attributes:
      value: the value.
      source: the other one.
      start: the first place of the part.
      stop: the place after it.
    """

    value: Value
    source: Value
    start: int
    stop: int

    def of(self, source: jax.Array) -> jax.Array:
        """The part of an array."""
        part = lax.slice_in_dim(source, self.start, self.stop, axis=source.ndim - 1)
        return part.reshape(self.value.shape)


Step = Node | Site | Cut


def reads(step: Step) -> Sequence[Value]:
    """The values that a step needs."""
    match step:
        case Node():
            return step.inputs
        case Site():
            return [operand.value for operand in step.operands]
        case Cut():
            return (step.source,)


def writes(step: Step) -> Sequence[Value]:
    """The values that a step computes."""
    match step:
        case Node():
            return step.outputs
        case Site():
            return (step.root,)
        case Cut():
            return (step.value,)


def in_order(steps: Sequence[Step], outputs: Sequence[Value]) -> tuple[Step, ...]:
    """The steps that results or effects need, each after those that it reads from, and else as they are given."""
    makers: dict[Value, Step] = {}
    for step in sorted(steps, key=lambda step: not isinstance(step, Node)):  # a site goes before the node of its root
        makers.update(dict.fromkeys(writes(step), step))
    done: dict[Step, None] = {}

    def run(last: Step) -> None:
        pending: list[tuple[Step, Iterator[Value]]] = [(last, iter(reads(last)))]
        while pending:
            step, needs = pending[-1]
            maker = next((makers[value] for value in needs if value in makers and makers[value] not in done), None)
            if maker is None:
                done.setdefault(step)
                pending.pop()
            else:
                assert all(maker is not step for step, _ in pending), "steps that need each other"
                pending.append((maker, iter(reads(maker))))

    wanted = _live(steps, outputs, makers)
    for step in steps:
        if step in wanted and step not in done:
            run(step)
    return tuple(done)


def _live(steps: Sequence[Step], outputs: Sequence[Value], makers: dict[Value, Step]) -> set[Step]:
    pending = [makers[value] for value in outputs if value in makers]
    pending += [step for step in steps if isinstance(step, Node) and step.eqn.effects]
    found: set[Step] = set()
    while pending:
        step = pending.pop()
        if step not in found:
            found.add(step)
            pending += [makers[value] for value in reads(step) if value in makers]
    return found
