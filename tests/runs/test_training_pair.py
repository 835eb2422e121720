"""The display of a training pair: its numbers are those that were measured, whatever the host hears and when."""

import dataclasses
import io

import pytest

from ryot_jax.comparison import protocol
from ryot_jax.comparison.protocol import BlockSchedule, Observer
from ryot_jax.runs import training_pair
from ryot_jax.runs.training_pair import Display
from ryot_jax.runtime.console import Console

TOKENS = 64  # of a step
CALL = 5  # steps of a call of the compiled program
SCHEDULE = BlockSchedule(epochs=2, steps_per_epoch=20, block_steps=20, tokens_per_step=TOKENS, seed=0)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass
class Result:
    first_step: int
    seconds: float
    losses: list[float]
    tokens: int
    grad_norms: list[float] = dataclasses.field(default_factory=list)


class SlowArm:
    """Takes `seconds` a step, five steps a call, and tells of each call when the next one is dispatched."""

    def __init__(self, name, seconds, clock):
        self.name, self.seconds, self.clock = name, seconds, clock
        self.step, self.on_step = 0, None

    def params_hash(self):
        return "the same"

    def batches_hash(self):
        return "the same"

    def warm_up(self):
        self.clock.now += 100.0

    def run_block(self, n_steps):
        first = self.step
        for _ in range(n_steps // CALL):
            self.clock.now += CALL * self.seconds
            self.step += CALL
            self.on_step(self.step, 2.0)
        return Result(first, n_steps * self.seconds, [2.0] * n_steps, n_steps * TOKENS)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


def shown(monkeypatch, arms):
    """Trains the arms by the paired protocol, and returns every (arm, step, tokens/s) that was shown."""
    updates = []

    class Noted(training_pair.Progress):
        def update(self, arm, *, step, loss, tokens_per_second):
            updates.append((arm, step, tokens_per_second))
            super().update(arm, step=step, loss=loss, tokens_per_second=tokens_per_second)

    monkeypatch.setattr(training_pair, "Progress", Noted)
    stream = io.StringIO()
    with Display(Console(stream, {}), arms, SCHEDULE) as display:
        for arm in arms:
            arm.on_step = lambda step, loss, arm=arm: display.step(arm.name, step, loss)
        observer = Observer(block=lambda arm, block, result: display.block(arm, result))
        protocol.run(arms, SCHEDULE, observer=observer, evaluate=False)
    return updates, stream.getvalue()


def test_the_speed_of_an_arm_leaves_out_the_turns_of_the_other_one(monkeypatch, clock):
    """Steps so slow that a call takes five of them, which a gap of more than five steps cannot tell from a turn."""
    arms = [SlowArm("baseline", 4.0, clock), SlowArm("optimized", 2.0, clock)]
    updates, text = shown(monkeypatch, arms)
    assert len(updates) == 2 * 2 * 20 // CALL
    for arm in arms:
        own = [(step, speed) for name, step, speed in updates if name == arm.name]
        assert [step for step, _ in own] == list(range(CALL, 41, CALL))
        speeds = [speed for _, speed in own]
        assert speeds[: 10 // CALL] == [None] * (10 // CALL), "nothing is measured before its first visit is over"
        assert set(speeds[10 // CALL :]) == {TOKENS / arm.seconds}
    last = text.splitlines()[-1]
    assert "step 40/40" in last and "0:00 left" in last


def test_the_time_left_is_that_of_both_arms_as_they_were_measured(monkeypatch, clock):
    arms = [SlowArm("baseline", 4.0, clock), SlowArm("optimized", 4.0, clock)]
    _, text = shown(monkeypatch, arms)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    # Ten steps of one arm are left at 4 s each, and none of the other.
    assert "baseline epoch 2/2 step 30/40 loss 2.0000 16 tok/s 0:40 left" in lines
    assert lines[-1] == "baseline epoch 2/2 step 40/40 loss 2.0000 16 tok/s 0:00 left"
