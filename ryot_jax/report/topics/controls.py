"""The controls, and the noise floor measured by the placebo."""

from ryot_jax.comparison.schema import Results
from ryot_jax.report.parts import Paragraph, Part, Pictures, Table
from ryot_jax.report.words import duration, percent, pick, spaced


def noise_floor(results: Results) -> str | None:
    """One sentence on the noise floor from the placebo; None if no controls were run."""
    controls = results.controls
    if controls is None:
        return None
    if controls.noise_floor is None:
        return "Noise floor: not measured; the placebo gave no interval."
    return (
        f"Noise floor: two arms of one program differed by up to {percent(controls.noise_floor)}, so a speed-up "
        "under that is noise here."
    )


def table(results: Results) -> Table | None:
    """Table of the controls: procedure, target, outcome and verdict; None if none were run."""
    if results.controls is None:
        return None
    rows = tuple((spaced(c.name), c.description, c.target, c.actual, c.verdict) for c in results.controls.items)
    return Table(
        "Each control with its known answer", ("control", "what was done", "target", "actual", "verdict"), rows
    )


def section(results: Results) -> list[Part | None]:
    """The section on the controls."""
    controls = results.controls
    if controls is None:
        why = (
            "nothing was compared"
            if results.comparison is None
            else "nothing shows what the noise of this machine alone looks like"
        )
        return [Paragraph(f"No controls were run: {why}.")]
    return [
        Paragraph(
            "Comparisons whose right answer is known, made with the programs and on the machine of this run in "
            f"{duration(controls.seconds)} s. Intervals are at {percent(controls.confidence, '.0f')}. A control "
            "that does not pass makes the verdict INCONCLUSIVE."
        ),
        Paragraph(noise_floor(results) or ""),
        table(results),
        Pictures(("controls",)),
    ]


def limits(results: Results) -> list[str]:
    """Limits of a comparison without controls."""
    if results.comparison is None or results.controls is not None:
        return []
    return ["No controls were run: nothing shows how large a speed-up the noise of this machine makes up."]


def advice(results: Results) -> list[str]:
    """Advice about controls that did not pass or were not run."""
    if results.controls is None:
        words = pick(
            results,
            "Run the controls (comparison.controls=True) before claiming anything.",
            "Run the controls (control_blocks) before claiming anything.",
        )
        return [] if results.comparison is None else [words]
    failed = {control.name for control in results.controls.items if control.verdict != "PASS"}
    steps = []
    if failed & {"placebo", "known_delay"}:
        steps.append("Repeat the run on a quiet machine: its clock did not find what was known beforehand.")
    if "shuffled_targets" in failed:
        steps.append("Look for targets that leak into the inputs: training on shuffled targets passed as learning.")
    return steps
