"""Controls pass on an honest machine, and fail where something is wrong with the measurement."""

from types import SimpleNamespace

import numpy as np
import pytest

from ryot_jax.comparison.controls import (
    CONFIDENCE,
    delayed_steps,
    fitted,
    judge_delay,
    judge_placebo,
    judge_shuffled,
    noise_floor,
    timing_controls,
)
from ryot_jax.comparison.schema import Controls


class Machine:
    """Arms whose steps take a second of a clock that no test has to wait for, with 1 % of noise."""

    def __init__(self, slower=None, noise=0.01):
        self.slower, self.noise, self.taken = slower or {}, noise, {}
        self.rng = np.random.default_rng(0)

    def twin(self, name, hides=lambda steps: steps):
        """An arm, of whose steps the clock sees `hides(steps)`."""

        def run_block(steps):
            self.taken.setdefault(name, []).append(steps)
            seconds = hides(steps) * self.slower.get(name, 1.0) * self.rng.normal(1.0, self.noise)
            return SimpleNamespace(seconds=seconds)

        return SimpleNamespace(run_block=run_block)


def _verdicts(machine, blocks=16, block_steps=20):
    placebo, delay, floor = timing_controls(machine.twin, blocks=blocks, block_steps=block_steps, seed=0)
    return placebo.verdict, delay.verdict, floor


def test_an_honest_machine_passes_and_its_noise_is_the_floor():
    machine = Machine()
    placebo, delay, floor = _verdicts(machine)
    assert (placebo, delay) == ("PASS", "PASS")
    assert 0.0 < floor < 0.02
    assert machine.taken["delayed"] == [1, *[11, 10] * 16] and machine.taken["reference"] == [1, *[10, 10] * 16]


@pytest.mark.parametrize(
    ("step_seconds", "blocks", "steps"),
    [(0.01, 16, 20), (0.0625, 16, 20), (0.1, 16, 12), (0.125, 16, 10), (0.2, 10, 10), (0.25, 8, 10), (9.0, 8, 10)],
)
def test_slow_steps_get_shorter_blocks_and_then_fewer(step_seconds, blocks, steps):
    assert fitted(16, 20, step_seconds=step_seconds, seconds=60.0) == (blocks, steps)
    assert (blocks, steps) == (8, 10) or 3 * blocks * steps * step_seconds <= 60.0


def test_what_was_asked_for_is_never_exceeded():
    assert fitted(4, 6, step_seconds=1e-6, seconds=60.0) == fitted(4, 6, step_seconds=9.0, seconds=60.0) == (4, 6)


def test_controls_of_slow_steps_end_in_time_and_still_judge():
    machine = Machine()
    placebo, delay, floor = timing_controls(machine.twin, blocks=16, block_steps=20, seed=0, seconds=300.0)
    assert (placebo.verdict, delay.verdict) == ("PASS", "PASS") and delay.injected == 1.1 and floor is not None
    assert machine.taken["delayed"] == [1, 1, *[6, 5] * 10] and machine.taken["placebo"] == [1, 1, *[5, 5] * 10]


def test_an_arm_that_is_favoured_fails_the_placebo():
    """For example one that always runs second, on a warm cache."""
    assert _verdicts(Machine({"placebo": 0.97}))[0] == "FAIL"


def test_a_clock_that_misses_work_fails_the_known_delay():
    """As one that is read before the device is done: the added steps do not show in it."""
    machine = Machine()
    placebo, delay, _ = timing_controls(
        lambda name: machine.twin(name, hides=lambda steps: min(steps, 10)), blocks=16, block_steps=20, seed=0
    )
    assert (placebo.verdict, delay.verdict) == ("PASS", "FAIL")
    assert delay.injected == 1.05


def test_a_machine_too_noisy_to_tell_a_delay_is_inconclusive_and_not_a_pass():
    assert _verdicts(Machine(noise=0.25))[1] == "INCONCLUSIVE"


def test_without_spread_there_is_no_interval_and_no_pass():
    """A clock that stands still, or one that ticks too seldom."""
    for judged in (judge_placebo([1.0] * 16, [1.0] * 16), judge_delay([1.05] * 16, [1.0] * 16, 1.05)):
        assert judged.verdict == "INCONCLUSIVE" and judged.ci is None
    assert noise_floor([1.0] * 16, [1.0] * 16) is None


@pytest.mark.parametrize(("steps", "delayed"), [(1, 2), (10, 11), (20, 21), (50, 53), (100, 105), (140, 147)])
def test_the_delay_is_a_known_number_of_steps(steps, delayed):
    assert delayed_steps(steps) == delayed


def test_the_placebo_fails_by_chance_about_as_often_as_its_confidence_says():
    rng = np.random.default_rng(1)
    runs = [judge_placebo(*rng.lognormal(0.0, 0.02, (2, 16))).verdict for _ in range(400)]
    assert CONFIDENCE == 0.99
    assert runs.count("FAIL") <= 11  # expected 4; 12 or more with probability 0.001


def test_shuffled_targets_must_fail_the_criteria_of_learning():
    assert judge_shuffled(["loss_falls"], "6.2 to 6.2", 100, 1.0).verdict == "PASS"
    passed = judge_shuffled([], "6.2 to 3.0", 100, 1.0)
    assert passed.verdict == "FAIL" and "as if it had learnt" in passed.actual


def test_those_that_did_not_pass_are_told_apart():
    good, bad = judge_shuffled(["loss_falls"], "", 1, 1.0), judge_placebo([1.0] * 3, [1.0] * 3)
    controls = Controls((good, bad), None)
    assert controls.failed() == (bad,)
    assert controls.seconds == 1.0
