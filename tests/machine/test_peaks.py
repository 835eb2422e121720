"""Peaks are the best of what was run, on any device, within the time that is given."""

import itertools
import math

import jax
import jax.numpy as jnp
import pytest

from ryot_jax.kernels import cpu
from ryot_jax.machine import peaks
from ryot_jax.machine.peaks import MEMORY, Candidate, Meter, build, measure_peaks
from ryot_jax.runtime.errors import RyotError

SHAPE = (64, 32, 48)


class Clock:
    """Time that passes only while a candidate runs, by the seconds that its script has for each call in turn."""

    def __init__(self):
        self.now = 0.0
        self.order = []

    def __call__(self):
        return self.now

    def candidate(self, resource, name, work, script):
        durations = iter(script)
        done = jnp.zeros(())

        def call():
            self.order.append(name)
            self.now += next(durations)
            return done

        return Candidate(resource, name, work, call)


def constant(seconds):
    while True:
        yield seconds


def test_each_resource_has_its_fastest_sample_of_its_best_program():
    clock = Clock()
    meter = Meter(
        [
            clock.candidate("float32", "slow", 1000, constant(4.0)),
            clock.candidate("float32", "lucky once", 1000, [9.0, 8.0, 2.0, *[8.0] * 50]),
            clock.candidate("bfloat16", "only", 3000, constant(3.0)),
            clock.candidate(MEMORY, "copy", 640, constant(1.0)),
            clock.candidate(MEMORY, "update", 640, constant(0.5)),
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


def test_candidates_take_turns_until_the_time_is_up():
    clock = Clock()
    meter = Meter([clock.candidate("float32", name, 1, constant(1.0)) for name in "abc"], clock=clock)
    meter.run(seconds=12.5)
    assert clock.now == 13.0, "the sample that was begun is the last"
    first_round, others = clock.order[:6], clock.order[6:]
    assert first_round == list("aabbcc"), "the first call of each tells how many make a sample"
    assert others == list("abcabca")


def test_without_time_every_candidate_is_still_sampled_once():
    clock = Clock()
    meter = Meter([clock.candidate("float32", name, 1, constant(1.0)) for name in "abc"], clock=clock)
    meter.run(seconds=0.0)
    assert sorted(set(clock.order)) == list("abc") and len(meter.rates()) == 3


def test_short_calls_are_timed_several_at_once():
    clock = Clock()
    meter = Meter([clock.candidate("float32", "short", 1, constant(0.5e-3))], clock=clock)
    meter.run(seconds=1e-3)
    assert len(clock.order) == 1 + 4, "2 ms a sample"
    assert meter.rates()[0][1] == pytest.approx(2000.0)


def test_this_machine_has_peaks():
    found = measure_peaks(("float32", "bfloat16"), [SHAPE], seconds=0.0)
    assert set(found.matmul_flops) == {"float32", "bfloat16"} and set(found.sources) == {*found.matmul_flops, MEMORY}
    assert all(math.isfinite(rate) and rate > 0 for rate in (*found.matmul_flops.values(), found.copy_bytes))


def test_more_samples_are_taken_while_peaks_are_not_plausible(monkeypatch):
    monkeypatch.setattr(peaks, "_LEAST_ARRAY_BYTES", 4096)
    monkeypatch.setattr(peaks, "_TIMES_CACHES", 0)
    monkeypatch.setattr(peaks, "_CPU_SHAPE", SHAPE)
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
    monkeypatch.setattr(peaks, "_ACCELERATOR_SHAPE", SHAPE)
    monkeypatch.setattr(peaks, "_ACCELERATOR_ARRAY_BYTES", 4096)
    found = measure_peaks(("float32",), seconds=0.01)
    assert found.sources["float32"] == "XLA 64 x 32 x 48" and found.matmul_flops["float32"] > 0
    assert found.copy_bytes > 0 and found.cache_bytes is None


@pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="the C++ kernels are not built here")
def test_on_a_cpu_both_xla_and_the_cpp_kernels_are_candidates(monkeypatch):
    monkeypatch.setattr(peaks, "_LEAST_ARRAY_BYTES", 4096)
    monkeypatch.setattr(peaks, "_TIMES_CACHES", 0)
    candidates, refused = build(["float32"], [SHAPE])
    names = [c.name for c in candidates if c.resource == "float32"]
    assert names == [
        f"{source} {shape}" for shape in ("4096 x 512 x 1024", "64 x 32 x 48") for source in ("XLA", "C++")
    ]
    assert not refused
    work = {c.name: c.work for c in candidates}
    assert work["C++ 64 x 32 x 48"] == work["XLA 64 x 32 x 48"] == 2 * 64 * 32 * 48
    assert work["copy"] == 4096 + 4096, "bytes that are read, and bytes that are written"
    assert work["update in place"] == 2 * work["copy"], "an array as large as the two of a copy"


def test_products_are_those_of_their_operands(monkeypatch):
    monkeypatch.setattr(peaks, "_LEAST_ARRAY_BYTES", 4096)
    monkeypatch.setattr(peaks, "_TIMES_CACHES", 0)
    monkeypatch.setattr(peaks, "_CPU_SHAPE", SHAPE)
    found = {}
    for dtype in ("float32", "bfloat16"):
        candidates, _ = build([dtype])
        for candidate in candidates:
            if candidate.resource == dtype:
                x_NK, w_KM = peaks._operands(SHAPE, dtype, dtype)
                exact = x_NK.astype(jnp.float32) @ w_KM.astype(jnp.float32)
                # Sums of 32 products of numbers below a half, each rounded to 8 bits where the outcome is bfloat16.
                assert jnp.allclose(candidate.call().astype(jnp.float32), exact, atol=0.02)
                found[candidate.name, dtype] = candidate
    assert len(found) >= 2


def test_traffic_needs_no_new_memory_and_a_copy_has_two_arrays():
    update, copy = peaks._update(4096), peaks._copy(4096)
    for candidate in (update, copy):
        pointers = {candidate.call().unsafe_buffer_pointer() for _ in range(3)}
        assert len(pointers) == 1, "pages of new memory would be timed too"
    assert float(update.call()[0]) == 6.0, "two calls when it was built, three before this one"


def test_a_copy_that_moves_nothing_is_noticed(monkeypatch):
    monkeypatch.setattr(jnp, "copy", jnp.zeros_like)
    with pytest.raises(RyotError, match=r"a copy gave \(0.0, 0.0\) in place of 1.0"):
        peaks._copy(4096)


def test_a_dtype_without_products_is_refused_with_the_reason():
    with pytest.raises(RyotError, match=r"no peak of float31 can be measured here: float31, XLA .*float31"):
        build(["float31"], seconds=0.0)


def test_products_are_cut_to_what_a_sample_has_time_for():
    assert peaks._cut((4096, 128, 512), 10**9) == (4096, 128, 512)
    rows, inner, columns = peaks._cut((10**6, 768, 50_257), 10**10)
    assert (inner, columns) == (768, 50_257) and 0.9 * 10**10 < 2 * rows * inner * columns <= 10**10
    assert peaks._cut((10**6, 10**5, 10**5), 10**9)[0] == 1


def test_caches_that_cores_share_are_counted_once(tmp_path, monkeypatch):
    monkeypatch.setattr(peaks.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    for core in (0, 1, 2):
        for index, (level, kind, size, cores) in enumerate(
            [(1, "Data", "48K", core), (1, "Instruction", "32K", core), (3, "Unified", "32768K", "0-1")]
        ):
            folder = tmp_path / f"cpu{core}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for field, value in {"level": level, "type": kind, "size": size, "shared_cpu_list": cores}.items():
                (folder / field).write_text(f"{value}\n", encoding="ascii")
    assert peaks._cache_bytes(tmp_path) == (2 * 48 + 32768) * 1024, "core 2 is not ours"
    assert peaks._cache_bytes(tmp_path / "elsewhere") is None
