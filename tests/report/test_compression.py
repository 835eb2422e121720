"""What is said of a compressed checkpoint: size, cost and budget, and why the ratio is no other model's."""

import pytest
from msgspec.structs import replace

from ryot_jax.comparison.schema import NOT_MEASURED, Measured
from ryot_jax.report import document
from ryot_jax.report.topics import compression, conclusions


@pytest.fixture
def found(situation):
    """The field of the results."""
    return situation("compressed").compression


def test_size_cost_and_budget_are_said_in_one_sentence(found):
    assert compression.size_and_cost(found) == (
        "The best checkpoint of arm optimized (step 800) takes 349,757 bytes, 12.3 times less than its parameters in "
        "float32, 2.61 bits a parameter in all; perplexity on 2,462 held-out sequences rises by 0.97 % (95 % interval "
        "0.92 to 1.03 %): the budget perplexity<=1% is missed (the upper end of the interval counts)."
    )


def test_a_perplexity_that_falls_is_said_to_fall(found):
    found = replace(found, perplexity_change=Measured(estimate=-0.0004, ci95=(-0.0011, 0.0003)))
    assert "sequences falls by 0.04 % (95 % interval -0.03 to 0.11 %)" in compression.size_and_cost(found)
    assert "at -0.04 % perplexity (95 % interval -0.11 to +0.03 %)" in compression.in_a_line(found)


@pytest.mark.parametrize(
    ("budget", "kept", "end"),
    [
        ("perplexity<=1%", True, "the budget perplexity<=1% is kept (the upper end of the interval counts)."),
        ("loss<=0.01", False, "the budget loss<=0.01 is missed (the upper end of the interval counts)."),
        ("ratio>=12", True, "the budget ratio>=12 is kept."),
        ("bytes<=300000", False, "the budget bytes<=300000 is missed."),
    ],
)
def test_a_budget_is_kept_or_missed_by_the_interval_or_by_the_bytes(found, budget, kept, end):
    found = replace(found, budget=budget, kept=kept)
    assert compression.size_and_cost(found).endswith(end)
    assert f"; budget {budget} {'kept' if kept else 'missed'}; compressed/best.ryot." in compression.in_a_line(found)


def test_the_summary_has_it_in_a_line_with_the_name_of_the_file(situation):
    line = (
        "Compressed: 12.3 times smaller than float32 at +0.97 % perplexity (95 % interval +0.92 to +1.03 %); budget "
        "perplexity<=1% missed; compressed/best.ryot."
    )
    assert document.findings(situation("compressed"))[-2] == line
    assert compression.sentence(situation("passed")) is None


def test_the_caution_names_the_tokens_that_stand_behind_a_parameter(found):
    assert compression.caution(found) == (
        "Caution: this model was trained on 3.1 tokens for each parameter. Models trained on few tokens per parameter "
        "compress more easily than well-trained ones (arXiv:2411.17691), so this ratio does not carry over to them."
    )


def test_entropy_lossless_coder_and_seconds_are_said(found):
    assert compression.coding(found) == (
        "The codes take 1.0007 times their entropy given their classes. The file is 10.9 times smaller than what the "
        "best lossless coder that was tried (lzma) makes of the same parameters. Compressing took 55.0 s."
    )
    found = replace(found, overhead=None)  # a file without codes
    assert compression.coding(found).startswith("The file is 10.9 times smaller")


def test_what_was_not_measured_is_said_to_be_that(found):
    found = replace(found, perplexity_change=NOT_MEASURED)
    assert "perplexity on 2,462 held-out sequences was not measured" in compression.size_and_cost(found)
    assert "at a cost that was not measured" in compression.in_a_line(found)


def test_a_loss_beyond_all_measure_still_has_a_report(found):
    found = replace(found, loss=1e6, loss_change=Measured(estimate=1e6, ci95=None))
    assert compression.quality(found).rows[1][:3] == ("perplexity", "31.67", "1.014e+304")


def test_shares_of_a_rise_that_is_none_are_not_made_up(found):
    found = replace(found, arrays=tuple(replace(group, rise=-1e-5) for group in found.arrays))
    assert [row[-1] for row in compression.arrays(found).rows] == ["n/a"] * 4


def test_a_budget_that_was_missed_asks_for_more_room(situation):
    asked = [any("more room in the budget" in step for step in conclusions.next_steps(situation(name)))
             for name in ("compressed", "compressed_alone", "passed")]  # fmt: skip
    assert asked == [True, False, False]
