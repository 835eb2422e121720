"""Each criterion passes, fails and stays open where it should."""

import dataclasses
import math

import pytest
from msgspec.structs import replace

from ryot_jax.comparison import criteria
from ryot_jax.comparison.criteria import ArmOutcome, Criterion, Observations, PairOutcome, Terms
from ryot_jax.comparison.schema import DecodingResult, Settings
from ryot_jax.comparison.statistics import Difference, SpeedUp

GOOD = ArmOutcome(
    steps=800,
    planned_steps=800,
    first_train_loss=7.6,
    final_train_loss=3.2,
    initial_heldout_loss=7.6,
    final_heldout_loss=3.4,
    best_heldout_loss=3.4,
    tokens_per_second=1000.0,
)
PAIR = PairOutcome(
    speedup=SpeedUp(1.2, (1.18, 1.22), 16, 1.2, 1e-4, 0.03),
    seconds_per_step=Difference(-0.02, (-0.03, -0.01), 16, 0.5),
    heldout_loss=Difference(0.001, (-0.002, 0.004), 512, 0.99),
)
ENTROPIES = {"unigram": 6.3, "bigram": 4.0}


def judge(arm=GOOD, pair=PAIR, beat="bigram", statistical=False):
    """Verdicts by criterion name; `arm` is the optimized one."""
    found = criteria.judge(
        Observations({"baseline": [GOOD], "optimized": [arm]}, pair, ENTROPIES),
        Terms(Settings(0.1, 0.02, beat), statistical),
    )
    return {criterion.name: criterion.verdict for criterion in found}


def test_a_good_run_passes_every_criterion():
    assert judge() == dict.fromkeys(
        (
            "trains_end_to_end",
            "loss_falls",
            "beats_unigram_entropy",
            "beats_bigram_entropy",
            "speedup_above_zero",
            "throughput_up",
            "loss_within_0.1",
            "loss_within_0.02",
            "no_divergence",
        ),
        "PASS",
    )


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"steps": 799}, {"trains_end_to_end"}),
        (
            {"initial_heldout_loss": 3.5},
            {"loss_falls"},
        ),
        ({"final_heldout_loss": 4.05, "best_heldout_loss": 4.0}, {"beats_bigram_entropy"}),
        (
            {"final_heldout_loss": 6.4, "best_heldout_loss": 6.4},
            {"beats_bigram_entropy", "beats_unigram_entropy"},
        ),
        ({"best_heldout_loss": 3.2}, {"no_divergence"}),
        ({"final_train_loss": 7.7}, {"no_divergence"}),
        ({"final_train_loss": math.nan}, {"no_divergence"}),
        (
            {"final_heldout_loss": math.nan},
            {"loss_falls", "beats_unigram_entropy", "beats_bigram_entropy", "no_divergence"},
        ),
    ],
)
def test_a_fault_of_one_arm_fails_the_criterion_that_names_it(change, failing):
    verdicts = judge(dataclasses.replace(GOOD, **change))
    assert {name for name, verdict in verdicts.items() if verdict == "FAIL"} == failing


@pytest.mark.parametrize(
    ("ci95", "verdict"),
    [
        ((1.01, 1.2), "PASS"),
        ((0.99, 1.2), "INCONCLUSIVE"),
        ((0.8, 0.99), "FAIL"),
        (None, "INCONCLUSIVE"),
    ],
)
def test_speed_up_is_judged_by_its_interval(ci95, verdict):
    speedup = dataclasses.replace(PAIR.speedup, ci95=ci95)
    assert judge(pair=dataclasses.replace(PAIR, speedup=speedup))["speedup_above_zero"] == verdict


@pytest.mark.parametrize(
    ("ci95", "verdict"),
    [((-0.02, -0.01), "PASS"), ((-0.02, 0.01), "INCONCLUSIVE"), ((0.01, 0.02), "FAIL")],
)
def test_throughput_is_judged_by_the_interval_of_the_time_saved(ci95, verdict):
    per_step = Difference(-0.01, ci95, 16, None)
    assert judge(pair=dataclasses.replace(PAIR, seconds_per_step=per_step))["throughput_up"] == verdict


@pytest.mark.parametrize(
    ("estimate", "ci95", "wide", "tight"),
    [
        (0.01, (0.005, 0.015), "PASS", "PASS"),
        (0.018, (0.01, 0.025), "PASS", "INCONCLUSIVE"),
        (0.05, (0.04, 0.06), "PASS", "FAIL"),
        (-0.2, (-0.3, -0.15), "FAIL", "FAIL"),
        (0.01, None, "INCONCLUSIVE", "INCONCLUSIVE"),
        (0.0, None, "PASS", "PASS"),
        (None, None, "INCONCLUSIVE", "INCONCLUSIVE"),
    ],
)
def test_losses_must_lie_within_both_margins_with_their_interval(estimate, ci95, wide, tight):
    verdicts = judge(pair=dataclasses.replace(PAIR, heldout_loss=Difference(estimate, ci95, 512, None)))
    assert (verdicts["loss_within_0.1"], verdicts["loss_within_0.02"]) == (wide, tight)


@pytest.mark.parametrize(
    ("estimate", "ci95", "verdict"),
    [
        (0.01, (0.005, 0.015), "PASS"),
        (-0.05, (-0.06, -0.04), "PASS"),  # within the wide margin: better by the luck of one seed is no fault
        (0.018, (0.01, 0.025), "INCONCLUSIVE"),
        (0.05, (0.04, 0.06), "FAIL"),
        (0.0, None, "PASS"),
        (None, None, "INCONCLUSIVE"),
    ],
)
def test_an_arm_that_rounds_otherwise_must_not_be_worse_by_the_tight_margin(estimate, ci95, verdict):
    pair = dataclasses.replace(PAIR, heldout_loss=Difference(estimate, ci95, 512, None))
    verdicts = judge(pair=pair, statistical=True)
    assert verdicts["loss_no_worse_by_0.02"] == verdict
    assert "loss_within_0.02" not in verdicts and "loss_within_0.1" in verdicts
    assert "loss_no_worse_by_0.02" not in judge(pair=pair)


def test_the_bigram_criterion_is_there_only_where_the_config_asks_for_it():
    assert "beats_bigram_entropy" not in judge(beat="unigram")


def test_one_token_that_a_draft_changed_fails():
    decoded = DecodingResult(
        arm="optimized", step=1, engine="cpu", dtype="float32", prompts=32, prompt_tokens=8, new_tokens=8,
        draft="lookup", tokens_per_second=1.0, speculative_tokens_per_second=1.0, speed=None, acceptance=None,
        tokens_per_step=None, identical=True, identical_prompts=32, batch32_tokens_per_second=1.0, seconds=1.0,
    )  # fmt: skip

    def judged(decoded):
        observed = Observations({"optimized": [GOOD]}, decoding=decoded)
        return criteria.judge(observed, Terms(Settings(0.1, 0.02, "", arms=1), statistical=False))[-1]

    assert judged(decoded).verdict == "PASS"
    changed = judged(replace(decoded, identical_prompts=31))
    assert (changed.verdict, changed.actual) == ("FAIL", "identical for 31 of 32 prompts")
    assert changed.name == "speculation_changes_no_token"


def test_one_arm_alone_has_no_pair_criteria():
    settings = Settings(0.1, 0.02, "unigram", arms=1)
    found = criteria.judge(Observations({"baseline": [GOOD]}, None, ENTROPIES), Terms(settings, statistical=False))
    assert [c.name for c in found] == [
        "trains_end_to_end",
        "loss_falls",
        "beats_unigram_entropy",
        "no_divergence",
    ]


@pytest.mark.parametrize(
    ("verdicts", "overall", "code"),
    [
        (["PASS", "PASS"], "PASS", 0),
        (["PASS", "INCONCLUSIVE"], "INCONCLUSIVE", 4),
        (["INCONCLUSIVE", "FAIL", "PASS"], "FAIL", 3),
    ],
)
def test_the_worst_criterion_decides(verdicts, overall, code):
    found = criteria.overall([Criterion("", "", "", verdict) for verdict in verdicts])
    assert (found, criteria.EXIT_CODES[found]) == (overall, code)
