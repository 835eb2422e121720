"""The terminal summary: verdict first, numbers right, ASCII where that is all there is."""

import re

import pytest

from ryot_jax.comparison.results import decode
from ryot_jax.report.formats import terminal
from ryot_jax.runtime.json_values import plain

HEADLINE = (
    "PASS: optimized is 1.251 times as fast per step as baseline (95 % interval 1.240 to 1.262, 16 block pairs; noise "
    "floor 1.2 %); its final held-out loss differs by +0.0041 nats/token (95 % interval +0.0012 to +0.0070, 512 "
    "held-out sequences; margins 0.1 and 0.02)."
)


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_the_fixtures_are_results_files(any_results):
    assert decode(plain(any_results)) == any_results


@pytest.mark.parametrize("fancy", [False, True])
def test_the_first_line_is_the_verdict_with_effect_and_interval(results, fancy):
    assert one_line(terminal.render(results, fancy=fancy)).startswith(HEADLINE)


def test_without_utf8_every_character_is_ascii(results, renamed, edit):
    results = renamed(edit(results, warnings=("naïve → ✓",)), {"optimized": "öptimized"})
    assert terminal.render(results).isascii()
    assert "╭" in terminal.render(results, fancy=True)


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("fancy", [False, True])
def test_lines_fit_the_width(any_results, width, fancy):
    text = terminal.render(any_results, fancy=fancy, width=width)
    assert text.endswith("\n") and max(map(len, text.splitlines())) <= width


def test_the_table_holds_both_arms_and_the_delta(results, edit):
    # A JSON file may hold the arms in any order; the baseline still stands first.
    results = edit(results, arms=dict(reversed(results.arms.items())))
    lines = {line[:33].strip(): line for line in terminal.render(results).splitlines()}
    throughput = re.split(r"\s{2,}", lines["throughput (tokens/s)"])
    assert throughput[1:] == ["25,441", "31,827", "+25.1%"]
    assert re.split(r"\s{2,}", lines["training time (s, compile apart)"])[1:] == ["128.8", "103.0", "-20.1%"]
    assert re.split(r"\s{2,}", lines["final held-out loss (nats/token)"])[3] == "+0.0040"


def test_a_verdict_that_is_not_pass_names_its_criteria(results, edit):
    results = edit(edit(results, verdict="INCONCLUSIVE"), "criteria.1", verdict="INCONCLUSIVE")
    assert terminal.render(results).startswith("INCONCLUSIVE (speedup_above_zero): optimized is 1.251")


def test_one_arm_alone_says_that_nothing_was_compared(situation):
    text = terminal.render(situation("single_arm"))
    assert "nothing was compared" in one_line(text) and "delta" not in text


def test_missing_numbers_are_said_to_be_missing(results, edit):
    results = edit(results, "comparison.step_time_speedup", estimate=None, ci95=None)
    results = edit(results, "comparison.heldout_loss_difference", estimate=0.0, ci95=None)
    results = edit(results, "arms.optimized", final_heldout_loss=None)
    text = one_line(terminal.render(results))
    assert "how fast optimized is was not measured" in text and "no interval" in text and "n/a" in text


def test_control_characters_and_markup_never_reach_the_terminal(results, edit):
    results = edit(results, "criteria.0", actual="evil\x1b[2J [red]text")
    for fancy in (False, True):
        text = terminal.render(results, fancy=fancy)
        assert "\x1b" not in text and "[red]text" in text


def test_controls_stand_between_the_figures_and_the_criteria(situation):
    text = terminal.render(situation("placebo_failed"))
    figures, controls, criteria = (text.index(word) for word in ("throughput", "known delay", "loss falls"))
    assert figures < controls < criteria
    (placebo,) = [line for line in text.splitlines() if line.startswith("placebo")]
    assert placebo.endswith("FAIL")


def test_the_findings_are_said_after_the_tables(situation, edit):
    beside = {"compression": situation("compressed").compression, "decoding": situation("decoded").decoding}
    results = edit(situation("ablated"), **beside)
    text = one_line(terminal.render(results))
    said = ["Noise floor: ", "Time to target ", "Break-even: ", "Roofline: ", "Attribution: ", "Compressed: "]
    said += ["Decoding: ", "Seed noise "]
    places = [text.index(word) for word in said]
    assert places == sorted(places) and text.index("loss no worse") < places[0]
