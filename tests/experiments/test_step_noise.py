"""A fit finds what series were drawn from, says so where it does not, and reads only what it wrote."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from experiments import step_noise
from experiments.lib.simulation import Drift, Machine, Phases, StepNoise
from ryot_jax.runtime.errors import DataError

QUIET = StepNoise(
    seconds=0.04,
    jitter_sd=0.02,
    spike_share=0.25,
    spike_log_mean=0.12,
    spike_correlation=0.4,
    drifts=(Drift(0.03, 5.12),),
)


def series(noise, steps=6000, seed=0):
    machine = Machine(noise, 1, np.random.default_rng(seed))
    return np.array([machine.step()[0] for _ in range(steps)])


def test_the_fit_finds_what_a_quiet_series_was_drawn_from():
    found = step_noise.fit(series(QUIET))
    assert found.phases == ()
    assert found.seconds == pytest.approx(0.04, rel=0.03)
    assert found.jitter_sd == pytest.approx(0.02, rel=0.15)
    # The running median takes part of the spikes for drift.
    assert found.spike_share == pytest.approx(0.25, rel=0.25)
    assert found.spike_log_mean == pytest.approx(0.12, rel=0.2)
    assert found.spike_correlation == pytest.approx(0.4, abs=0.15)
    # Time constants come from a grid: neighbours share the variance.
    assert sum(drift.sd**2 for drift in found.drifts) ** 0.5 == pytest.approx(0.03, rel=0.3)


def test_the_fit_finds_nothing_but_jitter_where_there_is_nothing_else():
    found = step_noise.fit(series(StepNoise(seconds=0.04, jitter_sd=0.02)))
    assert found.phases == ()
    assert found.jitter_sd == pytest.approx(0.02, rel=0.1)
    assert found.spike_share * found.spike_log_mean < 0.004
    assert sum(drift.sd**2 for drift in found.drifts) ** 0.5 < 0.005  # a mean of 50 steps errs by 0.003


def test_the_fit_finds_slow_spells():
    shared = dataclasses.replace(QUIET, phases=(Phases(log_slower=0.6, share=0.4, seconds=10.0),))
    (found,) = step_noise.fit(series(shared, 12_000)).phases
    assert found.log_slower == pytest.approx(0.6, rel=0.1)
    assert found.share == pytest.approx(0.4, abs=0.12)
    assert found.seconds == pytest.approx(10.0, rel=0.4)


def test_series_of_the_fit_agree_with_the_series_and_those_of_another_machine_do_not():
    measured = series(QUIET)
    rows = step_noise.agreement(measured, step_noise.fit(measured))
    block_ratios = next(row for row in rows if "blocks of 50" in row[0])
    _, value, _, low, high = block_ratios
    assert low <= value <= high
    other = dataclasses.replace(QUIET, drifts=(Drift(0.1, 1.0),))
    _, value, _, low, high = next(row for row in step_noise.agreement(measured, other) if "blocks of 50" in row[0])
    assert value < low


def test_pauses_of_the_whole_machine_are_no_part_of_the_fit():
    measured = series(QUIET)
    paused = np.insert(measured, 3000, 90.0)
    assert step_noise.without_pauses(paused).size == measured.size
    assert step_noise.fit(paused) == step_noise.fit(measured)


def test_times_are_read_back_in_order(tmp_path):
    seconds_K = series(QUIET, 500)
    step_noise.write(tmp_path / "times.npz", "quiet", seconds_K, "a test")
    (found,) = step_noise.read(tmp_path / "times.npz").items()
    assert found[0] == "quiet"
    np.testing.assert_allclose(found[1], seconds_K, atol=5.1e-6)  # to 0.01 ms


def test_the_stored_times_are_those_of_the_record():
    found = step_noise.read(Path(step_noise.__file__).parent / "results" / "step_times.npz")
    assert {name: s_K.size for name, s_K in found.items()} == {"step_times_quiet": 2342, "step_times_shared": 4837}
    assert found["step_times_quiet"][0] == pytest.approx(0.04285) and found["step_times_shared"][0] == pytest.approx(
        0.07748
    )


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"40.0\n" * 500,
        {},
        {"few": np.full(20, 40.0)},
        {"negative": np.append(np.full(500, 40.0), -1.0)},
        {"words": np.full(500, "forty")},
        {"table": np.full((500, 2), 1.0)},
    ],
)
def test_files_without_enough_times_are_refused_by_name(tmp_path, content):
    path = tmp_path / "times.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    with pytest.raises(DataError, match=r"--times=.*times\.npz"):
        step_noise.read(path)
