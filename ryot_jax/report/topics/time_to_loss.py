"""The trainings by step schedule and recipe to the baseline's final loss: a sentence, a caution, two tables."""

from collections.abc import Sequence

from ryot_jax.comparison.schema import ArmResult, Results, StepKind, TimeToLoss, Training
from ryot_jax.report.parts import Paragraph, Part, Table
from ryot_jax.report.words import counted, duration, interval, number, percent

CAUTION = (
    "Caution: each was trained once, from one seed, and its loss interval holds the choice of held-out sequences only. "
    "A schedule and a recipe are another training, not a faster step: no kernel has a part in their gain, and where "
    "the baseline's own settings are poor they gain more. The time is that of a plan that was set before; a training "
    "that ends above the baseline's loss has no such time, whatever its share is."
)


def section(results: Results) -> list[Part | None]:
    """The section on the trainings, their shares and their steps; empty if no training finished."""
    measured = results.time_to_loss
    if measured is None or not measured.trainings:
        return []
    return [Paragraph(what_was_done(measured)), shares(results), steps(measured), Paragraph(CAUTION)]


def sentence(results: Results) -> str | None:
    """One sentence on the share of the baseline's time by training; None if no training finished."""
    measured, comparison = results.time_to_loss, results.comparison
    if measured is None or comparison is None or not measured.trainings:
        return None
    trainings = measured.trainings
    speed = comparison.step_time_speedup.estimate
    kernels = "" if speed is None else f"kernels {number(1 / speed)}; "
    return (
        f"Share of the baseline's time to its final loss of {measured.target_loss:.4f} (one seed, compilation apart): "
        f"{kernels}{'; '.join(map(_share, trainings))}."
    )


def _with(training: Training) -> str:
    """The differences of a training from the baseline, by name."""
    return f"kernels, {'schedule, recipe' if training.name == 'both' else training.name}"


def _share(training: Training) -> str:
    return f"{_with(training)} {number(training.share_of_baseline)}{_unless_reached(training)}"


def _unless_reached(training: Training) -> str:
    if training.reached:
        return ""
    change = number(training.loss_difference.estimate, "+.4f")
    return f" (not reached: {change})" if training.reached is False else f" (not told whether reached: {change})"


def what_was_done(measured: TimeToLoss) -> str:
    """One paragraph on the procedure behind the times."""
    recipes = sorted({", ".join(training.recipe) for training in measured.trainings if training.recipe})
    recipe = f" Recipe: {'; '.join(recipes)}." if recipes else ""
    unplanned = sum(training.unplanned_compilations for training in measured.trainings)
    return (
        "From fresh weights of the same seed, with the kernels of the optimized arm as far as the recipe allows, "
        f"{counted(len(measured.trainings), 'training')} to the end of a plan that the config gives.{recipe} Steps of "
        "the optimized arm were timed before and after each: a share is of what that arm's whole training takes at "
        "that time, and by the paired speed-up of the baseline's. The executed steps were those of the plan, and "
        f"{counted(unplanned, 'program')} had to be compiled while they ran. What a kind of steps saves is against its "
        "tokens in the training's own largest steps of all layers; it repays the compilation of its program where that "
        "is more."
    )


def shares(results: Results) -> Table:
    """Table of each training with its time and loss, beside the kernels alone."""
    comparison, measured = results.comparison, results.time_to_loss
    assert comparison is not None and measured is not None, "for runs with such trainings"
    baseline, optimized = (results.arms[name] for name in (comparison.baseline, comparison.optimized))
    speed = comparison.step_time_speedup.estimate
    rows = [
        (
            "baseline",
            "100 %",
            duration(baseline.train_seconds),
            "1",
            "1",
            number(measured.target_loss, ".4f"),
            "",
            "",
        ),
        (
            "kernels",
            "100 %",
            duration(optimized.train_seconds),
            number(None if speed is None else 1 / speed),
            _with_compilation(baseline, optimized),
            number(optimized.final_heldout_loss, ".4f"),
            number(comparison.heldout_loss_difference.estimate, "+.4f"),
            interval(comparison.heldout_loss_difference.ci95, "+.3f"),
        ),
        *(_row(training) for training in measured.trainings),
    ]
    header = (
        *("", "tokens", "s", "share of baseline's time", "compilation counted"),
        *("final loss", "above baseline's", "95 % interval"),
    )
    return Table("Time to the baseline's final loss", header, tuple(rows), numeric=True)


def _with_compilation(baseline: ArmResult, optimized: ArmResult) -> str:
    if baseline.compiled_from_cache != optimized.compiled_from_cache:
        return number(None)
    slow, fast = (arm.train_seconds + arm.compile_seconds for arm in (baseline, optimized))
    return number(fast / slow if slow > 0 else None)


def _row(training: Training) -> tuple[str, ...]:
    return (
        _with(training),
        percent(training.tokens_share, ".0f"),
        duration(training.seconds),
        number(training.share_of_baseline),
        number(training.share_of_baseline_with_compile),
        number(training.loss, ".4f"),
        number(training.loss_difference.estimate, "+.4f"),
        interval(training.loss_difference.ci95, "+.3f"),
    )


def steps(measured: TimeToLoss) -> Table:
    """Table of the steps of each training by program: number, seconds, and whether they repaid its compilation."""
    rows = tuple(
        (_with(training) if i == 0 else "", *_kind(kind))
        for training in measured.trainings
        for i, kind in enumerate(training.kinds)
    )
    header = ("", "steps", "batch", "length", "layers", "ms a step", "s compiling", "s saved", "repaid")
    return Table("Kinds of steps that were executed", header, rows, numeric=True)


def _kind(kind: StepKind) -> Sequence[str]:
    return (
        f"{kind.steps:,}",
        str(kind.batch_size),
        str(kind.seq_len),
        str(kind.depth or "all"),
        duration(kind.seconds / kind.steps, 1e-3),
        duration(kind.compile_seconds),
        "" if kind.saved_seconds is None else duration(kind.saved_seconds),
        {None: "", True: "yes", False: "no"}[kind.repaid],
    )
