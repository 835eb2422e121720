"""The report as sections of words, tables and pictures, in the order in which it is read.

A pure function of the results dict, laid out by `markdown` and `html`. Where data are absent, a sentence says that and
why.
"""

from ryot_jax.report import compression, decoding, limits, machine_tables, summary, tables, time_to_loss
from ryot_jax.report.parts import Bullets, Command, Paragraph, Part, Pictures, Section, Table
from ryot_jax.report.words import Results, duration, of_language_model, percent

_REDRAW = (
    Paragraph("This draws the report again, where RUN is the directory that holds results.json:"),
    Command("ryot report --run=RUN"),
)
_WRITE = (
    Paragraph("This writes text with the compressed file, where RUN is the run directory:"),
    Command("ryot generate --run=RUN --compressed"),
)


def sections(results: Results) -> list[Section]:
    """Every section of the report on `results`, the content of `results.json`."""
    two = results["comparison"] is not None
    wanted: list[tuple[str, str, list[Part | None]]] = [
        ("summary", "Executive summary", _summary(results)),
        ("controls", "Controls", _controls(results)),
        ("criteria", "Success criteria", _criteria(results)),
        ("deltas", "Baseline, optimized, delta" if two else "Training", [tables.deltas(results)]),
        ("pairs", "Effect, pair by pair", _pairs(results)),
        ("convergence", "Convergence", _convergence(results)),
        ("step-time", "Step time", _step_time(results)),
        ("compilation", "Compilation and break-even", _compilation(results)),
        ("attribution", "Attribution", _attribution(results)),
        ("roofline", "Roofline and memory", _roofline(results)),
        ("compression", "Compression", _compression(results)),
        ("time-to-loss", "Schedule and recipe", _time_to_loss(results)),
        ("decoding", "Decoding", _decoding(results)),
        ("config", "Config differences", _config(results)),
        ("manifest", "Manifest and warnings", _manifest(results)),
        ("artifacts", "Artifacts", _artifacts(results)),
        ("not-shown", "What this does not show", [Bullets(tuple(limits.not_shown(results)))]),
        ("next", "What next", _next(results)),
    ]
    return [Section(id, title, _present(parts)) for id, title, parts in wanted if _present(parts)]


def _present(parts: list[Part | None]) -> tuple[Part, ...]:
    return tuple(part for part in parts if part is not None)


def _summary(results: Results) -> list[Part | None]:
    sentences = [*summary.findings(results), *(f"Warning: {warning}" for warning in results["warnings"])]
    return [Paragraph(summary.headline(results)), Bullets(tuple(sentences))]


def _controls(results: Results) -> list[Part | None]:
    controls = results["controls"]
    if controls is None:
        why = (
            "nothing was compared"
            if results["comparison"] is None
            else "nothing shows what the noise of this machine alone looks like"
        )
        return [Paragraph(f"No controls were run: {why}.")]
    return [
        Paragraph(
            "Comparisons whose right answer is known, made with the programs and on the machine of this run in "
            f"{duration(controls['seconds'])} s. Intervals are at {percent(controls['confidence'], '.0f')}. A control "
            "that does not pass makes the verdict INCONCLUSIVE."
        ),
        Paragraph(summary.noise_floor(results) or ""),
        tables.controls(results),
        Pictures(("controls",)),
    ]


def _criteria(results: Results) -> list[Part | None]:
    stated = results["estimands"]
    if stated is None:
        return [tables.criteria(results), Paragraph("This run did not state beforehand what it would measure.")]
    when = f"on {stated['stated_at']}, before the first step" if stated["stated_at"] else "at a time not recorded"
    return [
        tables.criteria(results),
        Paragraph(f"What was to be measured was stated {when}; sha256 of the statement: {stated['sha256']}."),
        tables.estimands(results),
    ]


def _pairs(results: Results) -> list[Part | None]:
    comparison = results["comparison"]
    if comparison is None:
        return [Paragraph("No pairs: a single arm was trained, and nothing was compared.")]
    return [
        tables.effect(results),
        Paragraph(
            f"The interval of the speed-up is taken over {_plural(comparison['unit'])}, that of the loss difference "
            f"over {_plural(comparison['heldout_loss_difference']['unit'])}. {summary.seed_noise(results)}"
        ),
        Pictures(("paired_speedup", "paired_loss")),
        tables.training_pairs(results),
        tables.processes(results),
    ]


def _plural(unit: str) -> str:
    return unit + ("es" if unit.endswith("s") else "s")


def _convergence(results: Results) -> list[Part | None]:
    return [
        _sentence(summary.time_to_target(results)),
        Pictures(("convergence", "wall_clock")),
        tables.time_to_target(results),
        _rows_or("No epoch ended with an evaluation: there is no curve to show.", tables.epochs(results)),
    ]


def _step_time(results: Results) -> list[Part | None]:
    comparison = results["comparison"]
    if comparison is None:
        return [Paragraph("Step times are kept block by block where two arms are compared; here there is one.")]
    if not comparison["step_time_speedup"]["blocks"]:
        return [Paragraph("No block was timed.")]
    return [
        Paragraph("A block's time per step is one point: single steps are not timed, and no block is left out."),
        Pictures(("step_time_distribution", "step_time")),
    ]


def _compilation(results: Results) -> list[Part | None]:
    return [
        machine_tables.compilation(results),
        _sentence(summary.break_even(results)),
        *(Paragraph(sentence) for sentence in summary.compilation_not_measured(results)),
        Pictures(("compilation",)),
    ]


def _attribution(results: Results) -> list[Part | None]:
    if results["attribution"] is None:
        return []
    found = results["attribution"]
    return [
        Paragraph(
            f"{summary.attribution(results)} A step takes {duration(found['baseline_ms'])} ms with nothing on "
            f"and {duration(found['full_ms'])} ms with everything on. Alone: baseline / (baseline + it). Left "
            "out: (everything - it) / everything. p values are corrected for their number after Holm. Shapley "
            "factors average over all orders of switching on; their product is the whole speed-up."
        ),
        Pictures(("attribution",)),
        tables.attribution(results),
    ]


def _roofline(results: Results) -> list[Part | None]:
    parts: list[Part | None] = [
        Paragraph(summary.roofline(results) or "The roofline was not measured in this run."),
        Pictures(("roofline",)),
        machine_tables.roofline(results),
        machine_tables.peaks(results),
        machine_tables.memory(results),
    ]
    return parts


def _compression(results: Results) -> list[Part | None]:
    found = results.get("compression")
    if found is None:
        return []
    parts: list[Part | None] = [
        Paragraph(compression.size_and_cost(found)),
        Paragraph(compression.caution(found)),
        compression.sizes(found),
        Paragraph(compression.coding(found)),
        compression.quality(found),
        compression.arrays(found),
    ]
    if found["pareto"]:
        parts += [
            Paragraph(compression.how_to_read_trade_off(found)),
            Pictures(("compression",)),
            compression.trade_off(found),
        ]
    return parts


def _time_to_loss(results: Results) -> list[Part | None]:
    found = results.get("time_to_loss")
    if found is None or not found["trainings"]:
        return []
    return [
        Paragraph(time_to_loss.what_was_done(found)),
        time_to_loss.shares(results),
        time_to_loss.steps(found),
        Paragraph(time_to_loss.CAUTION),
    ]


def _decoding(results: Results) -> list[Part | None]:
    found = results.get("decoding")
    if found is None:
        return []
    if not decoding.was_measured(found):
        return [Paragraph(f"Generating text was {decoding.NOT_MEASURED}")]
    return [
        Paragraph(decoding.what_was_done(found)),
        decoding.speeds(found),
        Paragraph(decoding.drafts(found)),
        Paragraph(decoding.caution(found)),
    ]


def _config(results: Results) -> list[Part | None]:
    differ = machine_tables.config_differences(results)
    if results["comparison"] is None:
        why = "There is one arm: nothing differs."
    elif of_language_model(results):
        why = "The arms differ in no field of the config."
    else:
        why = "There is no config: the arms are two step functions that were brought."
    return [differ or Paragraph(why), machine_tables.optimizations(results)]


def _manifest(results: Results) -> list[Part | None]:
    warnings = results["warnings"]
    return [
        Bullets(tuple(warnings)) if warnings else Paragraph("No warnings."),
        machine_tables.facts(results),
        *(_REDRAW if of_language_model(results) else ()),
    ]


def _artifacts(results: Results) -> list[Part | None]:
    return [machine_tables.artifacts(results) or Paragraph("The results name no files.")]


def _next(results: Results) -> list[Part | None]:
    steps = Bullets(tuple(limits.next_steps(results)))
    return [steps, *(() if results.get("compression") is None else _WRITE)]


def _sentence(text: str | None) -> Paragraph | None:
    return None if text is None else Paragraph(text)


def _rows_or(text: str, table: Table) -> Part:
    return table if table.rows else Paragraph(text)
