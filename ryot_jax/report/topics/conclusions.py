"""The limits of a run and the next steps, collected from the topics."""

from ryot_jax.comparison.schema import Results
from ryot_jax.report.parts import Bullets, Part
from ryot_jax.report.topics import compression, controls, losses, pairs, roofline, timing, verdict


def not_shown(results: Results) -> list[str]:
    """Conclusions that this run does not support, one sentence each."""
    return [
        *pairs.limits(results),
        *controls.limits(results),
        *timing.limits(results),
        *losses.limits(results),
        *roofline.limits(results),
        "Energy was not measured.",
        *losses.limits_of_data(results),
    ]


def next_steps(results: Results) -> list[str]:
    """Advised next steps, from the outcome of criteria, controls and measurements."""
    steps = [
        *controls.advice(results),
        *verdict.advice(results),
        *roofline.advice(results),
        *pairs.advice(results),
        *compression.advice(results),
    ]
    return steps or [
        "Train a second arm (comparison.arms) to compare with this one."
        if results.comparison is None
        else "Repeat on the machine that the speed-up is to be claimed for."
    ]


def not_shown_section(results: Results) -> list[Part | None]:
    """The section on the limits."""
    return [Bullets(tuple(not_shown(results)))]


def next_section(results: Results) -> list[Part | None]:
    """The section on the next steps."""
    return [Bullets(tuple(next_steps(results))), *compression.next_command(results)]
