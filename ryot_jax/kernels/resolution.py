"""Choice of an implementation for each optimization, with reasons.

The input is the wishes (`'off'`, `'auto'` or a name per optimization) and a description of the work; the output is the
choices and their reasons. A wish that cannot be met raises: nothing falls back silently.
"""

import dataclasses
from collections.abc import Callable, Sequence

from ryot_jax.kernels.declaration import Optimization, Spec, Wishes
from ryot_jax.runtime.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Choice:
    """An implementation and the reason for choosing it, a sentence."""

    implementation: str
    reason: str


Lookup = Callable[[str, Spec], Choice | None]
"""Earlier choices: (optimization, work) -> the choice of a measurement or of the run being resumed, or None."""


def refusal(optimization: Optimization, name: str, spec: Spec) -> str | None:
    """The reason why this implementation cannot take the work; None: it can. The reference always can."""
    if name == optimization.reference:
        return None
    return spec.refusals.get(optimization.name) or optimization.implementations[name].refusal(spec)


def supported(optimization: Optimization, spec: Spec) -> list[str]:
    """The implementations that can take the work, the reference first."""
    return [name for name in optimization.implementations if refusal(optimization, name, spec) is None]


def tunable(optimization: Optimization, spec: Spec) -> list[str]:
    """The supported implementations among which speed decides."""
    return [name for name in supported(optimization, spec) if optimization.implementations[name].is_tunable]


def measurable(optimization: Optimization, spec: Spec, wanted: Wishes) -> list[str]:
    """Those of `tunable` that 'auto' takes where they are the fastest: all without a drawback."""
    names = tunable(optimization, spec)
    return [name for name in names if optimization.implementations[name].drawback(spec, wanted) is None]


def resolve(
    optimizations: Sequence[Optimization], wanted: Wishes, *, spec: Spec, lookup: Lookup | None = None
) -> dict[str, Choice]:
    """Resolve wishes to a choice for each optimization, in their order.

    Args:
      optimizations: all optimizations; one that sets a field of the work precedes those that depend on it.
      wanted: name -> 'off' (the reference), 'auto' (the choice of `lookup`, else the first implementation in order of
        preference that supports the work and has no drawback or doubt) or the name of an implementation. An
        optimization not named is off.
      spec: the work and the machine.
      lookup: earlier choices, see `choice.cache`, which overrule a doubt. One that can no longer take the work, or has
        a drawback, is passed over.

    Raises:
      ConfigError: an unknown optimization or implementation, or a named one that cannot take the work, with the reason.
    """
    names = [optimization.name for optimization in optimizations]
    if unknown := sorted(set(wanted) - set(names)):
        raise ConfigError(f"optimizations.{unknown[0]}: no such op; there are {sorted(names)}")
    choices = {}
    for optimization in optimizations:
        choice = _resolve_one(optimization, wanted, spec, lookup)
        choices[optimization.name] = choice
        spec = optimization.applied(spec, choice.implementation)
    return choices


def _resolve_one(optimization: Optimization, wanted: Wishes, spec: Spec, lookup: Lookup | None) -> Choice:
    name, wish = optimization.name, wanted.get(optimization.name, "off")
    if wish == "off":
        return Choice(optimization.reference, "off")
    if wish == "auto":
        return _automatic(optimization, wanted, spec, lookup(name, spec) if lookup is not None else None)
    if wish not in (alternatives := optimization.alternatives):
        raise ConfigError(
            f"optimizations.{name} = {wish!r}: not an implementation; use 'off', 'auto' or one of "
            f"{sorted(alternatives)}"
        )
    if (reason := refusal(optimization, wish, spec)) is not None:
        raise ConfigError(f"optimizations.{name} = {wish!r}: {reason}; use 'auto' or 'off'")
    return Choice(wish, "asked for")


def _automatic(optimization: Optimization, wanted: Wishes, spec: Spec, known: Choice | None) -> Choice:
    reasons_against = {
        name: refusal(optimization, name, spec) or optimization.implementations[name].drawback(spec, wanted)
        for name in optimization.alternatives
    }
    usable = {name for name, reason in reasons_against.items() if reason is None}
    if known is not None and known.implementation in {*usable, optimization.reference}:
        return known
    refusals: list[str] = []
    for name, reason in reasons_against.items():
        reason = reason or optimization.implementations[name].doubt(spec, wanted)
        if reason is None:
            return Choice(name, "; ".join(["auto: first in order that this machine supports", *refusals]))
        refusals.append(f"not {name}: {reason}")
    return Choice(optimization.reference, "; ".join(refusals))
