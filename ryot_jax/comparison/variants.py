"""Variants and the optimizations that set them apart, each with its switch, promised class and active probes.

A switch that is on must be proven on by the compiled program, or the comparison does not start.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ryot_jax.comparison import probes
from ryot_jax.comparison.probes import Evidence, Probe
from ryot_jax.kernels import KernelPlan, Spec
from ryot_jax.kernels.plan import shown
from ryot_jax.runtime import hlo
from ryot_jax.runtime.errors import ConfigError

Equivalence = Literal["bitwise", "allclose", "statistical"]


@dataclasses.dataclass(frozen=True)
class Optimization:
    """One optimization that a variant can have on.

    Attributes:
      name: its name, which is also its field of `KernelPlan`.
      switch: the config field that turns it on and off.
      equivalence: what each implementation promises against the reference: `bitwise` the same numbers, `allclose`
        to the rounding of the dtype between the ops, `statistical` other rounding, a training run of the same quality.
      description: what it does, in one line.
      probe: proof from the compiled program, per implementation.
    """

    name: str
    switch: str
    equivalence: Mapping[str, Equivalence]
    description: str
    probe: Mapping[str, Probe]

    def promise(self, plan: KernelPlan) -> Equivalence:
        """What the implementation that `plan` uses promises; the reference is itself."""
        return self.equivalence.get(getattr(plan, self.name), "bitwise")

    def implementation(self, plan: KernelPlan) -> str:
        """The implementation that `plan` uses, as it is shown to people."""
        return shown(getattr(plan, self.name))


@dataclasses.dataclass(frozen=True)
class Variant:
    """A name and the implementations that its training step uses."""

    name: str
    plan: KernelPlan


OPTIMIZATIONS = (
    Optimization(
        name="activations",
        switch="optimizations.activations",
        equivalence={"bfloat16": "statistical"},
        description="bf16 arrays between the ops of a block, forward and backward; the residual stream stays float32",
        probe={"bfloat16": probes.bf16_activations},
    ),
    Optimization(
        name="linear_cross_entropy",
        switch="optimizations.linear_cross_entropy",
        equivalence=dict.fromkeys(("xla", "cpu", "mosaic", "triton"), "allclose"),
        description="output projection and loss in one op, gradients in the forward pass, logits never whole",
        probe={"xla": probes.no_logits}
        | dict.fromkeys(("cpu", "mosaic", "triton"), probes.custom_call("ryot_linear_cross_entropy")),
    ),
    Optimization(
        name="attention",
        switch="optimizations.attention",
        equivalence=dict.fromkeys(("xla", "cpu", "cudnn", "mosaic"), "allclose"),
        description="causal attention in blocks, without the masked half and the whole score array",
        probe={
            "xla": probes.no_scores,
            "cudnn": probes.custom_call("cudnn$fmha"),
            "cpu": probes.custom_call("ryot_attention", "ryot_packed_attention"),
            "mosaic": probes.custom_call("ryot_attention"),
        },
    ),
    Optimization(
        name="dense",
        switch="optimizations.dense",
        equivalence={"xla": "statistical", "cpu": "allclose", "fp8": "statistical"},
        description="dense products with activation and residual sum in one op (cpu), or of bf16 or 8-bit operands "
        "(xla, fp8)",
        probe={"xla": probes.bf16_dense, "cpu": probes.custom_call("ryot_dense"), "fp8": probes.fp8_dense},
    ),
    Optimization(
        name="norm",
        switch="optimizations.norm",
        equivalence=dict.fromkeys(("xla", "cpu", "mosaic", "triton"), "allclose"),
        description="layer norm or RMS norm that keeps two numbers a row for its backward pass",
        probe={"xla": probes.own_norm_gradient}
        | dict.fromkeys(("cpu", "mosaic", "triton"), probes.custom_call("ryot_norm")),
    ),
    Optimization(
        name="embedding",
        switch="optimizations.embedding",
        equivalence={"cpu": "allclose"},
        description="gradient of the embedding added up in all threads",
        probe={"cpu": probes.custom_call("ryot_embedding")},
    ),
    Optimization(
        name="dropout",
        switch="optimizations.dropout",
        equivalence={"hash": "statistical"},
        description="dropout masks hashed from a counter in the pass that applies them, never stored",
        probe={"hash": probes.no_random_bits},
    ),
    Optimization(
        name="optimizer",
        switch="optimizations.optimizer",
        equivalence={"cpu": "allclose"},
        description="clipping and AdamW of all weights in one pass over memory",
        probe={"cpu": probes.custom_call("ryot_adamw")},
    ),
    Optimization(
        name="qat",
        switch="optimizations.qat",
        equivalence={"round": "statistical"},
        description="the loss of weights rounded to compression.qat_bits in the last part of training; float ones kept",
        probe={"round": probes.rounded_weights},
    ),
    Optimization(
        name="dispatch",
        switch="optimizations.dispatch",
        equivalence={"scan": "allclose"},
        description="several training steps a call of the compiled program, by a scan over their batches",
        probe={"scan": probes.scanned_steps},
    ),
)


def differing(baseline: Variant, variant: Variant) -> tuple[Optimization, ...]:
    """The optimizations whose implementation differs between two variants."""
    return tuple(o for o in OPTIMIZATIONS if o.implementation(baseline.plan) != o.implementation(variant.plan))


def is_statistical(variant: Variant) -> bool:
    """Whether one of its optimizations promises no more than a training run of the same quality."""
    return any(optimization.promise(variant.plan) == "statistical" for optimization in OPTIMIZATIONS)


def differences(baseline: Variant, variant: Variant) -> list[dict[str, str]]:
    """The switches in which two variants differ, as JSON values: field, baseline, optimized."""
    return [
        {"field": o.switch, "baseline": o.implementation(baseline.plan), "optimized": o.implementation(variant.plan)}
        for o in differing(baseline, variant)
    ]


def describe(variant: Variant, evidence: Mapping[str, Evidence], reasons: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every optimization as the variant has it, on or off, as JSON values.

    Args:
      variant: any.
      evidence: what the active probes found, by optimization.
      reasons: why each implementation was chosen, by optimization.
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
    """Prove that every optimization of every variant is on in its compiled training step.

    Args:
      variants: the first is the baseline.
      hlo_texts: optimized HLO text of each variant's compiled step, or scan over steps, by variant name.
      spec: the sizes of the step; `rows` of one step (or one micro-batch) over all devices.

    Returns:
      variant name -> optimization name -> Evidence; the baseline is not in it.

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
        found = evidence[optimization.name]
        if not found.active:
            raise ConfigError(
                f"{optimization.switch}={optimization.implementation(variant.plan)} is on in arm "
                f"{variant.name!r}, but its compiled training step does not show it: {found.text}. Turn it "
                f"off with --config.{optimization.switch}=off, or choose sizes for which it takes effect"
            )
    return evidence


def _prove(
    optimization: Optimization, variant: Variant, program: hlo.Program, baseline: hlo.Program, spec: Spec
) -> Evidence:
    implementation = optimization.implementation(variant.plan)
    if implementation not in optimization.probe:
        raise ConfigError(
            f"{optimization.switch}={implementation}: there is no probe to prove that it is on; "
            f"known are {', '.join(sorted(optimization.probe))}"
        )
    return optimization.probe[implementation](program, baseline, spec)
