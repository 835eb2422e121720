"""Units of analysis, time to target and break-even, on records whose answers are known."""

import math

import pytest

from ryot_jax.comparison import outcomes
from ryot_jax.comparison.outcomes import ProcessTimes, TrainingPair
from ryot_jax.comparison.record import Block, HeldOut, Record
from ryot_jax.comparison.schema import ReachedTarget

NAMES = ("baseline", "optimized")


def record(losses, seconds=(2.0, 1.0), steps=10, sequences=((3.0, 3.1), (3.0, 3.2))):
    """One evaluation after each block of `steps` steps; `losses` are pairs of both arms', the first untrained."""
    blocks = tuple(
        Block(
            i,
            i + 1,
            steps,
            64 * steps,
            NAMES,
            dict(zip(NAMES, seconds, strict=True)),
            *([dict.fromkeys(NAMES, 4.0)] * 2),
            "",
        )
        for i in range(len(losses) - 1)
    )
    heldout = tuple(HeldOut(steps * i, i, dict(zip(NAMES, pair, strict=True))) for i, pair in enumerate(losses))
    return Record(NAMES, "", blocks, heldout, dict(zip(NAMES, sequences, strict=True)))


CURVES = [(7.0, 7.0), (5.0, 4.0), (4.0, 3.0)]  # the optimized arm passes 4.0 after 10 steps, the baseline ends there


def test_within_one_training_pair_the_unit_is_the_block_pair():
    found = outcomes.pair_outcome([TrainingPair(0, record(CURVES))])
    assert (found.unit, found.speedup.pairs, found.speedup.estimate) == ("block pair", 2, pytest.approx(2.0))
    assert (found.loss_unit, found.heldout_loss.pairs) == ("held-out sequence", 2)


def test_over_several_training_pairs_each_counts_once():
    pairs = [TrainingPair(seed, record(CURVES, seconds=(2.0 + seed, 1.0))) for seed in range(3)]
    found = outcomes.pair_outcome(pairs)
    assert (found.unit, found.speedup.pairs) == ("training pair", 3)
    assert found.speedup.estimate == pytest.approx((2 * 3 * 4) ** (1 / 3))
    assert (found.loss_unit, found.heldout_loss.pairs, found.heldout_loss.estimate) == ("training pair", 3, -1.0)


def test_over_processes_this_one_counts_once_however_many_pairs_it_trained():
    pairs = [TrainingPair(seed, record(CURVES)) for seed in range(2)]
    fresh = [ProcessTimes({"baseline": (0.3, 0.3), "optimized": (0.1, 0.1)}, {})] * 2
    found = outcomes.pair_outcome(pairs, fresh)
    assert (found.unit, found.speedup.pairs) == ("process", 3)
    assert found.speedup.estimate == pytest.approx((2 * 3 * 3) ** (1 / 3))


def test_time_to_target_is_interpolated_and_counts_compilation_apart():
    found = outcomes.time_to_target(record(CURVES), {"baseline": 1.0, "optimized": 3.0})
    assert found.target_loss == 4.0
    assert found.arms["baseline"] == ReachedTarget(step=20.0, seconds=4.0, seconds_with_compile=5.0)
    assert found.arms["optimized"] == ReachedTarget(step=10.0, seconds=1.0, seconds_with_compile=4.0)
    assert (found.speedup, found.speedup_with_compile) == (4.0, 1.25)
    between = outcomes.time_to_target(record([(7.0, 7.0), (5.0, 6.0), (4.0, 2.0)]), dict.fromkeys(NAMES, 0.0))
    assert between.arms["optimized"].step == 15.0 and between.arms["optimized"].seconds == 1.5


def test_rounding_does_not_decide_whether_the_target_is_reached():
    found = outcomes.time_to_target(record([(7.0, 7.0), (4.0, 4.0 + 1e-7)]), dict.fromkeys(NAMES, 0.0))
    assert found.arms["optimized"].step == 10.0 and found.speedup == 2.0


def test_an_arm_that_never_gets_there_has_no_time():
    found = outcomes.time_to_target(record([(7.0, 7.0), (4.0, 4.5)]), dict.fromkeys(NAMES, 0.0))
    assert found.arms["optimized"] == ReachedTarget(step=None, seconds=None, seconds_with_compile=None)
    assert found.speedup is None


@pytest.mark.parametrize(
    ("extra", "saved", "steps"),
    [(10.0, 0.1, 100.0), (-1.0, 0.1, 0.0), (10.0, 0.0, None), (10.0, -0.1, None), (1, None, None)],
)
def test_break_even(extra, saved, steps):
    assert outcomes.break_even_steps(extra, saved) == steps


def test_without_held_out_examples_training_losses_of_the_last_half_stand_in():
    blocks = record([CURVES[0]] * 5).blocks
    bare = Record(NAMES, "", blocks)
    found = outcomes.pair_outcome([TrainingPair(0, bare)])
    assert (found.loss_unit, found.heldout_loss.pairs, found.heldout_loss.estimate) == ("block pair", 2, 0.0)


def test_a_run_without_blocks_has_no_numbers():
    found = outcomes.pair_outcome([TrainingPair(0, Record(NAMES, ""))])
    assert found.speedup.estimate is None and found.heldout_loss.estimate is None
    assert math.isnan(outcomes.time_to_target(Record(NAMES, ""), dict.fromkeys(NAMES, 0.0)).target_loss)
