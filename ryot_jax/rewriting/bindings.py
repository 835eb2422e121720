"""Patterns, and the states of a match with one."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ryot_jax.rewriting import normal
from ryot_jax.rewriting.graph import Value
from ryot_jax.rewriting.views import Labels


@dataclasses.dataclass(frozen=True)
class Bound:
    """A multiple of a value of the graph, in the place of a pattern's input.

    Attributes:
      value: the value.
      labels: for each of its axes the input's.
      weight: the factor.
    """

    value: Value
    labels: Labels
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Binding:
    """A state of a match: bound inputs and numbers, and the nodes of the graph that the pattern covers."""

    arrays: Mapping[str, Bound] = dataclasses.field(default_factory=dict)
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A traced reference function.

    Attributes:
      root: its result.
      numbers: inputs that stand for numbers.
      optional: inputs that a product or a sum may lack.
      whole: inputs that have all their axes; others may be the same along some of them.
      weighted: terms of a sum that may be a multiple of a value.
      forms: the cache of `form`.
    """

    root: Value
    numbers: frozenset[str]
    optional: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    weighted: frozenset[str] = frozenset()
    forms: dict[Any, normal.Form] = dataclasses.field(default_factory=dict, repr=False)

    def form(self, finest: Callable[[Value, Labels], normal.Form], value: Value, labels: Labels) -> normal.Form:
        """The finest form of one of its values, kept for the next place."""
        key = finest, value, labels
        if key not in self.forms:
            self.forms[key] = finest(value, labels)
        return self.forms[key]
