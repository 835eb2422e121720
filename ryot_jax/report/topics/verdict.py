"""The verdict in one sentence, the criteria, and the estimands stated before the run."""

from ryot_jax.comparison.schema import Results
from ryot_jax.report.parts import Paragraph, Part, Table
from ryot_jax.report.words import counted, interval, loss_name, loss_unit, number, of_language_model, percent, spaced


def headline(results: Results) -> str:
    """The verdict in one sentence, with effect, interval, number of pairs and margin."""
    verdict = results.verdict
    because = "" if verdict == "PASS" else f" ({', '.join(_reasons(results))})"
    comparison = results.comparison
    if comparison is None:
        return f"{verdict}{because}: {_single_arm(results)}; nothing was compared."
    return f"{verdict}{because}: {_speed(results)}; {_loss(results)}."


def criteria_passed(results: Results) -> str:
    """One sentence on the number of criteria and controls that passed."""
    criteria = results.criteria
    passed = sum(criterion.verdict == "PASS" for criterion in criteria)
    text = f"{passed} of {counted_criteria(len(criteria))} passed"
    if results.controls is not None:
        controls = results.controls.items
        passed = sum(control.verdict == "PASS" for control in controls)
        text += f", and {passed} of {counted(len(controls), 'control')}"
    return text + "."


def counted_criteria(n: int) -> str:
    """A number of criteria in words: `1 criterion`, `9 criteria`."""
    return "1 criterion" if n == 1 else f"{n} criteria"


def criteria(results: Results) -> Table:
    """Table of the criteria: target, outcome and verdict."""
    rows = tuple((spaced(c.name), c.target, c.actual, c.verdict) for c in results.criteria)
    return Table("Each criterion with its target", ("criterion", "target", "actual", "verdict"), rows)


def estimands(results: Results) -> Table | None:
    """Table of the estimands stated before the first step; None if none were stated."""
    stated = results.estimands
    if stated is None:
        return None
    rows = tuple((e.name, e.unit, e.statistic, e.criterion) for e in stated.items)
    return Table("What was to be measured", ("estimand", "unit", "statistic", "criterion"), rows)


def section(results: Results) -> list[Part | None]:
    """The section with the criteria, their targets, and the statement."""
    stated = results.estimands
    if stated is None:
        return [criteria(results), Paragraph("This run did not state beforehand what it would measure.")]
    when = f"on {stated.stated_at}, before the first step" if stated.stated_at else "at a time not recorded"
    return [
        criteria(results),
        Paragraph(f"What was to be measured was stated {when}; sha256 of the statement: {stated.sha256}."),
        estimands(results),
    ]


def advice(results: Results) -> list[str]:
    """Advice about the criteria that did not pass, without repetition."""
    return list(dict.fromkeys(criterion.advice for criterion in results.criteria if criterion.advice))


def _reasons(results: Results) -> list[str]:
    """Names of the criteria and controls that determine the verdict."""
    verdict = results.verdict
    reasons = [c.name for c in results.criteria if c.verdict == verdict]
    if verdict == "INCONCLUSIVE" and results.controls is not None:
        items = results.controls.items
        reasons = [f"control {spaced(c.name)}" for c in items if c.verdict != "PASS"] + reasons
    return reasons


def _single_arm(results: Results) -> str:
    name, arm = next(iter(results.arms.items()))
    text = (
        f"{name} trained {arm.steps:,} steps to a {loss_name(results)} of "
        f"{number(arm.final_heldout_loss)}{loss_unit(results)}"
    )
    entropies = results.entropies
    return f"{text} (bigram entropy {number(entropies.get('bigram'))})" if of_language_model(results) else text


def _speed(results: Results) -> str:
    comparison, controls = results.compared, results.controls
    speed, optimized = comparison.step_time_speedup, comparison.optimized
    if speed.estimate is None:
        return f"how fast {optimized} is was not measured"
    margin = "no controls" if controls is None else f"noise floor {percent(controls.noise_floor)}"
    return (
        f"{optimized} is {speed.estimate:.3f} times as fast per step as {comparison.baseline} "
        f"(95 % interval {interval(speed.ci95)}, {counted(speed.pairs, comparison.unit)}; {margin})"
    )


def _loss(results: Results) -> str:
    loss, tests = results.compared.heldout_loss_difference, results.compared.loss_tests
    if loss.estimate is None:
        return f"the difference of {loss_name(results)}es was not measured"
    return (
        f"its final {loss_name(results)} differs by {loss.estimate:+.4f}{loss_unit(results)} (95 % interval "
        f"{interval(loss.ci95, '+.4f')}, {counted(loss.pairs, loss.unit)}; "
        f"margins {tests.margin:g} and {tests.tight_margin:g})"
    )
