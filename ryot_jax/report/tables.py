"""The tables of a report on what was compared: results in, rows of words out.

Tables on the programs and the machine are in `machine_tables`. Nothing is computed anew but sums and differences of
numbers that stand in the results.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ryot_jax.report.parts import Table
from ryot_jax.report.words import (
    NOTHING,
    Results,
    counted,
    duration,
    interval,
    item_name,
    loss_name,
    loss_unit,
    number,
    ordered_arms,
    scaled,
    spaced,
    titled,
)

MOST_EPOCHS = 100  # rows of the epoch table; of longer runs it shows every second, third, ... epoch


def deltas(results: Results) -> Table:
    """Baseline | optimized | delta, or one column for a single arm."""
    arms = ordered_arms(results)
    totals = {name: {**arm, "total": arm["train_seconds"] + arm["compile_seconds"]} for name, arm in arms.items()}
    unit, held_out = loss_unit(results), loss_name(results) == "held-out loss"
    losses = {"final held-out loss": "final_heldout_loss"} if held_out else {}
    losses["final training loss"] = "final_train_loss"
    losses |= {"best held-out loss": "best_heldout_loss"} if held_out else {}
    rows = (
        *(_row(titled(title, unit), arms, key, _loss, difference=True) for title, key in losses.items()),
        _row("training time (s, compile apart)", arms, "train_seconds", duration),
        _row("compile time (s)", arms, "compile_seconds", duration),
        _row("total time (s)", totals, "total", duration),
        _row(f"throughput ({item_name(results)}s/s)", arms, "tokens_per_second", _whole),
        _row("step time, median (ms)", arms, "step_ms_median", duration),
        _row("memory of the step (MiB)", arms, "memory_bytes", _mebibytes),
        _row("parameters", arms, "parameters", _whole),
    )
    comparison = results["comparison"]
    if comparison is None:
        return Table("What the arm came to", ("", *arms), rows, numeric=True)
    pairs = comparison["training_pairs"]
    of = f" (training pair of seed {pairs[0]['seed']})" if len(pairs) > 1 else ""
    return Table(f"What both arms came to{of}", ("", *arms, "delta"), rows, numeric=True)


def criteria(results: Results) -> Table:
    """Criterion | target | actual | verdict."""
    rows = tuple((spaced(c["name"]), c["target"], c["actual"], c["verdict"]) for c in results["criteria"])
    return Table("Each criterion with its target", ("criterion", "target", "actual", "verdict"), rows)


def controls(results: Results) -> Table | None:
    """Control | what was done | target | actual | verdict; None where none were run."""
    if results["controls"] is None:
        return None
    rows = tuple(
        (spaced(c["name"]), c["description"], c["target"], c["actual"], c["verdict"])
        for c in results["controls"]["items"]
    )
    return Table(
        "Each control with its known answer", ("control", "what was done", "target", "actual", "verdict"), rows
    )


def estimands(results: Results) -> Table | None:
    """What the run said before its first step that it would measure; None where it said nothing."""
    stated = results["estimands"]
    if stated is None:
        return None
    rows = tuple((e["name"], e["unit"], e["statistic"], e["criterion"]) for e in stated["items"])
    return Table("What was to be measured", ("estimand", "unit", "statistic", "criterion"), rows)


def effect(results: Results) -> Table | None:
    """Speed-up and loss difference with their intervals and tests; None for a single arm."""
    comparison = results["comparison"]
    if comparison is None:
        return None
    speed, loss = comparison["step_time_speedup"], comparison["heldout_loss_difference"]
    saved, tests = comparison["seconds_per_step_difference"], comparison["loss_tests"]
    saved_ci = None if saved["ci95"] is None else [-1e3 * saved["ci95"][1], -1e3 * saved["ci95"][0]]
    pairs = counted(speed["pairs"], comparison["unit"])
    units = counted(loss["pairs"], loss["unit"])
    rows = (
        (
            "step-time speed-up (geometric mean of ratios)",
            number(speed["estimate"], ".4f"),
            interval(speed["ci95"], ".4f"),
            pairs,
        ),
        ("step-time speed-up (median)", number(speed["median"], ".4f"), "", pairs),
        ("p of the sign-flip test (no speed-up)", number(speed["p_sign_flip"], ".2g"), "", "two-sided"),
        (
            "time saved per step (ms)",
            NOTHING if saved["estimate"] is None else f"{-1e3 * saved['estimate']:,.3f}",
            interval(saved_ci, ",.3f"),
            pairs,
        ),
        (
            titled(f"{loss_name(results)}, {comparison['optimized']} - {comparison['baseline']}", loss_unit(results)),
            number(loss["estimate"], "+.5f"),
            interval(loss["ci95"], "+.5f"),
            f"{units}, correlation {number(loss['correlation'], '.4f')}",
        ),
        _test("p of losses apart", tests, "p_tost", "margin", "two one-sided tests"),
        _test("p of losses apart", tests, "p_tost_tight", "tight_margin", "two one-sided tests"),
        _test("p of a loss that is higher", tests, "p_no_worse", "tight_margin", "one-sided test"),
    )
    return Table("Speed-up and loss difference", ("", "estimate", "95 % interval", "from"), rows)


def training_pairs(results: Results) -> Table | None:
    """One row a pair of training runs; None where there is one alone."""
    comparison = results["comparison"]
    if comparison is None or len(comparison["training_pairs"]) < 2:
        return None
    losses = tuple(f"{name} loss" for name in ordered_arms(results))
    header = ("pair", "seed", "block pairs", "speed-up", *losses, "difference")
    rows = tuple(
        (
            str(pair["index"] + 1),
            str(pair["seed"]),
            f"{pair['block_pairs']:,}",
            number(pair["speedup"], ".4f"),
            number(pair["baseline_loss"], ".4f"),
            number(pair["optimized_loss"], ".4f"),
            number(pair["loss_difference"], "+.4f"),
        )
        for pair in comparison["training_pairs"]
    )
    return Table("Training pairs, each of its own seed", header, rows, numeric=True)


def processes(results: Results) -> Table | None:
    """One row a fresh process; None where there was none."""
    comparison = results["comparison"]
    if comparison is None or not comparison["processes"]:
        return None
    arms = tuple(ordered_arms(results))
    header = ("process", "block pairs", "speed-up", *(f"{name} compile (s)" for name in arms))
    rows = tuple(
        (
            str(process["index"]),
            f"{process['block_pairs']:,}",
            number(process["speedup"], ".4f"),
            *(duration(process["compile_seconds"].get(name)) for name in arms),
        )
        for process in comparison["processes"]
    )
    return Table("Fresh processes, which compiled their programs anew", header, rows, numeric=True)


def time_to_target(results: Results) -> Table | None:
    """Steps and seconds until each arm reached the target; None for a single arm or no held-out loss."""
    comparison = results["comparison"]
    if comparison is None or comparison["time_to_target"]["target_loss"] is None:
        return None
    found = comparison["time_to_target"]
    arms = [(name, found["arms"][name]) for name in ordered_arms(results)]
    rows = [
        (
            name,
            "not reached" if arm["step"] is None else f"{arm['step']:,.0f}",
            duration(arm["seconds"]),
            duration(arm["seconds_with_compile"]),
        )
        for name, arm in arms
    ]
    rows.append(("speed-up", "", number(found["speedup"]), number(found["speedup_with_compile"])))
    header = ("", "step", "training seconds", "with compilation")
    caption = f"Time to the target, a {loss_name(results)} of {found['target_loss']:.4f}{loss_unit(results)}"
    return Table(caption, header, tuple(rows), numeric=True)


def epochs(results: Results) -> Table:
    """Per-epoch losses, seconds and tokens/s of each arm; of long runs every second, third, ... epoch."""
    arms = ordered_arms(results)
    header = ["epoch"]
    for name in arms:
        header += [f"{name} train loss", "held-out loss", "seconds", f"{item_name(results)}s/s"]
    of_arm = {name: {e["epoch"]: _epoch(e) for e in arm["epochs"]} for name, arm in arms.items()}
    known = sorted({epoch for rows in of_arm.values() for epoch in rows})
    missing = (NOTHING,) * 4
    rows = [(str(n), *(cell for name in arms for cell in of_arm[name].get(n, missing))) for n in known]
    every = -(-len(rows) // MOST_EPOCHS) or 1
    shown = rows[::-1][::every][::-1]  # counted from the last, which is always there
    caption = "Epochs" if every == 1 else f"Epochs: one in {every} of {len(rows):,}; results.json holds all"
    return Table(caption, tuple(header), tuple(shown), numeric=True)


def _epoch(epoch: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        number(epoch["train_loss"], ".4f"),
        number(epoch["heldout_loss"], ".4f"),
        duration(epoch["seconds"]),
        number(epoch["tokens_per_second"], ",.0f"),
    )


def attribution(results: Results) -> Table | None:
    """What each optimization does alone, left out, and by its Shapley value; None where they were not ablated."""
    found = results["attribution"]
    if found is None:
        return None
    header = ("optimization", "implementation", "alone", "p (Holm)", "left out", "p (Holm)", "Shapley factor")
    rows = [
        (
            player["name"],
            player["implementation"],
            _with_interval(player["alone"]),
            number(player["alone"]["p_holm"], ".2g"),
            _with_interval(player["left_out"]),
            number(player["left_out"]["p_holm"], ".2g"),
            NOTHING if player["shapley"] is None else _with_interval(player["shapley"]),
        )
        for player in found["players"]
    ]
    rows.append(("all together", "", _with_interval(found["total"]), "", "", "", ""))
    rows.append(("interaction", "", _with_interval(found["interaction"]), "", "", "", ""))
    caption = f"Speed-up by optimization (ratios with 95 % intervals, {counted(found['rounds'], 'round')})"
    return Table(caption, header, tuple(rows), numeric=True)


def _with_interval(value: Mapping[str, Any]) -> str:
    if value["estimate"] is None:
        return NOTHING
    return f"{value['estimate']:.3f} ({interval(value['ci95'])})"


def _test(title: str, tests: Mapping[str, Any], key: str, margin: str, kind: str) -> tuple[str, ...]:
    return (f"{title} by {tests[margin]:g} or more", number(tests[key], ".2g"), "", f"{kind}, {tests['unit']}s")


def _row(
    title: str, arms: Mapping[str, Any], key: str, words: Callable[[Any], str], *, difference: bool = False
) -> tuple[str, ...]:
    """A row of the table of deltas: `words` says a value, the delta is a difference or else a percentage."""
    values = [arm[key] for arm in arms.values()]
    cells = tuple(words(value) for value in values)
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


def _mebibytes(value: int | None) -> str:
    return scaled(value, 2**20)
