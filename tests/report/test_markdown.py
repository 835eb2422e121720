"""report.md: every section is there, numbers come from the results, and text stays text."""

import re

from ryot_jax.report import files, markdown, plots

SECTIONS = [
    "Executive summary",
    "Baseline, optimized, delta",
    "Effect",
    "Success criteria",
    "Convergence",
    "Epochs",
    "Optimizations",
    "Data and machine",
    "Artifacts",
    "What this does not show",
    "What next",
]


def test_the_report_has_its_sections_in_order(results):
    text = markdown.render(results, {"convergence": "convergence.png"})
    assert text.startswith("# scaled: PASS\n")
    assert re.findall(r"^## (.*)$", text, re.M) == SECTIONS
    assert "![Held-out loss against training steps" in text and "(convergence.png)" in text
    assert "Seed noise was not measured" in text


def test_every_table_row_has_the_columns_of_its_header(results):
    text = markdown.render(results, {})
    tables = re.findall(r"(?:^\|.*\|$\n?)+", text, re.M)
    assert len(tables) == 7
    for table in tables:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}
        assert len(counts) == 1


def test_the_epoch_table_has_one_row_per_epoch_with_both_arms(results):
    text = markdown.render(results, {})
    epochs = text[text.index("## Epochs") : text.index("## Optimizations")]
    rows = [line for line in epochs.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == 8
    assert rows[0] == "| 1 | 5.1688 | 5.1688 | 25.0 | 16,384 | 5.1728 | 5.1728 | 20.0 | 20,480 |"


def test_markup_in_a_name_stays_text(results):
    results["name"] = "<script>alert(1)</script> | a_b *c* `d` [e](f)\n# g"
    first = markdown.render(results, {}).splitlines()[0]
    assert "<script>" not in first and "&lt;script&gt;" in first
    assert r"\| a\_b \*c\* \`d\` \[e\](f) \# g" in first


def test_one_arm_alone_is_reported_without_a_comparison(results):
    results["comparison"] = None
    del results["arms"]["optimized"]
    text = markdown.render(results, {})
    assert "## Effect" not in text and "Seed noise" not in text and "## Training" in text


def test_what_next_follows_from_the_criteria(results):
    results["criteria"][1]["verdict"] = results["verdict"] = "FAIL"
    assert "to find the one that costs" in markdown.render(results, {})


def test_write_leaves_the_report_and_its_plots(results, tmp_path):
    written = files.write(tmp_path, results)
    assert {path.name for path in written} == {"report.md", "convergence.png", "step_time.png"}
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for name in plots.PLOTS:
        assert f"({name}.png)" in text and (tmp_path / f"{name}.png").stat().st_size < 200_000
