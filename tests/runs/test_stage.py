"""The stages of a run: their account of time and warnings, what a resumed run takes over, and how they may fail."""

import signal
import types

import pytest

from ryot_jax.config import get_default
from ryot_jax.runs.stage import Failure, Stage, StageResult, Stages
from ryot_jax.runtime.errors import ConfigError, Preempted
from ryot_jax.runtime.preemption import Preemption


class Lines:
    def __init__(self):
        self.lines = []

    def line(self, text=""):
        self.lines.append(text)


def run_of(*, resumed=False, checkpoints=True):
    config = get_default()
    config.checkpoint.enabled = checkpoints
    return types.SimpleNamespace(config=config, console=Lines(), resumed=resumed, started=0.0, preemption=Preemption())


def fails(run, *inputs):
    raise ConfigError("no room")


def test_each_stage_gets_the_inputs_and_its_time_and_warnings_are_kept():
    times = iter([1.0, 5.0, 7.0])
    stages = Stages(run_of(), clock=lambda: next(times))
    first = stages(Stage("first", lambda run: StageResult(3, ("a doubt",))))
    assert stages(Stage("second", lambda run, x, *, y: StageResult(x * y, ("another",))), first, y=4) == 12
    assert stages.seconds == {"first": 1.0, "second": 4.0}
    assert stages.warnings == ["a doubt", "another"]
    assert stages.total() == 7.0


def test_a_stage_that_does_not_apply_does_nothing_and_has_no_value():
    stages = Stages(run_of(resumed=True))
    stage = Stage("s", fails, applies=lambda run, x: x > 0, measured_before=lambda run, x: fails(run))
    assert stages(stage, 0) is None and stages.warnings == [] and list(stages.seconds) == ["s"]


@pytest.mark.parametrize(
    ("resumed", "before", "value"), [(True, "old", "old"), (True, None, "new"), (False, "old", "new")]
)
def test_only_a_resumed_run_takes_over_what_was_measured_before(resumed, before, value):
    stage = Stage("s", lambda run, x: StageResult("new"), measured_before=lambda run, x: before)
    assert Stages(run_of(resumed=resumed))(stage, 1) == value


def test_an_error_ends_the_run_but_of_stages_that_it_stands_without():
    run = run_of()
    stages = Stages(run)
    with pytest.raises(ConfigError, match="no room"):
        stages(Stage("s", fails))
    assert stages(Stage("t", fails, failure=Failure("not done", "It was not done"))) is None
    assert run.console.lines == ["not done: no room"] and stages.warnings == ["It was not done: no room."]
    taken_over = Stage("u", fails, measured_before=fails, failure=Failure("not done", "It was not done"))
    assert Stages(run_of(resumed=True))(taken_over) is None


def test_a_preempted_stage_is_no_failure_that_the_run_stands_without():
    def preempted(run):
        raise Preempted("stopped and saved")

    with pytest.raises(Preempted):
        Stages(run_of())(Stage("s", preempted, failure=Failure("not done", "It was not done")))


@pytest.mark.parametrize(("stops", "checkpoints"), [(True, True), (True, False), (False, True)])
def test_a_stage_listens_for_sigterm_where_it_can_stop_and_be_resumed(stops, checkpoints):
    run, before = run_of(checkpoints=checkpoints), signal.getsignal(signal.SIGTERM)

    def work(run):
        if signal.getsignal(signal.SIGTERM) is not before:
            signal.raise_signal(signal.SIGTERM)
        return StageResult(run.preemption.requested)

    assert Stages(run)(Stage("s", work, stops_on_request=stops)) is (stops and checkpoints)
    assert signal.getsignal(signal.SIGTERM) is before
