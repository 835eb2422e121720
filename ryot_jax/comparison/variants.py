"""Variants of the training step, and the proof that their optimizations are on.

Every switch that is on must be proven by the compiled program, or the comparison does not start.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ryot_jax.kernels.declaration import Evidence, Optimization, Spec
from ryot_jax.optimizations import OPTIMIZATIONS, KernelPlan
from ryot_jax.runtime import hlo
from ryot_jax.runtime.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Variant:
    """A name and the implementations that its training step uses."""

    name: str
    plan: KernelPlan


def differing(baseline: Variant, variant: Variant) -> tuple[Optimization, ...]:
    """The optimizations whose implementation differs between two variants."""
    return tuple(o for o in OPTIMIZATIONS if o.implementation(baseline.plan) != o.implementation(variant.plan))


def is_statistical(variant: Variant) -> bool:
    """Whether an optimization of the variant promises only a training run of the same quality."""
    return any(optimization.promise(variant.plan) == "statistical" for optimization in OPTIMIZATIONS)


def differences(baseline: Variant, variant: Variant) -> list[dict[str, str]]:
    """The switches in which two variants differ, as JSON objects with `field`, `baseline` and `optimized`."""
    return [
        {"field": o.switch, "baseline": o.implementation(baseline.plan), "optimized": o.implementation(variant.plan)}
        for o in differing(baseline, variant)
    ]


def describe(variant: Variant, evidence: Mapping[str, Evidence], reasons: Mapping[str, str]) -> list[dict[str, Any]]:
    """Describes every optimization of a variant, on or off, as JSON objects.

    Args:
      variant: the variant.
      evidence: findings of the active probes, by optimization.
      reasons: reason for each implementation, by optimization.
    """
    return [
        {
            "name": o.name,
            "arm": variant.name,
            "switch": o.switch,
            "implementation": o.implementation(variant.plan),
            "equivalence": o.promise(variant.plan),
            "description": o.description,
            "reason": reasons.get(o.name, ""),
            "active": o.name in evidence and evidence[o.name].active,
            "evidence": evidence[o.name].text if o.name in evidence else "",
        }
        for o in OPTIMIZATIONS
    ]


def check_active(
    variants: Sequence[Variant], hlo_texts: Mapping[str, str], spec: Spec
) -> dict[str, dict[str, Evidence]]:
    """Proves that every optimization of every variant is on in its compiled training step.

    Args:
      variants: the first is the baseline.
      hlo_texts: optimized HLO text of each variant's compiled step, or scan over steps, by variant name.
      spec: the sizes of the step; `rows` counts one step (or one micro-batch) over all devices.

    Returns:
      variant name -> optimization name -> Evidence, without the baseline.

    Raises:
      ConfigError: a variant has nothing on, compiled to the baseline's program, or a probe did not find its
        optimization; the message names the variant, the switch and the remedy.
    """
    baseline = variants[0]
    programs = {variant.name: hlo.parse(hlo_texts[variant.name]) for variant in variants}
    return {
        variant.name: _check_variant(variant, baseline, programs[variant.name], programs[baseline.name], spec)
        for variant in variants[1:]
    }


def _check_variant(
    variant: Variant, baseline: Variant, program: hlo.Program, baseline_program: hlo.Program, spec: Spec
) -> dict[str, Evidence]:
    optimizations = differing(baseline, variant)
    if not optimizations:
        raise ConfigError(
            f"arm {variant.name!r} has no optimization on that arm {baseline.name!r} has off: a comparison "
            f"would measure nothing. Turn one of {', '.join(o.switch for o in OPTIMIZATIONS)} on (this "
            f"machine may support none of those asked for), or train one arm: "
            f"comparison.arms=({baseline.name!r},)"
        )
    switched = ", ".join(f"{o.switch}={o.implementation(variant.plan)}" for o in optimizations)
    if program.fingerprint == baseline_program.fingerprint:
        raise ConfigError(
            f"arms {baseline.name!r} and {variant.name!r} compiled to the same program although {switched} "
            f"is on: the switch does nothing here. Turn it off, or train one arm: "
            f"comparison.arms=({baseline.name!r},)"
        )
    evidence = {o.name: _prove(o, variant, program, baseline_program, spec) for o in optimizations}
    for optimization in optimizations:
        proof = evidence[optimization.name]
        if not proof.active:
            raise ConfigError(
                f"{optimization.switch}={optimization.implementation(variant.plan)} is on in arm "
                f"{variant.name!r}, but its compiled training step does not show it: {proof.text}. Turn it "
                f"off with --config.{optimization.switch}=off, or choose sizes for which it takes effect"
            )
    return evidence


def _prove(
    optimization: Optimization, variant: Variant, program: hlo.Program, baseline: hlo.Program, spec: Spec
) -> Evidence:
    name = variant.plan[optimization.name]
    probe = optimization.implementations[name].probe if name in optimization.alternatives else None
    if probe is None:
        raise ConfigError(
            f"{optimization.switch}={optimization.implementation(variant.plan)}: there is no probe to prove that it is "
            f"on; known are {', '.join(sorted(optimization.alternatives))}"
        )
    return probe(program, baseline, spec)
