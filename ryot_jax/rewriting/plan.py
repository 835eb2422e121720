"""The choice of sites of a graph, from its results down: the largest first, and none whose inside others need."""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Collection
from typing import Any

from ryot_jax.rewriting import patterns
from ryot_jax.rewriting.fuse import fused
from ryot_jax.rewriting.graph import Graph, Node, Value, consumers
from ryot_jax.rewriting.merge import merged
from ryot_jax.rewriting.packing import packed
from ryot_jax.rewriting.passing import passing
from ryot_jax.rewriting.sites import Refused, Site
from ryot_jax.rewriting.steps import Step, in_order

_EXPENSIVE = {"dot_general", "conv_general_dilated", "scan", "while", "custom_vjp_call", "ragged_dot_general"}


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A graph with the sites that ops take, and what they leave.

    Attributes:
      graph: the graph.
      steps: what is evaluated, in order.
      refused: places that look like an op's and are left alone.
      bodies: plans of the graphs within, by node.
    """

    graph: Graph
    steps: tuple[Step, ...]
    refused: list[Refused]
    bodies: dict[Node, tuple["Plan", ...]]

    @property
    def sites(self) -> list[Site]:
        """The places that ops take."""
        return [step for step in self.steps if isinstance(step, Site)]

    @property
    def nodes(self) -> list[Node]:
        """The equations that are evaluated as they were written."""
        return [step for step in self.steps if isinstance(step, Node)]

    @property
    def all_sites(self) -> list[Site]:
        """The sites of this graph and of those within."""
        return [*self.sites, *(s for plans in self.bodies.values() for plan in plans for s in plan.all_sites)]

    @property
    def all_refused(self) -> list[Refused]:
        """The places left alone in this graph and in those within."""
        within = (r for plans in self.bodies.values() for plan in plans for r in plan.all_refused)
        return [*self.refused, *within]


@functools.cache
def _finders() -> tuple[Any, ...]:
    """The modules of patterns, in the order in which they are asked."""
    names = [module.name for module in pkgutil.iter_modules(patterns.__path__) if not module.name.startswith("_")]
    modules = [importlib.import_module(f"{patterns.__name__}.{name}") for name in names]
    return tuple(sorted(modules, key=lambda module: module.PLACE))


def plan(
    graph: Graph,
    wanted: Callable[[Site], Site | Refused],
    choice: Callable[[Site], str],
    ops: Collection[str] | None = None,
) -> Plan:
    """Chooses sites.

    Args:
      graph: the graph.
      wanted: takes a site as it is, or says why it is left alone.
      choice: the implementation of a site.
      ops: names of the ops to look for; None: all.
    """
    _, readers = consumers(graph)
    results = set(graph.outputs)
    sites: dict[Value, Site] = {}
    refused: list[Refused] = []
    needed: set[Value] = set(graph.outputs)
    effects = [node for node in graph.nodes if node.eqn.effects]
    needed.update(value for node in effects for value in node.inputs)
    covered: set[Node] = set()
    kept: set[Node] = set(effects)

    def accepted(site: Site) -> Site | Refused | None:
        if ops is not None and site.op not in ops:
            return None
        owned = _owned(site, readers, results, covered)
        return wanted(owned) if isinstance(owned, Site) else owned

    for node in reversed(graph.nodes):
        for value in node.outputs:
            if value not in needed:
                continue
            site = _site(value, accepted) if node not in kept else None
            if isinstance(site, Refused):
                refused.append(site)
            if isinstance(site, Site):
                sites[value] = site
                covered.update(site.covered())
                needed.update(operand.value for operand in site.operands)
            else:
                kept.add(node)
        if node in kept:
            needed.update(node.inputs)
    bodies = {
        node: tuple(plan(body, wanted, choice, ops) for body in node.bodies)
        for node in graph.nodes
        if node in kept and node.bodies
    }
    steps: list[Step] = []
    for node in graph.nodes:
        steps += [sites[value] for value in node.outputs if value in sites]
        steps += [node] if node in kept else []
    whole = in_order(packed(merged(steps, choice), choice), graph.outputs)
    whole = in_order(fused(whole, graph.outputs, choice), graph.outputs)
    return Plan(graph, passing(whole, graph.outputs), _unique(refused, covered), bodies)


def _site(value: Value, accepted: Callable[[Site], Site | Refused | None]) -> Site | Refused | None:
    """The largest site that is accepted of those whose result the value is, or why there is none."""
    assert value.node is not None
    if 0 in value.shape:
        return None  # there is nothing to compute
    refused: Refused | None = None
    for module in _finders():
        if value.node.primitive in module.ROOTS:
            outcome = module.find(value)
            if isinstance(outcome, Site):
                outcome = accepted(outcome)
            if isinstance(outcome, Site):
                return outcome
            refused = refused or outcome
    return refused


def _owned(site: Site, readers: dict[Value, list[Node]], results: set[Value], covered: set[Node]) -> Site | Refused:
    """The site, unless something expensive within it is needed elsewhere too and would be computed twice."""
    inside = set(site.covered())
    pending = [
        node
        for node in inside
        if node is not site.root.node
        and any(
            value in results or any(reader not in inside and reader not in covered for reader in readers.get(value, ()))
            for value in node.outputs
        )
    ]
    seen: set[Node] = set()
    while pending:  # all that is needed elsewhere, and what it is computed from
        node = pending.pop()
        if node in seen or node not in inside:
            continue
        if node.primitive in _EXPENSIVE:
            return Refused(site.op, site.root, "a product within it is used elsewhere too")
        seen.add(node)
        pending += [value.node for value in node.inputs if value.node is not None]
    return site


def _unique(refused: list[Refused], covered: set[Node]) -> list[Refused]:
    return [one for one in refused if one.root.node not in covered]
