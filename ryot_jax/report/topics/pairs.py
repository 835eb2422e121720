"""The effect with its interval and tests, overall and by training pair and process."""

from ryot_jax.comparison.schema import LossTestsOfMargins, Results
from ryot_jax.report.parts import Paragraph, Part, Pictures, Table
from ryot_jax.report.words import (
    NOTHING,
    counted,
    duration,
    interval,
    loss_name,
    loss_unit,
    number,
    ordered_arms,
    pick,
    titled,
)


def seed_noise(results: Results) -> str | None:
    """One sentence on whether several seeds were trained; None for a single arm."""
    comparison = results.comparison
    if comparison is None:
        return None
    pairs = comparison.training_pairs
    if comparison.seed_noise_measured:
        return f"Seed noise was measured: {counted(len(pairs), 'training pair')}, each of its own seed."
    return "Seed noise was not measured: one pair of runs from one seed was trained."


def effect(results: Results) -> Table | None:
    """Table of speed-up and loss difference with intervals and tests; None for a single arm."""
    comparison = results.comparison
    if comparison is None:
        return None
    speed, loss = comparison.step_time_speedup, comparison.heldout_loss_difference
    saved, tests = comparison.seconds_per_step_difference, comparison.loss_tests
    saved_ci = None if saved.ci95 is None else [-1e3 * saved.ci95[1], -1e3 * saved.ci95[0]]
    pairs = counted(speed.pairs, comparison.unit)
    units = counted(loss.pairs, loss.unit)
    rows = (
        (
            "step-time speed-up (geometric mean of ratios)",
            number(speed.estimate, ".4f"),
            interval(speed.ci95, ".4f"),
            pairs,
        ),
        ("step-time speed-up (median)", number(speed.median, ".4f"), "", pairs),
        ("p of the sign-flip test (no speed-up)", number(speed.p_sign_flip, ".2g"), "", "two-sided"),
        (
            "time saved per step (ms)",
            NOTHING if saved.estimate is None else f"{-1e3 * saved.estimate:,.3f}",
            interval(saved_ci, ",.3f"),
            pairs,
        ),
        (
            titled(f"{loss_name(results)}, {comparison.optimized} - {comparison.baseline}", loss_unit(results)),
            number(loss.estimate, "+.5f"),
            interval(loss.ci95, "+.5f"),
            f"{units}, correlation {number(loss.correlation, '.4f')}",
        ),
        _test("p of losses apart", tests, tests.p_tost, tests.margin, "two one-sided tests"),
        _test("p of losses apart", tests, tests.p_tost_tight, tests.tight_margin, "two one-sided tests"),
        _test("p of a loss that is higher", tests, tests.p_no_worse, tests.tight_margin, "one-sided test"),
    )
    return Table("Speed-up and loss difference", ("", "estimate", "95 % interval", "from"), rows)


def training_pairs(results: Results) -> Table | None:
    """Table with one row per training pair; None if there is only one."""
    comparison = results.comparison
    if comparison is None or len(comparison.training_pairs) < 2:
        return None
    losses = tuple(f"{name} loss" for name in ordered_arms(results))
    header = ("pair", "seed", "block pairs", "speed-up", *losses, "difference")
    rows = tuple(
        (
            str(pair.index + 1),
            str(pair.seed),
            f"{pair.block_pairs:,}",
            number(pair.speedup, ".4f"),
            number(pair.baseline_loss, ".4f"),
            number(pair.optimized_loss, ".4f"),
            number(pair.loss_difference, "+.4f"),
        )
        for pair in comparison.training_pairs
    )
    return Table("Training pairs, each of its own seed", header, rows, numeric=True)


def processes(results: Results) -> Table | None:
    """Table with one row per fresh process; None if there was none."""
    comparison = results.comparison
    if comparison is None or not comparison.processes:
        return None
    arms = tuple(ordered_arms(results))
    header = ("process", "block pairs", "speed-up", *(f"{name} compile (s)" for name in arms))
    rows = tuple(
        (
            str(process.index),
            f"{process.block_pairs:,}",
            number(process.speedup, ".4f"),
            *(duration(process.compile_seconds.get(name)) for name in arms),
        )
        for process in comparison.processes
    )
    return Table("Fresh processes, which compiled their programs anew", header, rows, numeric=True)


def section(results: Results) -> list[Part | None]:
    """The section on the effect and its unit of analysis."""
    comparison = results.comparison
    if comparison is None:
        return [Paragraph("No pairs: a single arm was trained, and nothing was compared.")]
    return [
        effect(results),
        Paragraph(
            f"The interval of the speed-up is taken over {_plural(comparison.unit)}, that of the loss difference "
            f"over {_plural(comparison.heldout_loss_difference.unit)}. {seed_noise(results)}"
        ),
        Pictures(("paired_speedup", "paired_loss")),
        training_pairs(results),
        processes(results),
    ]


def limits(results: Results) -> list[str]:
    """Limits of the effect on other seeds, machines and compilations, one sentence each."""
    comparison = results.comparison
    if comparison is None:
        return []
    pairs, processes = comparison.training_pairs, comparison.processes
    of_loss = (
        "Seed noise was not measured: one pair of runs from one seed was trained. The interval of the loss "
        f"difference holds the choice of {comparison.heldout_loss_difference.unit}s only."
    )
    if comparison.seed_noise_measured:
        of_loss = (
            f"The loss difference is that of {counted(len(pairs), 'seed')}: what is smaller than its interval is not "
            "shown, and neither is another setting of the training."
        )
    of_speed = (
        "The speed-up is that of this machine, this model size and these compiled programs; a recompile may "
        "choose other code."
    )
    if processes:
        of_speed = (
            f"The speed-up is that of this machine and this model size, over {len(processes) + 1} compilations of the "
            "same programs."
        )
    return [of_loss, of_speed]


def advice(results: Results) -> list[str]:
    """Advice on repetitions needed before a difference or a small speed-up can be claimed."""
    comparison = results.comparison
    if comparison is None:
        return []
    seeds = pick(
        results,
        "Repeat with other seeds (comparison.pairs=8) before claiming a difference of losses.",
        "Repeat from other initial states and with other batches before claiming a difference of losses.",
    )
    processes = pick(
        results,
        "Time fresh processes too (comparison.processes=3) before claiming a small speed-up.",
        "Repeat in fresh processes, which compile anew, before claiming a small speed-up.",
    )
    return [*([] if comparison.seed_noise_measured else [seeds]), *([] if comparison.processes else [processes])]


def _plural(unit: str) -> str:
    return unit + ("es" if unit.endswith("s") else "s")


def _test(title: str, tests: LossTestsOfMargins, p: float | None, margin: float, kind: str) -> tuple[str, ...]:
    return (f"{title} by {margin:g} or more", number(p, ".2g"), "", f"{kind}, {tests.unit}s")
