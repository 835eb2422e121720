"""The work of a run's steps is counted from its own arrays, and its arms are placed under this machine's peaks."""

import dataclasses

import jax
import numpy as np
import pytest

from ryot_jax.comparison.record import Block, Record
from ryot_jax.comparison.variants import Variant
from ryot_jax.config import get_default
from ryot_jax.data.pipeline import Corpus
from ryot_jax.data.tokenizer import NoTokenizer
from ryot_jax.kernels import cpu
from ryot_jax.machine import workloads
from ryot_jax.machine.devices import Devices, describe_devices
from ryot_jax.machine.roofline import StepWork
from ryot_jax.machine.workloads import MEMORY
from ryot_jax.model import ModelConfig
from ryot_jax.model.accounting import least_flops_per_step
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import KernelPlan
from ryot_jax.runs import roofline
from ryot_jax.runs.roofline import place_arms, products_dtype, training_steps
from ryot_jax.training.setup import build_setup

SHAPE = (64, 32, 48)
CPU = Devices("cpu", "cpu", local_count=1, global_count=1, process_index=0, process_count=1)
VARIANTS = (Variant("baseline", KernelPlan()), Variant("optimized", KernelPlan(dense="xla")))


@pytest.fixture
def shared():
    """What the arms of a tiny run have in common."""
    config = get_default()
    config.model.update({"vocab_size": 260, "d_model": 16, "d_ff": 32, "n_layers": 1, "n_heads": 2, "max_len": 8})
    config.training.update({"batch_size": 8, "seq_len": 8})
    ids = np.random.default_rng(0).integers(0, 260, size=5000).astype(np.uint16)
    corpus = Corpus(ids, ids[:1000], NoTokenizer(260), "", {})
    return build_setup(config, from_config(config.model, "cpu"), corpus)


def record_of(seconds, steps=(10, 10, 5)):
    """A record whose steps take `seconds` in every arm but one block, which takes ten times as long."""
    names = tuple(seconds)

    def block(index, n):
        factor = 10 if index == 0 else 1
        nothing = dict.fromkeys(names, 1.0)
        taken = {name: factor * n * s for name, s in seconds.items()}
        return Block(index, 1, n, n * 64, names, taken, nothing, nothing, "hash")

    return Record(names, "hash", blocks=tuple(block(index, n) for index, n in enumerate(steps)))


def small_workloads(monkeypatch):
    """Workloads that take a millisecond: what is tested here does not depend on how good the peaks are."""
    monkeypatch.setattr(workloads, "_LEAST_ARRAY_BYTES", 4096)
    monkeypatch.setattr(workloads, "_TIMES_CACHES", 0)
    monkeypatch.setattr(workloads, "_CPU_SHAPE", (64, 64, 64))


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


def test_a_step_is_counted_from_the_runs_own_arrays(shared):
    seconds = {"baseline": 0.5, "optimized": 0.25}
    found = training_steps(shared, VARIANTS, seconds, CPU)
    params, opt_state = (
        sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (shared.state.params, shared.state.opt_state)
    )
    batch = sum(array.nbytes for array in shared.dataset[0].values())
    flops = least_flops_per_step(shared.model, 8, 8)
    assert found["baseline"] == StepWork("float32", flops, 2 * (2 * params + opt_state), batch, 0.5)
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
    small_workloads(monkeypatch)
    found, sentences = place_arms(shared, VARIANTS, record_of({"baseline": 1e4, "optimized": 1e-9}), seconds=0.01)
    assert set(found.peaks.matmul_flops) == {"float32", "bfloat16"}
    assert set(found.peaks.sources) == {"float32", "bfloat16", MEMORY}
    baseline, optimized = found.arms["baseline"], found.arms["optimized"]
    # Three hours for a step of a few million operations, and a nanosecond, whatever the machine is.
    assert not baseline.above_roof and optimized.above_roof
    assert (baseline.dtype, optimized.dtype) == ("float32", "bfloat16")
    assert len(sentences) == 1 and "the optimized arm is above the roof" in sentences[0]
    assert found.arms["baseline"].flops == least_flops_per_step(shared.model, 8, 8)
    assert describe_devices().platform != "cpu" or describe_devices().independent_count == 1


def test_a_machine_that_cannot_be_measured_costs_no_run(shared, monkeypatch):
    small_workloads(monkeypatch)
    monkeypatch.setattr(workloads, "_LEAST_ARRAY_BYTES", 2**46)
    monkeypatch.setattr(workloads, "_MOST_ARRAY_BYTES", 2**46)
    found, (sentence,) = place_arms(shared, VARIANTS, record_of({"baseline": 1.0, "optimized": 1.0}), seconds=0.0)
    assert found is None and "Roofline: not drawn" in sentence and "no peak of memory" in sentence


def test_a_run_without_a_step_has_no_roofline(shared):
    found, (sentence,) = place_arms(shared, VARIANTS, record_of({"baseline": 1.0, "optimized": 1.0}, steps=()))
    assert found is None and "no step was timed" in sentence


@pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="the C++ kernels are not built here")
def test_on_a_cpu_both_xla_and_the_cpp_kernels_are_tried(monkeypatch):
    monkeypatch.setattr(workloads, "_LEAST_ARRAY_BYTES", 4096)
    monkeypatch.setattr(workloads, "_TIMES_CACHES", 0)
    built, refused = workloads.build(["float32"], [SHAPE], products=roofline.products())
    names = [c.name for c in built if c.resource == "float32"]
    assert names == [
        f"{source} {shape}" for shape in ("4096 x 512 x 1024", "64 x 32 x 48") for source in ("XLA", "C++")
    ]
    assert not refused
    work = {c.name: c.work for c in built}
    assert work["C++ 64 x 32 x 48"] == work["XLA 64 x 32 x 48"] == 2 * 64 * 32 * 48
    assert work["copy"] == 4096 + 4096, "bytes that are read, and bytes that are written"
    assert work["update in place"] == 2 * work["copy"], "an array as large as the two of a copy"
