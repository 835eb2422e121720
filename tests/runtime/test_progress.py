import io

import pytest

from ryot_jax.runtime.console import Console
from ryot_jax.runtime.progress import Progress, format_duration


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Utf8Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def progress_on(stream, clock, arms=("baseline", "optimized")):
    return Progress(
        Console(stream, {"COLUMNS": "120"}),
        arms=arms,
        epochs=2,
        steps_per_epoch=100,
        tokens_per_step=4096,
        every_seconds=10.0,
        clock=clock,
    )


def test_a_plain_line_tells_epoch_step_loss_speed_and_time_left(clock):
    stream = io.StringIO()
    with progress_on(stream, clock, arms=("baseline",)) as progress:
        clock.seconds = 10.0
        progress.update("baseline", step=101, loss=3.14159, tokens_per_second=4096.0)
    assert stream.getvalue() == "baseline  epoch 2/2  step 101/200  loss 3.1416  4,096 tok/s  1:39 left\n"


def test_plain_lines_come_once_an_interval_and_at_the_end(clock):
    stream = io.StringIO()
    with progress_on(stream, clock, arms=("baseline",)) as progress:
        for step in range(1, 201):
            clock.seconds += 1.0
            progress.update("baseline", step=step, loss=1.0, tokens_per_second=4096.0)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 20
    assert "step 200/200" in lines[-1] and "0:00 left" in lines[-1]
    clock.seconds = 0.0
    stream = io.StringIO()
    with progress_on(stream, clock, arms=("baseline",)) as progress:
        for step in range(1, 201):
            progress.update("baseline", step=step, loss=1.0, tokens_per_second=4096.0)
    assert len(stream.getvalue().splitlines()) == 1


def test_both_arms_are_shown_when_their_blocks_alternate(clock):
    stream = io.StringIO()
    with progress_on(stream, clock) as progress:
        progress.update("optimized", step=50, loss=2.0, tokens_per_second=8192.0)
        clock.seconds = 10.0
        progress.update("baseline", step=50, loss=2.0, tokens_per_second=4096.0)
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["baseline", "optimized"]


def test_time_left_is_that_of_both_arms(clock):
    stream = io.StringIO()
    with progress_on(stream, clock) as progress:
        clock.seconds = 10.0
        progress.update("baseline", step=100, loss=2.0, tokens_per_second=4096.0)
        clock.seconds = 20.0
        progress.update("optimized", step=100, loss=2.0, tokens_per_second=8192.0)
    first, second = stream.getvalue().splitlines()
    assert first.endswith("5:00 left")  # 100 steps of this arm, and 200 of one that is taken to be as fast
    assert second.endswith("2:30 left")  # 100 at one a second, 100 at two


def test_plain_output_is_ascii_even_for_a_loss_that_is_not_a_number(clock):
    stream = io.StringIO()
    with progress_on(stream, clock) as progress:
        clock.seconds = 10.0
        progress.update("baseline", step=1, loss=float("nan"), tokens_per_second=0.0)
    assert stream.getvalue().isascii()
    assert "? left" in stream.getvalue()


def test_before_the_first_measurement_there_is_no_speed_and_no_time_left(clock):
    stream = io.StringIO()
    with progress_on(stream, clock) as progress:
        clock.seconds = 10.0
        progress.update("baseline", step=5, loss=2.0, tokens_per_second=None)
        clock.seconds = 20.0
        progress.update("optimized", step=50, loss=2.0, tokens_per_second=4096.0)
    first, *_, last = stream.getvalue().splitlines()
    assert first.endswith("step   5/200  loss 2.0000  ? tok/s  ? left")
    assert last.endswith("4,096 tok/s  5:45 left")  # 150 steps of this arm, and 195 of one taken to be as fast


def test_a_terminal_shows_a_row_for_each_arm_and_is_given_back(clock):
    stream = Utf8Terminal()
    with progress_on(stream, clock) as progress:
        clock.seconds = 10.0
        progress.update("baseline", step=200, loss=2.5, tokens_per_second=4096.0)
    shown = stream.getvalue()
    assert "optimized" in shown and "waiting" in shown
    assert "loss 2.5000" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor stays hidden"


def test_a_terminal_that_goes_away_does_not_end_the_run(clock):
    stream = Utf8Terminal()
    with progress_on(stream, clock) as progress:
        stream.close()
        for step in (100, 200):
            clock.seconds += 10.0
            progress.update("baseline", step=step, loss=2.5, tokens_per_second=4096.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00"), (90061, "25:01:01")]
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text
