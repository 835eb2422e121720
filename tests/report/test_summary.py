"""What every report says in the same words, situation by situation."""

import pytest

from ryot_jax.report import document, words
from ryot_jax.report.topics import conclusions, losses, pairs, roofline, timing, verdict


def test_a_speed_up_is_said_with_interval_pairs_noise_floor_and_margins(results):
    assert verdict.headline(results) == (
        "PASS: optimized is 1.251 times as fast per step as baseline (95 % interval 1.240 to 1.262, 16 block pairs; "
        "noise floor 1.2 %); its final held-out loss differs by +0.0041 nats/token (95 % interval +0.0012 to +0.0070, "
        "512 held-out sequences; margins 0.1 and 0.02)."
    )


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("failed", "FAIL (speedup_above_zero): optimized is 0.962 times as fast"),
        ("placebo_failed", "INCONCLUSIVE (control placebo): optimized is 1.251 times as fast"),
        (
            "single_arm",
            "PASS: optimized trained 800 steps to a held-out loss of 3.477 nats/token (bigram entropy 3.847)",
        ),
        (
            "many_seeds",
            "PASS: optimized is 1.251 times as fast per step as baseline (95 % interval 1.221 to 1.282, 4 pro",
        ),
        (
            "nothing_measured",
            "INCONCLUSIVE (control placebo, control known delay, control shuffled targets, loss_falls",
        ),
    ],
)
def test_the_headline_begins_with_the_verdict_and_what_made_it(situation, name, start):
    assert verdict.headline(situation(name)).startswith(start)


def test_losses_of_others_have_no_unit_of_ours_and_are_called_what_they_are(situation):
    results = situation("brought")
    assert "its final training loss differs by +0.0041 (95 % interval" in verdict.headline(results)
    said = " ".join([*document.findings(results), *conclusions.not_shown(results), *conclusions.next_steps(results)])
    assert "nats" not in said and "config" not in said and "comparison." not in said and "ryot" not in said
    assert "Nothing was held out: the losses are training losses" in said


def test_without_controls_the_headline_and_the_limits_say_so(results, edit):
    results = edit(results, controls=None)
    assert "16 block pairs; no controls)" in verdict.headline(results)
    assert any(limit.startswith("No controls were run") for limit in conclusions.not_shown(results))
    assert conclusions.next_steps(results)[0].startswith("Run the controls")


def test_the_findings_of_a_whole_run(situation):
    assert document.findings(situation("ablated")) == [
        "3 of 3 criteria passed, and 3 of 3 controls.",
        "Noise floor: two arms of one program differed by up to 1.2 %, so a speed-up under that is noise here.",
        "Time to target (held-out loss 3.4729, the baseline's final one): baseline at step 800 after 128.8 s; "
        "optimized at step 790 after 101.7 s; 1.266 times as fast, 1.181 with compilation counted.",
        "Break-even: after 192 steps the 6.20 s of longer compilation are paid back.",
        "Roofline: baseline runs at 161.0 GFLOP/s, 62 % of its float32 roof; optimized runs at 202.0 GFLOP/s, 41 % of "
        "its bfloat16 roof.",
        "Attribution: all 3 optimizations together are 1.251 times as fast (95 % interval 1.239 to 1.263); that is "
        "0.974 times the product of each alone (95 % interval 0.962 to 0.986; 1 means that they multiply).",
        "Seed noise was not measured: one pair of runs from one seed was trained.",
    ]


def test_a_single_arm_has_no_findings_on_pairs(situation):
    assert document.findings(situation("single_arm")) == ["1 of 1 criterion passed."]


def test_an_arm_that_does_not_reach_the_target_is_said_not_to(results, edit):
    never = dict.fromkeys(("step", "seconds", "seconds_with_compile"))
    results = edit(results, "comparison.time_to_target.arms.optimized", **never)
    results = edit(results, "comparison.time_to_target", speedup=None, speedup_with_compile=None)
    assert losses.time_to_target(results).endswith("baseline at step 800 after 128.8 s; optimized does not reach it.")


@pytest.mark.parametrize(
    ("steps", "saved", "words"),
    [
        (0, -0.03, "Break-even: at once; optimized takes no longer to compile than baseline."),
        (None, 0.01, "Break-even: never; no time is saved per step."),
        (None, None, "Break-even: step times were not measured."),
        (1234.4, -0.005, "Break-even: after 1,234 steps the 6.20 s of longer compilation are paid back."),
    ],
)
def test_break_even(results, edit, steps, saved, words):
    results = edit(results, "comparison", break_even_steps=steps)
    results = edit(results, "comparison.seconds_per_step_difference", estimate=saved)
    assert timing.break_even(results) == words


def test_the_break_even_of_cached_programs_is_said_to_be_that(results, edit):
    results = edit(results, "arms.optimized", compiled_from_cache=True)
    assert timing.break_even(results).endswith(
        "are paid back; programs came from the cache, so that a first run may differ."
    )


def test_what_of_compilation_was_not_measured_is_said(results, edit):
    assert timing.compilation_not_measured(results) == []
    results = edit(results, "arms.baseline", compiled_from_cache=True)
    results = edit(results, "arms.optimized", compile_warm_seconds=None)
    cold, warm = timing.compilation_not_measured(results)
    assert cold.startswith("The programs of baseline came from the cache") and "optimized" in warm


def test_an_arm_above_its_roof_is_called_a_bug(results, edit):
    results = edit(results, "roofline.arms.optimized", above_roof=True, share=1.31)
    assert "optimized is at 131 % of its bfloat16 roof: above it, which is a bug" in roofline.sentence(results)
    assert any("above its roof" in step for step in conclusions.next_steps(results))


def test_seed_noise_is_said_to_be_measured_or_not(situation):
    for name, measured in (("passed", False), ("many_seeds", True)):
        results = situation(name)
        assert pairs.seed_noise(results).startswith(f"Seed noise was {'' if measured else 'not '}measured")
        asked = any("comparison.pairs=8" in step for step in conclusions.next_steps(results))
        assert asked is not measured


@pytest.mark.parametrize(
    ("criterion", "verdict", "advice"),
    [
        ("speedup_above_zero", "FAIL", "ryot ablate"),
        ("speedup_above_zero", "INCONCLUSIVE", "more block pairs"),
        ("throughput_up", "INCONCLUSIVE", "more block pairs"),
        ("beats_bigram_entropy", "FAIL", "Train longer"),
        ("no_divergence", "FAIL", "learning_rate"),
        ("loss_no_worse_by_0.02", "FAIL", "class statistical"),
        ("loss_within_0.1", "INCONCLUSIVE", "class statistical"),
        ("speculation_changes_no_token", "FAIL", "--draft=none"),
    ],
)
def test_what_next_follows_from_the_criteria(results, edit, make_criterion, criterion, verdict, advice):
    assert not any(advice in step for step in conclusions.next_steps(results))
    results = edit(results, criteria=(*results.criteria, make_criterion(criterion, verdict)))
    assert any(advice in step for step in conclusions.next_steps(results))


@pytest.mark.parametrize(
    ("control", "advice"), [(0, "quiet machine"), (1, "quiet machine"), (2, "leak into the inputs")]
)
def test_what_next_follows_from_the_controls(results, edit, control, advice):
    assert not any(advice in step for step in conclusions.next_steps(results))
    results = edit(results, f"controls.items.{control}", verdict="FAIL")
    assert any(advice in step for step in conclusions.next_steps(results))


def test_there_is_always_something_next(any_results, situation):
    assert conclusions.next_steps(any_results)
    assert conclusions.next_steps(situation("single_arm")) == [
        "Train a second arm (comparison.arms) to compare with this one."
    ]
    assert conclusions.next_steps(situation("many_seeds")) == [
        "Repeat on the machine that the speed-up is to be claimed for."
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"),
        (0.0, "0.00"),
        (0.00734, "0.00734"),
        (4.857, "4.86"),
        (99.96, "100"),
        (128.84, "128.8"),
        (1e5, "100,000.0"),
    ],
)
def test_durations_keep_three_digits_or_a_decimal(value, text):
    assert words.duration(value) == text


def test_numbers_of_units():
    assert [words.counted(n, unit) for n, unit in ((1, "process"), (3, "process"), (1600, "block pair"))] == [
        "1 process",
        "3 processes",
        "1,600 block pairs",
    ]
