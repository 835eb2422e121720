"""`experiments.gpu`: all of it runs without a GPU, and its goals are judged by what was measured."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from experiments import gpu, gpu_kernels, gpu_steps
from ryot_jax.kernels.choice import benchmark as benchmarking
from ryot_jax.kernels.choice import tuning
from ryot_jax.optimizations import BY_NAME
from ryot_jax.runtime.errors import ConfigError

SPEC = gpu_kernels.spec(gpu_kernels._TINY, dry_run=True)


def test_a_dry_run_goes_through_everything(run_python):
    environment = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = run_python("-m", "experiments.gpu", "--dry_run", environment=environment, timeout=400)
    for op in gpu_kernels.OPS:
        for name in ("reference", "xla", "mosaic", "triton"):
            # Triton has no attention, and few rows are one chunk of `xla`.
            if (op, name) not in (("attention", "triton"), ("linear_cross_entropy", "xla")):
                assert f"PASS: {op}, {name}: error against float64" in done.stdout
    for title in ("norm, gpt2_small", "training step of scaled", "training step of gpt2_small"):
        assert title in done.stdout
    assert "optimized, several steps a call" in done.stdout
    assert re.search(r"PASS: dense, fp8: error against float64: [5-9]\.\d+e-02", done.stdout)  # bfloat16: 2e-03
    assert done.stdout.count("training step of scaled, 2 x 16:") == 1
    assert re.search(r"gpt2_small: in the first 16 steps losses fell .*: optimized 0\.0", done.stdout)


@pytest.mark.parametrize(
    ("words", "reason"),
    [([], "needs an NVIDIA GPU, this is cpu; use --dry_run"), (["--dry_run", "--write"], "measures nothing")],
)
def test_what_cannot_be_measured_is_refused(words, reason):
    with pytest.raises(ConfigError, match=reason):
        gpu.main(words)


class Step:
    """What `gpu_steps` asks of an arm."""

    def hlo_text(self):
        return ""


class Setting:
    """Two arms, of which one may fail with a message."""

    class setup:
        config = type("Config", (), {"name": "large"})

    spec = None
    variants = tuple(type("Variant", (), {"name": name}) for name in ("baseline", "optimized"))

    def __init__(self, failing, message):
        self.failing, self.message = failing, message

    def arm(self, name):
        if name == self.failing:
            raise jax.errors.JaxRuntimeError(self.message)
        return Step()


def test_without_room_for_the_baseline_the_other_arm_is_timed(monkeypatch):
    checked = []
    monkeypatch.setattr(gpu_steps, "check_active", lambda *_: checked.append(True))
    notes = []
    full = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 51 GiB."
    assert list(gpu_steps._arms(Setting("baseline", full), notes)) == ["optimized"]
    assert "large: the baseline does not fit into the memory of this GPU" in notes[0] and not checked
    assert list(gpu_steps._arms(Setting("", ""), notes)) == ["baseline", "optimized"] and checked
    for failing, message in (("optimized", full), ("baseline", "INTERNAL: another")):
        with pytest.raises(jax.errors.JaxRuntimeError, match=message[:8]):
            gpu_steps._arms(Setting(failing, message), notes)


def test_other_variants_are_those_that_the_device_takes():
    hopper = gpu_kernels.spec(gpu_kernels._GPT2, dry_run=True)
    assert list(gpu_steps._further("scaled", hopper)) == ["optimized, several steps a call", gpu_steps.EIGHT_BITS]
    assert gpu_steps._further("gpt2_small", hopper) == {gpu_steps.EIGHT_BITS: ("dense", "fp8")}
    assert gpu_steps._further("gpt2_small", dataclasses.replace(hopper, compute_capability="8.0")) == {}


def _goals(op, milliseconds, memory=()):
    noise = np.random.default_rng(0).normal(1, 1e-3, (len(milliseconds), 9))
    measured = {name: ms * noise[i] for i, (name, ms) in enumerate(milliseconds.items())}
    return gpu_kernels._goals("title", op, measured, dict(memory))


@pytest.mark.parametrize(
    ("op", "milliseconds", "verdicts"),
    [
        ("linear_cross_entropy", {"reference": 10.0, "mosaic": 10.3, "xla": 12.0}, ["PASS", "PASS"]),
        ("linear_cross_entropy", {"reference": 10.0, "mosaic": 10.9}, ["FAIL", "PASS"]),
        ("linear_cross_entropy", {"reference": 10.0, "xla": 9.0}, ["PASS", "FAIL"]),
        ("norm", {"reference": 2.0, "triton": 1.0}, ["PASS"]),
        ("norm", {"reference": 1.5, "triton": 1.0}, ["FAIL"]),
        ("attention", {"reference": 9.0, "cudnn": 1.0}, ["PASS"]),
        ("attention", {"reference": 9.0, "mosaic": 1.0}, ["INCONCLUSIVE"]),
        ("norm", {"reference": 2.0}, ["INCONCLUSIVE"]),
        ("linear_cross_entropy", {"mosaic": 2.0}, ["INCONCLUSIVE"]),
    ],
)
def test_goals_are_those_of_the_fastest_implementation(op, milliseconds, verdicts):
    memory = {"reference": 80, "mosaic": 10, "xla": 11}
    assert [criterion.verdict for criterion in _goals(op, milliseconds, memory)] == verdicts


def test_an_implementation_that_fails_or_is_wrong_is_told(monkeypatch):
    def broken(benchmark, name):
        if name == "mosaic":
            raise RuntimeError("LLVM ERROR")
        program, memory = compiled(benchmark, name)
        return (lambda: [2 * leaf for leaf in program()[1]]) if name == "xla" else program, memory

    compiled = benchmarking.compiled
    monkeypatch.setattr(benchmarking, "compiled", broken)
    monkeypatch.setattr(gpu_kernels, "implementations", lambda *_, **__: ["reference", "xla", "mosaic"])
    monkeypatch.setattr(tuning, "relative_error", lambda found, truth: 0.0 if isinstance(found, tuple) else 1.0)
    found = gpu_kernels.correctness(["norm"], dry_run=True)
    assert [criterion.verdict for criterion in found.criteria] == ["PASS", "FAIL", "FAIL"]
    assert found.criteria[2].actual == "RuntimeError: LLVM ERROR"


def test_float64_is_what_is_compared_with():
    benchmark = benchmarking.benchmark(BY_NAME["linear_cross_entropy"], SPEC)
    loss, gradients = gpu_kernels.truth_in_float64(benchmark)
    assert loss.dtype == np.float64 and {gradient.dtype for gradient in gradients} == {np.dtype(np.float64)}
