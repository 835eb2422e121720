"""The catalogue of all optimizations of a training step: the ops of `kernels`, and one file here for each other one.

A config's switches and their choices, the kernel plan, tuning, proofs and the documentation's table (`python -m
ryot_jax.optimizations`) are derived from it. Importing it imports no JAX.
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
    """An immutable, hashable mapping from each optimization to its implementation; those not given are references.

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
        """The name of the implementation of the optimization `name`."""
        return self._implementations[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of all optimizations, in the catalogue's order."""
        return iter(self._implementations)

    def __len__(self) -> int:
        """The number of optimizations."""
        return len(self._implementations)

    def __hash__(self) -> int:
        """Hash by value, so that a plan can be a static argument of a jitted function."""
        return hash(tuple(self._implementations.items()))

    def __repr__(self) -> str:
        """The expression that constructs the plan, without the references."""
        named = (f"{o.name}={self[o.name]!r}" for o in OPTIMIZATIONS if self[o.name] != o.reference)
        return f"KernelPlan({', '.join(named)})"

    def replace(self, **implementations: str) -> "KernelPlan":
        """A copy of the plan with these implementations replaced."""
        return KernelPlan(**{**self._implementations, **implementations})


@dataclasses.dataclass(frozen=True)
class Resolution:
    """A plan, and the reason for each of its choices, a sentence."""

    plan: KernelPlan
    reasons: dict[str, str]

    def lines(self) -> list[str]:
        """One line for each optimization: its implementation and the reason."""
        return [f"{name}: {shown(chosen)} ({self.reasons[name]})" for name, chosen in self.plan.items()]


def resolve(wanted: Wishes, *, spec: Spec, lookup: Lookup | None = None) -> Resolution:
    """Resolve wishes to a plan for `spec`.

    Args:
      wanted: name -> 'off' (the reference), 'auto' (the choice of `lookup`, else the first implementation in order of
        preference that supports the work and has no drawback or doubt) or the name of an implementation. An
        optimization not named is off.
      spec: the work and the machine; `activations` is set here.
      lookup: earlier choices, see `kernels.choice.cache`, which overrule a doubt. One that can no longer take the work,
        or has a drawback, is passed over.

    Raises:
      ConfigError: an unknown optimization or implementation, or a named one that cannot take the work, with the reason.
    """
    choices = _resolve(OPTIMIZATIONS, wanted, spec=spec, lookup=lookup)
    plan = KernelPlan(**{name: choice.implementation for name, choice in choices.items()})
    return Resolution(plan, {name: choice.reason for name, choice in choices.items()})


def resolve_to_rounding(wanted: Wishes, *, spec: Spec) -> Resolution:
    """Resolve wishes by the static order, with the reference wherever numbers would differ by more than rounding.

    Args:
      wanted: as in `resolve`.
      spec: as in `resolve`.

    Raises:
      ConfigError: as `resolve`.
    """
    resolution = resolve(wanted, spec=spec)
    # Repeated: without one of them another implementation may come first elsewhere.
    while others := [o.name for o in OPTIMIZATIONS if o.promise(resolution.plan) == "statistical"]:
        wanted = {**wanted, **dict.fromkeys(others, "off")}
        resolution = resolve(wanted, spec=spec)
    return resolution


def exclusions(config: Mapping[str, Any]) -> dict[str, str]:
    """The reasons why a training with this config cannot have an optimization at all, by optimization."""
    reasons = {o.name: o.exclusion(config) for o in OPTIMIZATIONS}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def activations_dtype(plan: KernelPlan, compute_dtype: str) -> str:
    """Dtype of the arrays between the ops of a transformer block, in a model that computes in `compute_dtype`."""
    return next((plan[o.name] for o in OPTIMIZATIONS if o.sets == "activations"), "") or compute_dtype


def products_rounding(plan: KernelPlan) -> str:
    """Dtype that a plan's matrix products round their operands to; '': the dtype between the ops."""
    roundings = (o.implementations[plan[o.name]].rounding for o in OPTIMIZATIONS if plan[o.name] in o.alternatives)
    return next((rounding for rounding in roundings if rounding), "")


def is_on_activations_in(plan: KernelPlan, implementation: str) -> bool:
    """Whether all ops on the arrays between the ops of a transformer block use `implementation`."""
    return {plan[op.name] for op in ops() if op.is_on_activations} == {implementation}
