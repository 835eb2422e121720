"""All optimizations that a training step can have on: the ops of `kernels`, and one file here for each other one.

From this catalogue come the switches of a config with their choices, the plan, tuning, proofs and the documentation's
table (`python -m ryot_jax.optimizations`). Importing it imports no JAX.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

from ryot_jax.kernels.catalogue import ops
from ryot_jax.kernels.declaration import Optimization, Spec, Wishes, shown
from ryot_jax.kernels.resolution import Lookup
from ryot_jax.kernels.resolution import resolve as _resolve


def _declared() -> tuple[Optimization, ...]:
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    others: list[Optimization] = [importlib.import_module(f"{__name__}.{name}").OPTIMIZATION for name in names]
    return tuple(sorted([*ops(), *others], key=lambda optimization: (optimization.place, optimization.name)))


OPTIMIZATIONS = _declared()
BY_NAME = {optimization.name: optimization for optimization in OPTIMIZATIONS}


class KernelPlan(Mapping[str, str]):
    """The implementation of each optimization, by name: immutable and hashable. Those not given are references.

        KernelPlan(attention="xla")["attention"]

    Raises:
      TypeError: there is no optimization of a given name.
    """

    __slots__ = ("_implementations",)

    def __init__(self, **implementations: str):
        if unknown := sorted(set(implementations) - set(BY_NAME)):
            raise TypeError(f"no such optimization: {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
        self._implementations = {o.name: implementations.get(o.name, o.reference) for o in OPTIMIZATIONS}

    def __getitem__(self, name: str) -> str:
        """The implementation of the optimization of this name."""
        return self._implementations[name]

    def __iter__(self) -> Iterator[str]:
        """The names of all optimizations, in the order of the catalogue."""
        return iter(self._implementations)

    def __len__(self) -> int:
        """How many optimizations there are."""
        return len(self._implementations)

    def __hash__(self) -> int:
        """Equal plans have equal hashes, so that a plan can be a static argument of a jitted function."""
        return hash(tuple(self._implementations.items()))

    def __repr__(self) -> str:
        """The call that makes it, without the references."""
        named = (f"{o.name}={self[o.name]!r}" for o in OPTIMIZATIONS if self[o.name] != o.reference)
        return f"KernelPlan({', '.join(named)})"

    def replace(self, **implementations: str) -> "KernelPlan":
        """The plan with other implementations of these optimizations."""
        return KernelPlan(**{**self._implementations, **implementations})


@dataclasses.dataclass(frozen=True)
class Resolution:
    """A plan, and for each optimization the sentence that says why it came out so."""

    plan: KernelPlan
    reasons: dict[str, str]

    def lines(self) -> list[str]:
        """One line for each optimization: its implementation and the reason."""
        return [f"{name}: {shown(chosen)} ({self.reasons[name]})" for name, chosen in self.plan.items()]


def resolve(wanted: Wishes, *, spec: Spec, lookup: Lookup | None = None) -> Resolution:
    """Turns wishes into a plan for `spec`.

    Args:
      wanted: name -> 'off' (the reference), 'auto' (what `lookup` knows, else the first implementation in order of
        preference that supports the work and has no drawback or doubt) or the name of an implementation. What is not
        named is off.
      spec: the work and the machine; `activations` is set here.
      lookup: choices of before, see `kernels.choice.cache`: they overrule a doubt. One that cannot take the work any
        more, or has a drawback, is passed over.

    Raises:
      ConfigError: an unknown optimization or implementation, or a named one that cannot take the work, with the reason.
    """
    choices = _resolve(OPTIMIZATIONS, wanted, spec=spec, lookup=lookup)
    plan = KernelPlan(**{name: choice.implementation for name, choice in choices.items()})
    return Resolution(plan, {name: choice.reason for name, choice in choices.items()})


def resolve_to_rounding(wanted: Wishes, *, spec: Spec) -> Resolution:
    """Turns wishes into a plan by the static order, with the reference where more than rounding would be other numbers.

    Args:
      wanted: as in `resolve`.
      spec: as in `resolve`.

    Raises:
      ConfigError: as `resolve`.
    """
    resolution = resolve(wanted, spec=spec)
    # Each time anew: without one of them another implementation may come first elsewhere.
    while others := [o.name for o in OPTIMIZATIONS if o.promise(resolution.plan) == "statistical"]:
        wanted = {**wanted, **dict.fromkeys(others, "off")}
        resolution = resolve(wanted, spec=spec)
    return resolution


def exclusions(config: Mapping[str, Any]) -> dict[str, str]:
    """The reasons why a training with this config cannot have an optimization at all, by optimization."""
    reasons = {o.name: o.exclusion(config) for o in OPTIMIZATIONS}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def activations_dtype(plan: KernelPlan, compute_dtype: str) -> str:
    """Dtype of the arrays between the ops of a block, in a model that computes in `compute_dtype`."""
    return next((plan[o.name] for o in OPTIMIZATIONS if o.sets == "activations"), "") or compute_dtype


def products_rounding(plan: KernelPlan) -> str:
    """Dtype that a plan's matrix products round their operands to; '': the one between the ops."""
    roundings = (o.implementations[plan[o.name]].rounding for o in OPTIMIZATIONS if plan[o.name] in o.alternatives)
    return next((rounding for rounding in roundings if rounding), "")


def is_on_activations_in(plan: KernelPlan, implementation: str) -> bool:
    """Whether all ops that take the arrays between the ops of a block do so in this implementation."""
    return {plan[op.name] for op in ops() if op.is_on_activations} == {implementation}
