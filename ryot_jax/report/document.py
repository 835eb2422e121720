"""The report as sections of text, tables and pictures, in reading order.

A pure function of the results. `topics` writes the content, `formats` lays it out. A sentence explains missing data.
"""

from collections.abc import Callable

from ryot_jax.comparison.schema import Results
from ryot_jax.report.parts import Bullets, Paragraph, Part, Section
from ryot_jax.report.topics import (
    arms,
    attribution,
    compression,
    conclusions,
    controls,
    decoding,
    losses,
    pairs,
    provenance,
    roofline,
    time_to_loss,
    timing,
    verdict,
)

_FINDINGS: tuple[Callable[[Results], str | None], ...] = (
    verdict.criteria_passed,
    controls.noise_floor,
    losses.time_to_target,
    timing.break_even,
    roofline.sentence,
    attribution.sentence,
    compression.sentence,
    time_to_loss.sentence,
    decoding.sentence,
    pairs.seed_noise,
)


def findings(results: Results) -> list[str]:
    """One sentence on each measurement beside the headline; absent measurements are left out."""
    sentences = (finding(results) for finding in _FINDINGS)
    return [sentence for sentence in sentences if sentence]


def sections(results: Results) -> list[Section]:
    """The sections of the report that have content, in reading order."""
    filled = ((id, title, _present(parts(results))) for id, title, parts in _SECTIONS)
    two = results.comparison is not None
    return [
        Section(id, "Training" if id == "deltas" and not two else title, parts) for id, title, parts in filled if parts
    ]


def _summary(results: Results) -> list[Part | None]:
    sentences = [*findings(results), *(f"Warning: {warning}" for warning in results.warnings)]
    return [Paragraph(verdict.headline(results)), Bullets(tuple(sentences))]


_SECTIONS: tuple[tuple[str, str, Callable[[Results], list[Part | None]]], ...] = (
    ("summary", "Executive summary", _summary),
    ("controls", "Controls", controls.section),
    ("criteria", "Success criteria", verdict.section),
    ("deltas", "Baseline, optimized, delta", arms.section),
    ("pairs", "Effect, pair by pair", pairs.section),
    ("convergence", "Convergence", losses.section),
    ("step-time", "Step time", timing.step_time_section),
    ("compilation", "Compilation and break-even", timing.compilation_section),
    ("attribution", "Attribution", attribution.section),
    ("roofline", "Roofline and memory", roofline.section),
    ("compression", "Compression", compression.section),
    ("time-to-loss", "Schedule and recipe", time_to_loss.section),
    ("decoding", "Decoding", decoding.section),
    ("config", "Config differences", provenance.config_section),
    ("manifest", "Manifest and warnings", provenance.manifest_section),
    ("artifacts", "Artifacts", provenance.artifacts_section),
    ("not-shown", "What this does not show", conclusions.not_shown_section),
    ("next", "What next", conclusions.next_section),
)


def _present(parts: list[Part | None]) -> tuple[Part, ...]:
    return tuple(part for part in parts if part is not None)
