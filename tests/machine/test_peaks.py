"""Peaks are the best of what was run, on any device, within the time that is given."""

import itertools
import math

import jax
import jax.numpy as jnp
import pytest

from ryot_jax.machine import workloads
from ryot_jax.machine.peaks import Meter, measure_peaks
from ryot_jax.machine.workloads import MEMORY, Workload

SHAPE = (64, 32, 48)


class Clock:
    """Time that passes only while a workload runs, by the seconds that its script has for each call in turn."""

    def __init__(self):
        self.now = 0.0
        self.order = []

    def __call__(self):
        return self.now

    def workload(self, resource, name, work, script):
        durations = iter(script)
        done = jnp.zeros(())

        def call():
            self.order.append(name)
            self.now += next(durations)
            return done

        return Workload(resource, name, work, call)


def constant(seconds):
    while True:
        yield seconds


def test_each_resource_has_its_fastest_sample_of_its_best_program():
    clock = Clock()
    meter = Meter(
        [
            clock.workload("float32", "slow", 1000, constant(4.0)),
            clock.workload("float32", "lucky once", 1000, [9.0, 8.0, 2.0, *[8.0] * 50]),
            clock.workload("bfloat16", "only", 3000, constant(3.0)),
            clock.workload(MEMORY, "copy", 640, constant(1.0)),
            clock.workload(MEMORY, "update", 640, constant(0.5)),
        ],
        clock=clock,
    )
    meter.run(seconds=100.0)
    found = meter.peaks()
    assert found.matmul_flops == {"float32": 500.0, "bfloat16": 1000.0}
    assert found.copy_bytes == 1280.0
    assert found.sources == {"float32": "lucky once", "bfloat16": "only", MEMORY: "update"}
    rates = [rate for _, rate in meter.rates()]
    assert rates == sorted(rates, reverse=True)
    assert found.matmul_flops["float32"] == max(r for c, r in meter.rates() if c.resource == "float32")


def test_workloads_take_turns_until_the_time_is_up():
    clock = Clock()
    meter = Meter([clock.workload("float32", name, 1, constant(1.0)) for name in "abc"], clock=clock)
    meter.run(seconds=12.5)
    assert clock.now == 13.0, "the sample that was begun is the last"
    first_round, others = clock.order[:6], clock.order[6:]
    assert first_round == list("aabbcc"), "the first call of each tells how many make a sample"
    assert others == list("abcabca")


def test_without_time_every_workload_is_still_sampled_once():
    clock = Clock()
    meter = Meter([clock.workload("float32", name, 1, constant(1.0)) for name in "abc"], clock=clock)
    meter.run(seconds=0.0)
    assert sorted(set(clock.order)) == list("abc") and len(meter.rates()) == 3


def test_short_calls_are_timed_several_at_once():
    clock = Clock()
    meter = Meter([clock.workload("float32", "short", 1, constant(0.5e-3))], clock=clock)
    meter.run(seconds=1e-3)
    assert len(clock.order) == 1 + 4, "2 ms a sample"
    assert meter.rates()[0][1] == pytest.approx(2000.0)


def test_this_machine_has_peaks():
    found = measure_peaks(("float32", "bfloat16"), [SHAPE], seconds=0.0)
    assert set(found.matmul_flops) == {"float32", "bfloat16"} and set(found.sources) == {*found.matmul_flops, MEMORY}
    assert all(math.isfinite(rate) and rate > 0 for rate in (*found.matmul_flops.values(), found.copy_bytes))


def test_more_samples_are_taken_while_peaks_are_not_plausible(monkeypatch):
    monkeypatch.setattr(workloads, "_LEAST_ARRAY_BYTES", 4096)
    monkeypatch.setattr(workloads, "_TIMES_CACHES", 0)
    monkeypatch.setattr(workloads, "_CPU_SHAPE", SHAPE)
    asked = []

    def plausible(found):
        asked.append(found)
        return False

    found = measure_peaks(("float32",), seconds=0.01, plausible=plausible)
    assert len(asked) == 2, "twice, so that an honest point above the roof does not take for ever"
    history = [*asked, found]
    for earlier, later in itertools.pairwise(history):
        assert (
            later.copy_bytes >= earlier.copy_bytes and later.matmul_flops["float32"] >= earlier.matmul_flops["float32"]
        )


def test_an_unknown_device_is_measured_as_any_other(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "abacus")
    monkeypatch.setattr(workloads, "_ACCELERATOR_SHAPE", SHAPE)
    monkeypatch.setattr(workloads, "_ACCELERATOR_ARRAY_BYTES", 4096)
    found = measure_peaks(("float32",), seconds=0.01)
    assert found.sources["float32"] == "XLA 64 x 32 x 48" and found.matmul_flops["float32"] > 0
    assert found.copy_bytes > 0 and found.cache_bytes is None
