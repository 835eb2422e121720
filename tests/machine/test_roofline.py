"""Steps stand where their work and the measured peaks put them, and one above its roof is called a bug."""

import dataclasses

import pytest

from ryot_jax.machine import roofline
from ryot_jax.machine.peaks import Peaks
from ryot_jax.machine.roofline import StepWork, place
from ryot_jax.machine.workloads import MEMORY

SOURCES = {"float32": "a", "bfloat16": "b", MEMORY: "c"}
# 100 GFLOP/s and 400 GFLOP/s, 10 GB/s: the ridges are at 10 and 40 operations a byte.
PEAKS = Peaks({"float32": 1e11, "bfloat16": 4e11}, 1e10, None, SOURCES)


def step(**changes):
    """40 GFLOP on 0.1 GB: 0.4 s of float32 products, 0.01 s of traffic."""
    return dataclasses.replace(StepWork("float32", 4 * 10**10, 99_000_000, 1_000_000, seconds=0.8), **changes)


def placed(peaks=PEAKS, units=1, **changes):
    return place({"arm": step(**changes)}, peaks, units=units).arms["arm"]


def test_an_arm_under_the_roof_has_its_share_of_it():
    arm = placed()
    assert arm.flops_per_second == pytest.approx(5e10) and arm.roof == pytest.approx(1e11)
    assert arm.share == pytest.approx(0.5) and not arm.above_roof
    assert arm.bytes == 100_000_000
    assert arm.share == pytest.approx(arm.flops_per_second / arm.roof)


def test_the_roof_is_the_lower_of_peak_and_bandwidth_at_the_steps_intensity():
    for intensity in (1, 9, 11, 39, 41, 1000):
        for dtype, peak in PEAKS.matmul_flops.items():
            arm = placed(dtype=dtype, flops=intensity * 100_000_000)
            assert arm.roof == pytest.approx(min(peak, intensity * PEAKS.copy_bytes))
            assert arm.bound == ("compute" if intensity * PEAKS.copy_bytes >= peak else "memory")


def test_narrow_operands_can_do_what_wide_ones_can():
    without_bf16 = dataclasses.replace(PEAKS, matmul_flops={"float32": 1e11, "bfloat16": 2e10})
    assert placed(without_bf16, dtype="bfloat16").roof == placed(without_bf16).roof == pytest.approx(1e11)


def test_an_arm_twice_as_fast_as_its_roof_is_reported_as_a_bug():
    found = place({"baseline": step(), "optimized": step(seconds=0.2)}, PEAKS)
    assert [arm.above_roof for arm in found.arms.values()] == [False, True]
    assert found.arms["optimized"].share == pytest.approx(2.0)
    (sentence,) = roofline.warnings(found)
    for part in (
        "optimized arm is above the roof",
        "200.0 GFLOP/s, 2.00 times the 100.0",
        "float32 products",
        "bug",
        "clock",
        "operations than the closed form",
        "peak was measured too low",
    ):
        assert part in sentence
    assert "baseline" not in sentence


def test_above_the_memory_roof_the_bytes_are_doubted():
    memory_bound = {"flops": 10**8, "seconds": 0.005}
    (sentence,) = roofline.warnings(place({"arm": step(**memory_bound)}, PEAKS))
    assert "2.00 times" in sentence and "memory traffic" in sentence and "fewer bytes" in sentence
    assert "a cache whose size is not known" in sentence
    known = dataclasses.replace(PEAKS, cache_bytes=1000)
    (sentence,) = roofline.warnings(place({"arm": step(**memory_bound)}, known))
    assert "not known" not in sentence


def test_a_state_that_fits_into_the_caches_is_no_traffic():
    memory_bound = {"flops": 10**7}
    roofs = []
    for cache_bytes in (None, 0, 10_000_000, 49_500_000, 10**9):
        arm = placed(dataclasses.replace(PEAKS, cache_bytes=cache_bytes), **memory_bound)
        assert arm.cached_bytes == min(2 * (cache_bytes or 0), 99_000_000)
        roofs.append(arm.roof)
    assert roofs == sorted(roofs) and roofs[0] == roofs[1] == pytest.approx(1e9)
    assert roofs[2] == pytest.approx(1e7 / ((100_000_000 - 20_000_000) / 1e10))
    assert roofs[3] == roofs[4] == pytest.approx(1e7 / (1_000_000 / 1e10)), "the batch is new in every step"


def test_several_devices_have_as_many_peaks():
    one, four = placed(), placed(units=4)
    assert four.roof == pytest.approx(4 * one.roof)
    assert place({}, PEAKS, units=4).peaks.copy_bytes == 4 * PEAKS.copy_bytes


def test_a_peak_is_that_of_any_dtype_that_the_operands_can_be_converted_to():
    rates = {"float32": 1.0, "bfloat16": 3.0, "float8_e4m3fn": 2.0}
    peaks = dataclasses.replace(PEAKS, matmul_flops=rates)
    assert [roofline._peak(peaks, dtype) for dtype in rates] == [1.0, 3.0, 3.0]
    assert roofline._peak(dataclasses.replace(peaks, matmul_flops=rates | {"float8_e4m3fn": 5.0}), "bfloat16") == 3.0
