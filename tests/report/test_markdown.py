"""report.md: every section is there, numbers come from the results, and text stays text."""

import re

import pytest
from msgspec.structs import replace

from ryot_jax.comparison.results import decode
from ryot_jax.report import document, files, plots
from ryot_jax.report.formats import markdown
from ryot_jax.runtime.json_values import plain

SECTIONS = [
    "Executive summary",
    "Controls",
    "Success criteria",
    "Baseline, optimized, delta",
    "Effect, pair by pair",
    "Convergence",
    "Step time",
    "Compilation and break-even",
    "Roofline and memory",
    "Config differences",
    "Manifest and warnings",
    "Artifacts",
    "What this does not show",
    "What next",
]


def test_the_report_has_its_sections_in_order(results):
    text = markdown.render(results, {"convergence": "convergence.png"})
    assert text.startswith("# scaled: PASS\n")
    assert re.findall(r"^## (.*)$", text, re.M) == SECTIONS
    assert "![Held-out loss in nats per token: baseline from 7.643 to" in text and "](convergence.png)" in text
    assert "Seed noise was not measured" in text


def test_the_attribution_has_a_section_where_there_is_one(situation):
    titles = [section.title for section in document.sections(situation("ablated"))]
    assert titles == [*SECTIONS[:8], "Attribution", *SECTIONS[8:]]


def test_the_compression_has_a_section_where_there_is_one(situation):
    titles = [section.title for section in document.sections(situation("compressed"))]
    assert titles == [*SECTIONS[:9], "Compression", *SECTIONS[9:]]


def test_decoding_has_a_section_where_there_is_some(situation):
    titles = [section.title for section in document.sections(situation("decoded"))]
    assert titles == [*SECTIONS[:9], "Decoding", *SECTIONS[9:]]
    titles = [section.title for section in document.sections(_with_compression(situation("decoded"), situation))]
    assert titles == [*SECTIONS[:9], "Compression", "Decoding", *SECTIONS[9:]]


def _with_compression(results, situation):
    return replace(results, compression=situation("compressed").compression)


def test_schedule_and_recipe_have_a_section_where_they_were_trained(situation, edit):
    titles = [section.title for section in document.sections(_with_schedule(situation("decoded"), situation))]
    assert titles == [*SECTIONS[:9], "Schedule and recipe", "Decoding", *SECTIONS[9:]]
    # None came to its end, which a warning says.
    results = edit(situation("scheduled"), "time_to_loss", trainings=())
    assert [section.title for section in document.sections(results)] == list(SECTIONS)


def _with_schedule(results, situation):
    return replace(results, time_to_loss=situation("scheduled").time_to_loss)


def _older(results, field):
    """The results of a file that lacks a field."""
    values = plain(results)
    del values[field]
    return decode(values)


def test_a_file_older_than_decoding_is_a_run_that_generated_nothing(results):
    assert results.decoding is None
    text = markdown.render(results, {})
    assert "ecoding" not in text
    assert markdown.render(_older(results, "decoding"), {}) == text


def test_a_file_older_than_the_field_is_a_run_that_compressed_nothing(results):
    assert results.compression is None
    text = markdown.render(results, {})
    assert "ompress" not in text
    assert markdown.render(_older(results, "compression"), {}) == text


def test_every_table_row_has_the_columns_of_its_header(any_results):
    text = markdown.render(any_results, {})
    tables = re.findall(r"(?:^\|.*\|$\n?)+", text, re.M)
    assert len(tables) >= 6
    for table in tables:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}
        assert len(counts) == 1


def test_no_section_is_empty(any_results):
    text = markdown.render(any_results, {})
    assert not re.findall(r"^## .*\n+(?=## |\Z)", text, re.M)


def test_the_epoch_table_has_one_row_per_epoch_with_both_arms(results):
    text = markdown.render(results, {})
    epochs = text[text.index("**Epochs**") : text.index("## Step time")]
    rows = [line for line in epochs.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == 8
    assert rows[0] == "| 1 | 5.2501 | 5.1501 | 16.1 | 25,441 | 5.2541 | 5.1541 | 12.9 | 31,827 |"


def test_the_numbers_of_what_was_found_are_in_its_tables(situation):
    text = markdown.render(replace(situation("many_seeds"), attribution=situation("ablated").attribution), {})
    for row in (
        "| step-time speed-up (geometric mean of ratios) | 1.2510 | 1.2210 to 1.2820 | 4 processes |",
        "| time saved per step (ms) | 32.300 | 31.100 to 33.500 | 4 processes |",
        "| p of losses apart by 0.1 or more | 1e-90 |  | two one-sided tests, training pairs |",
        "| optimized | 790 | 101.7 | 115.5 |",
        "| baseline | 0.900 | 0.400 | 6.30 | 7.60 | 1.06 | 161.0 |",
        "| dense | xla | 1.180 (1.168 to 1.192) | 0.0012 | 1.150 (1.138 to 1.162) | 0.0018 | 1.165 (1.153 to 1.177) |",
        "| baseline | float32 | 26.0 | 1,112.0 | 1,100.0 | 23.6 | 161.0 | 161.0 | 260.0 | 62 % | compute |",
        "| matrix product, float32 | 260.0 GFLOP/s | numpy |",
        "| optimizations.dense | off | xla |",
        "| 2 | 8 | 1.2630 | 7.70 | 13.1 |",
        "| processor.vector\\_flags | avx2, avx512\\_bf16 |",
    ):
        assert row in text


def test_what_was_not_measured_is_said_with_its_reason(situation):
    text = markdown.render(situation("single_arm"), {})
    for sentence in (
        "No controls were run: nothing was compared.",
        "No pairs: a single arm was trained, and nothing was compared.",
        "Step times are kept block by block where two arms are compared; here there is one.",
        "The roofline was not measured in this run.",
        "There is one arm: nothing differs.",
        "No warnings.",
    ):
        assert sentence in text
    text = markdown.render(situation("nothing_measured"), {})
    for sentence in (
        "No epoch ended with an evaluation: there is no curve to show.",
        "No block was timed.",
        "The arms differ in no field of the config.",
        "The results name no files.",
        "Compiling once more, from the cache, was not measured for baseline and optimized.",
        "Roofline: baseline was not measured; optimized was not measured.",
    ):
        assert sentence in text


def test_the_numbers_of_the_compression_are_in_its_tables(situation):
    text = markdown.render(situation("compressed"), {})
    for row in (
        "| parameters in float32 | 4,287,488 | 32.000 | 12.258 |",
        "| the same, lossless (lzma) | 3,800,000 | 28.362 | 10.865 |",
        "| the file | 349,757 | 2.610 | 1.000 |",
        "| in it: side information | 12,237 | 0.091 | 0.035 |",
        "| entropy of the codes, given their classes | 336,436 | 2.511 | 0.962 |",
        "| held-out loss (nats/token) | 3.4555 | 3.4652 | +0.0097 | +0.0091 to +0.0103 |",
        "| perplexity | 31.67 | 31.98 | +0.97 % | +0.92 to +1.03 % |",
        "| KL divergence (nats/token) |  |  | 0.0051 | 0.0049 to 0.0053 |",
        "| same likeliest token |  |  | 93.40 % | 93.10 to 93.70 % |",
        "| tokens/s, one text at a time | 3,000 | 2,900 | 0.970 x | 0.940 to 1.000 |",
        "| mlp | 589,824 | 2.25 | +0.0053 | +0.0059 | 55.0 % |",
        "| all | 1,071,872 | 2.48 | +0.0096 | +0.011 | 100.0 % |",
        "| GPTQ, equal bits | 3 bits | 411,000 | +1.250 % | +1.100 to +1.400 % | 512 |",
        "| lossless | lzma | 3,800,000 | +0.000 % | +0.000 to +0.000 % | 512 |",
    ):
        assert row in text
    assert text.index("rises by 0.97 %") < text.index("Caution: this model") < text.index("parameters in float32 |")


def test_what_the_compression_lacks_is_left_out_or_said_to_be_missing(situation, edit):
    text = markdown.render(situation("compressed_alone"), {"compression": "compression.png"})
    assert "| tokens/s, one text at a time | n/a | n/a | n/a | no interval |" in text
    assert "by method" not in text and "share of the rise" not in text and "lower and further" not in text
    results = edit(situation("compressed"), "compression.arrays.1", rise=None)
    text = markdown.render(results, {})
    assert "| mlp | 589,824 | 2.25 | n/a | +0.0059 | n/a |" in text
    assert "| all | 1,071,872 | 2.48 | n/a | +0.011 | n/a |" in text


def test_the_command_that_writes_with_the_compressed_file_is_for_runs_that_have_one(situation):
    command = "\n    ryot generate --run=RUN --compressed\n"
    text = markdown.render(situation("compressed"), {})
    assert text.index("## What next") < text.index(command)
    assert command not in markdown.render(situation("passed"), {})


def test_the_command_that_draws_it_again_is_for_the_runs_that_have_a_directory(situation):
    assert "\n    ryot report --run=RUN\n" in markdown.render(situation("passed"), {})
    assert "ryot report" not in markdown.render(situation("brought"), {})


HOSTILE = "<script>alert(1)</script> | a_b *c* `d` [e](f)\n# g"


@pytest.mark.parametrize(
    "place", ["name", "warning", "criterion", "config", "arm", "artifact", "compression", "decoding", "schedule"]
)
def test_markup_in_any_text_stays_text(situation, renamed, edit, place):
    results = _with_schedule(_with_compression(situation("decoded"), situation), situation)
    match place:
        case "name":
            results = edit(results, name=HOSTILE)
        case "warning":
            results = edit(results, warnings=(HOSTILE,))
        case "criterion":
            results = edit(results, "criteria.0", actual=HOSTILE)
        case "config":
            results = edit(results, "config_differences.0", optimized=HOSTILE)
        case "arm":
            results = renamed(results, {"optimized": HOSTILE})
        case "artifact":
            results = edit(results, artifacts={HOSTILE: HOSTILE})
        case "compression":
            words = dict.fromkeys(("arm", "budget", "file", "lossless_coder"), HOSTILE)
            results = edit(results, "compression", **words)
            results = edit(results, "compression.arrays.0", name=HOSTILE)
            results = edit(results, "compression.pareto.0", method=HOSTILE)
            results = edit(results, "compression.pareto.1", setting=HOSTILE)
        case "decoding":
            words = dict.fromkeys(("arm", "engine", "dtype", "draft"), HOSTILE)
            results = edit(results, "decoding", **words)
        case "schedule":
            results = edit(results, "time_to_loss.trainings.1", name=HOSTILE, recipe=(HOSTILE,))
    text = markdown.render(results, dict.fromkeys(plots.PLOTS, "x.png"))
    assert "<script>" not in text and "\n# g" not in text
    assert r"&lt;script&gt;alert(1)&lt;/script&gt; \| a\_b \*c\* \`d\` \[e\](f) \# g" in text


def test_write_leaves_the_reports_and_their_plots(results, tmp_path):
    written = files.write(tmp_path, results)
    drawn = {f"{name}.png" for name in plots.PLOTS if name not in ("attribution", "compression")}
    assert [path.name for path in written[:2]] == ["report.html", "report.md"]
    assert {path.name for path in written[2:]} == drawn
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for name in drawn:
        assert f"({name})" in text and (tmp_path / name).stat().st_size < 200_000
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
