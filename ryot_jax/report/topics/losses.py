"""The losses over steps and seconds, and the time at which each arm reached the baseline's final loss."""

from ryot_jax.comparison.schema import Epoch, ReachedTarget, Results
from ryot_jax.report.parts import Paragraph, Part, Pictures, Table, sentence_or_none
from ryot_jax.report.words import NOTHING, duration, item_name, loss_name, loss_unit, number, ordered_arms, pick

MOST_EPOCHS = 100  # rows of the epoch table; longer runs show every second, third, ... epoch


def time_to_target(results: Results) -> str | None:
    """One sentence on the time of each arm to the target loss; None for a single arm or without held-out loss."""
    comparison = results.comparison
    if comparison is None or comparison.time_to_target.target_loss is None:
        return None
    target = comparison.time_to_target
    reached = "; ".join(_reached(name, target.arms[name]) for name in ordered_arms(results))
    text = f"Time to target ({loss_name(results)} {target.target_loss:.4f}, the baseline's final one): {reached}"
    if target.speedup is not None:
        text += f"; {target.speedup:.3f} times as fast, {number(target.speedup_with_compile)} with compilation counted"
    return text + "."


def target_table(results: Results) -> Table | None:
    """Table of steps and seconds until each arm reached the target loss; None if there is no target."""
    comparison = results.comparison
    if comparison is None or comparison.time_to_target.target_loss is None:
        return None
    target = comparison.time_to_target
    arms = [(name, target.arms[name]) for name in ordered_arms(results)]
    rows = [
        (
            name,
            "not reached" if arm.step is None else f"{arm.step:,.0f}",
            duration(arm.seconds),
            duration(arm.seconds_with_compile),
        )
        for name, arm in arms
    ]
    rows.append(("speed-up", "", number(target.speedup), number(target.speedup_with_compile)))
    header = ("", "step", "training seconds", "with compilation")
    caption = f"Time to the target, a {loss_name(results)} of {target.target_loss:.4f}{loss_unit(results)}"
    return Table(caption, header, tuple(rows), numeric=True)


def epochs(results: Results) -> Table:
    """Table of losses, seconds and tokens/s per epoch and arm; of long runs every second, third, ... epoch."""
    arms = ordered_arms(results)
    header = ["epoch"]
    for name in arms:
        header += [f"{name} train loss", "held-out loss", "seconds", f"{item_name(results)}s/s"]
    of_arm = {name: {e.epoch: _epoch(e) for e in arm.epochs} for name, arm in arms.items()}
    known = sorted({epoch for rows in of_arm.values() for epoch in rows})
    missing = (NOTHING,) * 4
    rows = [(str(n), *(cell for name in arms for cell in of_arm[name].get(n, missing))) for n in known]
    every = -(-len(rows) // MOST_EPOCHS) or 1
    sampled = rows[::-1][::every][::-1]  # counted from the last epoch, which is always included
    caption = "Epochs" if every == 1 else f"Epochs: one in {every} of {len(rows):,}; results.json holds all"
    return Table(caption, tuple(header), tuple(sampled), numeric=True)


def section(results: Results) -> list[Part | None]:
    """The section with the loss curves and the table of epochs."""
    return [
        sentence_or_none(time_to_target(results)),
        Pictures(("convergence", "wall_clock")),
        target_table(results),
        _rows_or("No epoch ended with an evaluation: there is no curve to show.", epochs(results)),
    ]


def limits(results: Results) -> list[str]:
    """Limits of the time to target, one sentence each."""
    if results.comparison is None or results.comparison.time_to_target.speedup is None:
        return []
    return ["Time to target is interpolated between evaluations of one training pair, without an interval."]


def limits_of_data(results: Results) -> list[str]:
    """Limits of the losses on other data, one sentence each."""
    if loss_name(results) != "held-out loss":
        return ["Nothing was held out: the losses are training losses, and say nothing of other data."]
    return [
        pick(
            results,
            "Held-out loss was measured on text like the training text; other text and tasks were not tried.",
            "Held-out loss was measured on the examples that were given; other data were not tried.",
        )
    ]


def _reached(name: str, arm: ReachedTarget) -> str:
    if arm.step is None:
        return f"{name} does not reach it"
    return f"{name} at step {arm.step:,.0f} after {duration(arm.seconds)} s"


def _epoch(epoch: Epoch) -> tuple[str, ...]:
    return (
        number(epoch.train_loss, ".4f"),
        number(epoch.heldout_loss, ".4f"),
        duration(epoch.seconds),
        number(epoch.tokens_per_second, ",.0f"),
    )


def _rows_or(text: str, table: Table) -> Part:
    return table if table.rows else Paragraph(text)
