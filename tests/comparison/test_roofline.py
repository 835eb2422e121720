"""Arms stand where their closed forms and the measured peaks put them, and one above its roof is called a bug."""

import dataclasses

import jax
import numpy as np
import pytest

from ryot_jax.comparison.arms import share
from ryot_jax.comparison.record import Block, Record
from ryot_jax.comparison.variants import Variant
from ryot_jax.config import get_default
from ryot_jax.data.pipeline import Corpus
from ryot_jax.data.tokenizer import NoTokenizer
from ryot_jax.kernels import KernelPlan
from ryot_jax.machine import peaks as measured
from ryot_jax.machine import roofline
from ryot_jax.machine.devices import Devices, describe_devices
from ryot_jax.machine.peaks import MEMORY, Peaks
from ryot_jax.machine.roofline import Step, computing_units, of_run, place, products_dtype, training_steps
from ryot_jax.model import ModelConfig
from ryot_jax.model.accounting import least_flops_per_step
from ryot_jax.model.config import from_config
from ryot_jax.report import terminal

SOURCES = {"float32": "a", "bfloat16": "b", MEMORY: "c"}
# 100 GFLOP/s and 400 GFLOP/s, 10 GB/s: the ridges are at 10 and 40 operations a byte.
PEAKS = Peaks({"float32": 1e11, "bfloat16": 4e11}, 1e10, None, SOURCES)
CPU = Devices("cpu", "cpu", local_count=1, global_count=1, process_index=0, process_count=1)
VARIANTS = (Variant("baseline", KernelPlan()), Variant("optimized", KernelPlan(dense="xla")))


def step(**changes):
    """40 GFLOP on 0.1 GB: 0.4 s of float32 products, 0.01 s of traffic."""
    return dataclasses.replace(Step("float32", 4 * 10**10, 99_000_000, 1_000_000, seconds=0.8), **changes)


def placed(peaks=PEAKS, units=1, **changes):
    return place({"arm": step(**changes)}, peaks, units=units).arms["arm"]


@pytest.fixture
def shared():
    """What the arms of a tiny run have in common."""
    config = get_default()
    config.model.update({"vocab_size": 260, "d_model": 16, "d_ff": 32, "n_layers": 1, "n_heads": 2, "max_len": 8})
    config.training.update({"batch_size": 8, "seq_len": 8})
    ids = np.random.default_rng(0).integers(0, 260, size=5000).astype(np.uint16)
    corpus = Corpus(ids, ids[:1000], NoTokenizer(260), "", {})
    return share(config, from_config(config.model, "cpu"), corpus)


def record_of(seconds, steps=(10, 10, 5)):
    """A record whose steps take `seconds` in every arm but one block, which takes ten times as long."""
    names = tuple(seconds)

    def block(index, n):
        factor = 10 if index == 0 else 1
        nothing = dict.fromkeys(names, 1.0)
        taken = {name: factor * n * s for name, s in seconds.items()}
        return Block(index, 1, n, n * 64, names, taken, nothing, nothing, "hash")

    return Record(names, "hash", blocks=tuple(block(index, n) for index, n in enumerate(steps)))


def small_candidates(monkeypatch):
    """Candidates that take a millisecond: what is tested here does not depend on how good the peaks are."""
    monkeypatch.setattr(measured, "_LEAST_ARRAY_BYTES", 4096)
    monkeypatch.setattr(measured, "_TIMES_CACHES", 0)
    monkeypatch.setattr(measured, "_CPU_SHAPE", (64, 64, 64))


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


def test_a_reader_of_the_terminal_sees_it(assemble, make_arms):
    found = place({"optimized": step(seconds=0.2)}, PEAKS)
    results = assemble(make_arms(), warnings=roofline.warnings(found))
    shown = " ".join(terminal.render(results, fancy=False, width=100).split())
    assert "the optimized arm is above the roof, which no program can be" in shown


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


def test_several_devices_have_as_many_peaks_but_one_cpu_has_one():
    one, four = placed(), placed(units=4)
    assert four.roof == pytest.approx(4 * one.roof)
    assert place({}, PEAKS, units=4).peaks.copy_bytes == 4 * PEAKS.copy_bytes
    simulated = dataclasses.replace(CPU, local_count=8)
    assert computing_units(simulated) == 1
    assert computing_units(dataclasses.replace(simulated, platform="gpu")) == 8


@pytest.mark.parametrize(
    ("compute_dtype", "plan", "dtype"),
    [
        ("float32", KernelPlan(), "float32"),
        ("float32", KernelPlan(linear_cross_entropy="xla", attention="xla", norm="xla"), "float32"),
        ("float32", KernelPlan(dense="cpu", attention="cpu"), "float32"),
        ("float32", KernelPlan(dense="xla"), "bfloat16"),
        ("float32", KernelPlan(activations="bfloat16", dense="cpu"), "bfloat16"),
        ("bfloat16", KernelPlan(), "bfloat16"),
        ("float16", KernelPlan(), "float16"),
        ("bfloat16", KernelPlan(dense="fp8", attention="cudnn"), "float8_e4m3fn"),
    ],
)
def test_the_dtype_of_the_products_is_that_of_the_plan(compute_dtype, plan, dtype):
    assert products_dtype(ModelConfig(compute_dtype=compute_dtype), plan) == dtype


def test_float32_is_measured_beside_the_dtypes_of_the_plans():
    model = ModelConfig(compute_dtype="bfloat16")
    assert roofline.products_dtypes(model, VARIANTS) == ("bfloat16", "float32")
    assert roofline.products_dtypes(ModelConfig(), VARIANTS[:1]) == ("float32",)
    narrow = dataclasses.replace(VARIANTS[0], plan=KernelPlan(dense="fp8"))
    assert roofline.products_dtypes(model, (narrow,)) == ("bfloat16", "float32", "float8_e4m3fn")


def test_a_peak_is_that_of_any_dtype_that_the_operands_can_be_converted_to():
    rates = {"float32": 1.0, "bfloat16": 3.0, "float8_e4m3fn": 2.0}
    peaks = dataclasses.replace(PEAKS, matmul_flops=rates)
    assert [roofline._peak(peaks, dtype) for dtype in rates] == [1.0, 3.0, 3.0]
    assert roofline._peak(dataclasses.replace(peaks, matmul_flops=rates | {"float8_e4m3fn": 5.0}), "bfloat16") == 3.0


def test_a_step_is_counted_from_the_runs_own_arrays(shared):
    seconds = {"baseline": 0.5, "optimized": 0.25}
    found = training_steps(shared, VARIANTS, seconds, CPU)
    params, opt_state = (
        sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (shared.state.params, shared.state.opt_state)
    )
    batch = sum(array.nbytes for array in shared.dataset[0].values())
    flops = least_flops_per_step(shared.model, 8, 8)
    assert found["baseline"] == Step("float32", flops, 2 * (2 * params + opt_state), batch, 0.5)
    assert found["optimized"] == dataclasses.replace(found["baseline"], dtype="bfloat16", seconds=0.25)
    on_two = training_steps(shared, VARIANTS, seconds, dataclasses.replace(CPU, local_count=2))
    assert on_two["baseline"] == dataclasses.replace(
        found["baseline"], state_bytes=2 * found["baseline"].state_bytes
    ), "each device has the whole state"


def test_without_clipping_no_gradient_has_to_be_kept(shared):
    kept = training_steps(shared, VARIANTS[:1], {"baseline": 1.0}, CPU)["baseline"].state_bytes
    shared.config.training.clip_norm = 0.0
    spared = training_steps(shared, VARIANTS[:1], {"baseline": 1.0}, CPU)["baseline"].state_bytes
    assert kept - spared == 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(shared.state.params))


def test_the_products_that_are_measured_are_the_models():
    assert roofline.product_shapes(ModelConfig(), 4096) == ((4096, 128, 512), (4096, 512, 128), (4096, 128, 2048))
    assert (64, 128, 1024) in roofline.product_shapes(ModelConfig(mlp="swiglu"), 64)


def test_a_steps_time_is_the_median_blocks():
    record = record_of({"baseline": 0.2, "optimized": 0.1})
    assert roofline.seconds_per_step(record) == pytest.approx({"baseline": 0.2, "optimized": 0.1})


def test_a_run_is_placed_under_the_peaks_of_this_machine(shared, monkeypatch):
    small_candidates(monkeypatch)
    found, sentences = of_run(shared, VARIANTS, record_of({"baseline": 1e4, "optimized": 1e-9}), seconds=0.01)
    assert set(found.peaks.matmul_flops) == {"float32", "bfloat16"}
    assert set(found.peaks.sources) == {"float32", "bfloat16", MEMORY}
    baseline, optimized = found.arms["baseline"], found.arms["optimized"]
    # Three hours for a step of a few million operations, and a nanosecond, whatever the machine is.
    assert not baseline.above_roof and optimized.above_roof
    assert (baseline.dtype, optimized.dtype) == ("float32", "bfloat16")
    assert len(sentences) == 1 and "the optimized arm is above the roof" in sentences[0]
    assert found.arms["baseline"].flops == least_flops_per_step(shared.model, 8, 8)
    assert describe_devices().platform != "cpu" or computing_units(describe_devices()) == 1


def test_a_machine_that_cannot_be_measured_costs_no_run(shared, monkeypatch):
    small_candidates(monkeypatch)
    monkeypatch.setattr(measured, "_LEAST_ARRAY_BYTES", 2**46)
    monkeypatch.setattr(measured, "_MOST_ARRAY_BYTES", 2**46)
    found, (sentence,) = of_run(shared, VARIANTS, record_of({"baseline": 1.0, "optimized": 1.0}), seconds=0.0)
    assert found is None and "Roofline: not drawn" in sentence and "no peak of memory" in sentence


def test_a_run_without_a_step_has_no_roofline(shared):
    found, (sentence,) = of_run(shared, VARIANTS, record_of({"baseline": 1.0, "optimized": 1.0}, steps=()))
    assert found is None and "no step was timed" in sentence
