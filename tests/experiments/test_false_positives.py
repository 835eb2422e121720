"""Goals are judged as stated; runs are simulated and replayed as they would run; rates are the real analysis's."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from experiments import simulated_runs
from experiments.false_positives import judge, missed_elsewhere, schedule_of
from experiments.lib.simulation import ARMS, Drift, StepNoise
from experiments.simulated_runs import EFFECTS, Found, OneWay, Rate
from ryot_jax.comparison.protocol import BlockSchedule
from ryot_jax.comparison.statistics import speed_up
from ryot_jax.config import get_default

SCHEDULE = BlockSchedule(epochs=2, steps_per_epoch=8, block_steps=4, tokens_per_step=1, seed=0)
NOISE = StepNoise(seconds=0.04, drifts=(Drift(0.05, 1.0),), jitter_sd=0.05)


def found(**changes):
    fine = Found(
        log_ratio_sd=0.02,
        false_positives=Rate(100, 2000),
        first_false_positives=Rate(10, 200),
        coverage=dict.fromkeys(EFFECTS, Rate(1900, 2000)),
        power=dict.fromkeys(EFFECTS, Rate(1800, 2000)),
        above_floor=dict.fromkeys(EFFECTS, Rate(1800, 2000)),
    )
    return dataclasses.replace(fine, **changes)


def failed(first, other=None):
    criteria = judge({"here": first, "there": other or found()}, {"here": first.first_false_positives})
    return [criterion.name for criterion in criteria if criterion.verdict == "FAIL"]


def test_goals_are_reached_at_their_bounds_and_missed_beyond():
    assert failed(found()) == []
    too_many = ["here: false positives of 200 A/A runs", "here: their upper 95 % Clopper-Pearson bound"]
    assert failed(found(first_false_positives=Rate(11, 200))) == too_many[:1]
    assert failed(found(first_false_positives=Rate(12, 200))) == too_many
    assert failed(found(coverage={**found().coverage, 0.02: Rate(1859, 2000)})) == ["here: intervals that cover 2%"]
    assert failed(found(coverage={**found().coverage, 0.10: Rate(1941, 2000)})) == ["here: intervals that cover 10%"]
    assert failed(found(power={**found().power, 0.05: Rate(1799, 2000)})) == ["here: finds 5%"]
    assert failed(found(), other=found(false_positives=Rate(119, 2000))) == []  # 5.0 to 7.1 %
    assert failed(found(), other=found(false_positives=Rate(130, 2000))) == ["there: false positives"]
    assert failed(found(), other=found(coverage={}, power={})) == []


def test_what_other_machines_miss_is_said():
    weak = found(power={**found().power, 0.05: Rate(1000, 2000)})
    wide = found(coverage=dict.fromkeys(EFFECTS, Rate(1960, 2000)))
    assert missed_elsewhere({"here": weak, "there": found()}, ["here"]) == []
    power, coverage = missed_elsewhere({"here": found(), "weak": weak, "wide": wide}, ["here"])
    assert "weak (50%)" in power and "wide" not in power
    assert "wide (98.0%, 98.0%, 98.0%)" in coverage and "weak" not in coverage


def test_the_schedule_is_that_of_the_main_command():
    schedule = schedule_of(get_default())
    assert (len(schedule.blocks()), schedule.block_steps, schedule.total_steps) == (40, 20, 800)


def test_intervals_are_those_of_a_real_run():
    blocks_SAN = simulated_runs.drawn(NOISE, 3, 0)(SCHEDULE, 0.05)
    expected = [speed_up(*blocks_AN).ci95 for blocks_AN in blocks_SAN]
    np.testing.assert_allclose(simulated_runs.intervals(blocks_SAN), expected, rtol=1e-12)


def test_replayed_runs_are_the_measured_steps_in_blocks_of_random_order():
    measured = np.arange(1.0, 33.0)  # one run long
    blocks_SAN = simulated_runs.replayed(measured, 300, 0)(SCHEDULE, 0.0)
    np.testing.assert_allclose(blocks_SAN.sum(axis=(1, 2)), np.full(300, measured.sum()))
    # There and back takes all of a drift that is linear in time, but where the series begins anew.
    assert np.mean(blocks_SAN[:, 0] == blocks_SAN[:, 1]) > 0.6
    one_way_SAN = simulated_runs.replayed(measured, 300, 0)(OneWay(**dataclasses.asdict(SCHEDULE)), 0.0)
    # Neighbours in time: 16 seconds apart, or the two ends of the series; either arm is the first.
    differences = one_way_SAN[:, 0] - one_way_SAN[:, 1]
    assert np.mean(np.abs(differences) == 16.0) > 0.6
    assert 0.4 < np.mean(differences > 0) < 0.6
    slower_SAN = simulated_runs.replayed(measured, 300, 0)(SCHEDULE, 0.1)
    assert slower_SAN[:, 0].sum() > 1.05 * blocks_SAN[:, 0].sum()


def test_one_way_takes_all_steps_of_a_block_at_once():
    one_way = OneWay(**dataclasses.asdict(SCHEDULE))
    for plan in SCHEDULE.blocks():
        order = SCHEDULE.order(plan.index, ARMS)
        assert one_way.visits(plan, ARMS) == tuple((name, 4) for name in order)
        assert SCHEDULE.visits(plan, ARMS) == tuple((name, 2) for name in (*order, *order[::-1]))


def test_designs_train_the_same_steps_but_for_the_longest():
    designs = list(simulated_runs.designs(schedule_of(get_default())))
    assert [design.schedule.total_steps for design in designs] == [800] * 7 + [3200]
    assert [len(design.schedule.blocks()) for design in designs] == [40, 40, 40, 16, 16, 80, 80, 160]


@pytest.mark.parametrize("n", [6, 9])
def test_the_signed_rank_interval_is_what_wilcoxons_test_does_not_reject(n):
    values = np.random.default_rng(n).normal(0.5, 1.0, n)
    low, high = simulated_runs.signed_rank_interval(values)
    for end, inwards in ((low, 1e-9), (high, -1e-9)):
        inside = scipy.stats.wilcoxon(values - (end + inwards), method="exact").pvalue
        outside = scipy.stats.wilcoxon(values - (end - inwards), method="exact").pvalue
        assert outside <= 0.05 < inside


def test_a_bootstrap_of_five_pairs_leaves_out_the_truth_too_often():
    blocks_SAN = np.exp(np.random.default_rng(0).normal(0.0, 0.01, (2000, 2, 5)))
    assert simulated_runs.bootstrap_rejects(blocks_SAN, 0).mean() > 0.12
    t_wrong = ~simulated_runs.covers(simulated_runs.intervals(blocks_SAN), 1.0)
    assert t_wrong.mean() == pytest.approx(0.05, abs=0.02)
