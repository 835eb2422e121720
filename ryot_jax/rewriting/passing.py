"""Residual paths through norms: what a norm read is read from it by those after it.

Its gradients from the norm and from the residual path are then added in the norm's backward pass, instead of in another
one over memory.
"""

import dataclasses
from collections.abc import Sequence

from ryot_jax.rewriting.graph import Value
from ryot_jax.rewriting.sites import Site
from ryot_jax.rewriting.steps import Step, reads


def passing(steps: Sequence[Step], outputs: Sequence[Value]) -> tuple[Step, ...]:
    """Steps in which norms pass on what they read, if it is read again later.

    Args:
      steps: the steps of a graph, in order.
      outputs: the results of the graph.
    """
    read_later, found = set(outputs), []
    for step in reversed(steps):
        if isinstance(step, Site) and step.passing is not None:
            x = step.operands[0]
            if x.value in read_later and x.is_whole:
                step = dataclasses.replace(step, call=step.passing, passes=True)
        read_later.update(reads(step))
        found.append(step)
    return tuple(reversed(found))
