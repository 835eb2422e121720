"""What is said of schedule and recipe: the share of the time, if the loss was reached, and that no kernel gains it."""

import pytest

from ryot_jax.report import document
from ryot_jax.report.topics import time_to_loss


@pytest.fixture
def results(situation):
    """With three trainings: one reaches the loss, one does not, one does not tell."""
    return situation("scheduled")


def test_the_summary_says_each_share_and_which_loss_was_not_reached(results, situation):
    speed = results.comparison.step_time_speedup.estimate
    line = (
        "Share of the baseline's time to its final loss of 3.4567 (one seed, compilation apart): kernels "
        f"{1 / speed:.3f}; kernels, schedule 0.111; kernels, recipe 0.080 (not reached: +0.0430); kernels, schedule, "
        "recipe 0.053 (not told whether reached: +0.0040)."
    )
    assert line in document.findings(results)
    assert time_to_loss.sentence(situation("passed")) is None


def test_where_no_training_came_to_its_end_there_is_no_line(results, edit):
    results = edit(results, "time_to_loss", trainings=())
    assert time_to_loss.sentence(results) is None


def test_how_it_was_done_names_the_recipe_and_counts_compilations(results, edit):
    results = edit(results, "time_to_loss.trainings.1", unplanned_compilations=1)
    said = time_to_loss.what_was_done(results.time_to_loss)
    assert "3 trainings to the end of a plan" in said and "Recipe: muon, rotary." in said
    assert "1 program had to be compiled while they ran" in said


def test_the_table_has_baseline_and_kernels_beside_them(results):
    table = time_to_loss.shares(results)
    assert [row[0] for row in table.rows] == [
        *("baseline", "kernels", "kernels, schedule", "kernels, recipe", "kernels, schedule, recipe")
    ]
    assert table.rows[2][1:] == ("61 %", "14.5", "0.111", "0.143", "3.4047", "-0.0520", "-0.062 to -0.042")
    compiled = results.arms["optimized"].train_seconds + results.arms["optimized"].compile_seconds
    whole = results.arms["baseline"].train_seconds + results.arms["baseline"].compile_seconds
    assert table.rows[1][4] == f"{compiled / whole:.3f}"


def test_compilations_of_which_one_came_from_the_cache_are_not_compared(results, edit):
    results = edit(results, "arms.baseline", compiled_from_cache=True)
    results = edit(results, "arms.optimized", compiled_from_cache=False)
    assert time_to_loss.shares(results).rows[1][4] == "n/a"


def test_the_steps_are_shown_kind_by_kind(results):
    assert time_to_loss.steps(results.time_to_loss).rows[:3] == (
        ("kernels, schedule", "1,000", "32", "32", "1", "7.25", "2.25", "10.0", "yes"),
        ("", "140", "32", "128", "all", "51.8", "2.25", "", ""),
        ("kernels, recipe", "185", "32", "128", "all", "56.8", "4.50", "", ""),
    )


def test_the_section_ends_with_the_caution(results):
    (section,) = (section for section in document.sections(results) if section.id == "time-to-loss")
    assert section.parts[-1].text == time_to_loss.CAUTION
