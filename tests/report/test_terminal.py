"""The terminal summary: verdict first, numbers right, ASCII where that is all there is."""

import re

import pytest

from ryot_jax.comparison.schema import validate_results
from ryot_jax.report import terminal

HEADLINE = (
    "PASS: optimized is 1.251 times as fast per step as baseline (95 % interval 1.240 to 1.262, 16 block "
    "pairs); its final held-out loss differs by +0.0041 nats/token (95 % interval +0.0012 to +0.0070, 512 "
    "sequences)."
)


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_the_fixture_is_a_results_file(results):
    validate_results(results)


@pytest.mark.parametrize("fancy", [False, True])
def test_the_first_line_is_the_verdict_with_effect_and_interval(results, fancy):
    assert one_line(terminal.render(results, fancy=fancy)).startswith(HEADLINE)


def test_without_utf8_every_character_is_ascii(results):
    results["warnings"] = ["naïve → ✓"]
    results["comparison"]["optimized"] = "öptimized"
    results["arms"]["öptimized"] = results["arms"].pop("optimized")
    assert terminal.render(results).isascii()
    assert "╭" in terminal.render(results, fancy=True)


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("fancy", [False, True])
def test_lines_fit_the_width(results, width, fancy):
    text = terminal.render(results, fancy=fancy, width=width)
    assert text.endswith("\n") and max(map(len, text.splitlines())) <= width


def test_the_table_holds_both_arms_and_the_delta(results):
    # A JSON file may hold the arms in any order; the baseline still stands first.
    results["arms"] = dict(reversed(results["arms"].items()))
    lines = {line[:33].strip(): line for line in terminal.render(results).splitlines()}
    throughput = re.split(r"\s{2,}", lines["throughput (tokens/s)"])
    assert throughput[1:] == ["16,384", "20,480", "+25.0%"]
    assert re.split(r"\s{2,}", lines["training time (s, compile apart)"])[1:] == ["200.0", "160.0", "-20.0%"]
    assert re.split(r"\s{2,}", lines["final held-out loss (nats/token)"])[3] == "+0.0040"


def test_a_verdict_that_is_not_pass_names_its_criteria(results):
    results["verdict"] = results["criteria"][1]["verdict"] = "INCONCLUSIVE"
    assert terminal.render(results).startswith("INCONCLUSIVE (speedup_above_zero): optimized is 1.251")


def test_one_arm_alone_says_that_nothing_was_compared(results):
    results["comparison"] = None
    del results["arms"]["optimized"]
    text = terminal.render(results)
    assert "nothing was compared" in one_line(text) and "delta" not in text


def test_missing_numbers_are_said_to_be_missing(results):
    results["comparison"]["step_time_speedup"].update(estimate=None, ci95=None)
    results["comparison"]["heldout_loss_difference"].update(estimate=0.0, ci95=None)
    results["arms"]["optimized"]["final_heldout_loss"] = None
    text = one_line(terminal.render(results))
    assert "how fast optimized is was not measured" in text and "no interval" in text and "n/a" in text


def test_control_characters_and_markup_never_reach_the_terminal(results):
    results["criteria"][0]["actual"] = "evil\x1b[2J [red]text"
    for fancy in (False, True):
        text = terminal.render(results, fancy=fancy)
        assert "\x1b" not in text and "[red]text" in text
