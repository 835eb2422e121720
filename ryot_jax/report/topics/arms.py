"""The outcomes of both arms side by side."""

from collections.abc import Callable, Mapping

from ryot_jax.comparison.schema import ArmResult, Results
from ryot_jax.report.parts import Part, Table
from ryot_jax.report.words import (
    NOTHING,
    duration,
    item_name,
    loss_name,
    loss_unit,
    mebibytes,
    number,
    ordered_arms,
    titled,
)


def deltas(results: Results) -> Table:
    """Table of the arms: baseline, optimized and delta, or one column for a single arm."""
    arms = ordered_arms(results)
    unit, held_out = loss_unit(results), loss_name(results) == "held-out loss"
    rows = [_row(titled("final training loss", unit), arms, lambda arm: arm.final_train_loss, _loss, difference=True)]
    if held_out:
        final, best = (titled(f"{which} held-out loss", unit) for which in ("final", "best"))
        rows.insert(0, _row(final, arms, lambda arm: arm.final_heldout_loss, _loss, difference=True))
        rows.append(_row(best, arms, lambda arm: arm.best_heldout_loss, _loss, difference=True))
    rows += [
        _row("training time (s, compile apart)", arms, lambda arm: arm.train_seconds, duration),
        _row("compile time (s)", arms, lambda arm: arm.compile_seconds, duration),
        _row("total time (s)", arms, lambda arm: arm.train_seconds + arm.compile_seconds, duration),
        _row(f"throughput ({item_name(results)}s/s)", arms, lambda arm: arm.tokens_per_second, _whole),
        _row("step time, median (ms)", arms, lambda arm: arm.step_ms_median, duration),
        _row("memory of the step (MiB)", arms, lambda arm: arm.memory_bytes, mebibytes),
        _row("parameters", arms, lambda arm: arm.parameters, _whole),
    ]
    comparison = results.comparison
    if comparison is None:
        return Table("What the arm came to", ("", *arms), tuple(rows), numeric=True)
    pairs = comparison.training_pairs
    of = f" (training pair of seed {pairs[0].seed})" if len(pairs) > 1 else ""
    return Table(f"What both arms came to{of}", ("", *arms, "delta"), tuple(rows), numeric=True)


def section(results: Results) -> list[Part | None]:
    """The section with the table of the arms."""
    return [deltas(results)]


def _row(
    title: str,
    arms: Mapping[str, ArmResult],
    value: Callable[[ArmResult], float | None],
    words: Callable[[float | None], str],
    *,
    difference: bool = False,
) -> tuple[str, ...]:
    """A row of the table: `words` formats a value; the delta is a difference if `difference`, else a percentage."""
    values = [value(arm) for arm in arms.values()]
    cells = tuple(words(one) for one in values)
    if len(values) == 1:
        return (title, *cells)
    baseline, optimized = values
    if baseline is None or optimized is None or not (baseline or difference):
        return (title, *cells, NOTHING)
    delta = f"{optimized - baseline:+.4f}" if difference else f"{optimized / baseline - 1:+.1%}"
    return (title, *cells, delta)


def _loss(value: float | None) -> str:
    return number(value, ".4f")


def _whole(value: float | None) -> str:
    return number(value, ",.0f")
