"""Step times by block, and the cost of compiling the programs."""

from ryot_jax.comparison.schema import Results
from ryot_jax.report.parts import Paragraph, Part, Pictures, Table, sentence_or_none
from ryot_jax.report.words import duration, ordered_arms


def break_even(results: Results) -> str | None:
    """One sentence on the number of steps that repay a longer compilation; None for a single arm."""
    comparison = results.comparison
    if comparison is None:
        return None
    steps, names = comparison.break_even_steps, (comparison.optimized, comparison.baseline)
    if steps is None:
        measured = comparison.seconds_per_step_difference.estimate is not None
        text = "never; no time is saved per step" if measured else "step times were not measured"
    elif steps == 0:
        text = f"at once; {names[0]} takes no longer to compile than {names[1]}"
    else:
        extra = results.arms[names[0]].compile_seconds - results.arms[names[1]].compile_seconds
        text = f"after {steps:,.0f} steps the {duration(extra)} s of longer compilation are paid back"
    cached = any(arm.compiled_from_cache for arm in results.arms.values())
    return f"Break-even: {text}{'; programs came from the cache, so that a first run may differ' if cached else ''}."


def compilation_not_measured(results: Results) -> list[str]:
    """The times of cold and warm compilation that were not measured, one sentence each."""
    arms = ordered_arms(results)
    sentences = []
    cached = [name for name, arm in arms.items() if arm.compiled_from_cache]
    if cached:
        sentences.append(
            f"The programs of {' and '.join(cached)} came from the cache of compiled programs: compiling them anew "
            "was not measured."
        )
    no_warm = [name for name, arm in arms.items() if arm.compile_warm_seconds is None]
    if no_warm:
        sentences.append(f"Compiling once more, from the cache, was not measured for {' and '.join(no_warm)}.")
    return sentences


def compilation(results: Results) -> Table:
    """Table of the seconds of compilation by part, cold and from the warm cache, beside the step time."""
    arms = ordered_arms(results)
    parts = list(dict.fromkeys(part for arm in arms.values() for part in arm.compile_parts))
    header = ("", *(f"{part} (s)" for part in parts), "in all (s)", "from the cache (s)", "step, median (ms)")
    rows = tuple(
        (
            name,
            *(duration(arm.compile_parts.get(part)) for part in parts),
            duration(arm.compile_seconds),
            duration(arm.compile_warm_seconds),
            duration(arm.step_ms_median),
        )
        for name, arm in arms.items()
    )
    return Table("Compilation of the training step, and its steady state", header, rows, numeric=True)


def step_time_section(results: Results) -> list[Part | None]:
    """The section on step times by block."""
    comparison = results.comparison
    if comparison is None:
        return [Paragraph("Step times are kept block by block where two arms are compared; here there is one.")]
    if not comparison.step_time_speedup.blocks:
        return [Paragraph("No block was timed.")]
    return [
        Paragraph("A block's time per step is one point: single steps are not timed, and no block is left out."),
        Pictures(("step_time_distribution", "step_time")),
    ]


def compilation_section(results: Results) -> list[Part | None]:
    """The section on the seconds of compilation and their break-even."""
    return [
        compilation(results),
        sentence_or_none(break_even(results)),
        *(Paragraph(sentence) for sentence in compilation_not_measured(results)),
        Pictures(("compilation",)),
    ]


def limits(results: Results) -> list[str]:
    """Costs that step times and throughput do not include, one sentence each."""
    return [] if results.comparison is None else ["Compile time is apart from the step times and from the throughput."]
