"""The choice of implementations: wishes are met or refused, never forgotten."""

import dataclasses

import pytest

from ryot_jax.kernels import KernelPlan, Spec, cpu, plan, resolve
from ryot_jax.runtime.errors import ConfigError

SPEC = Spec(
    platform="cpu", n_devices=1, compute_dtype="float32", rows=64, d_model=32, d_ff=64, vocab_size=100,
    seq_len=16, n_heads=2,
)  # fmt: skip
ALL_AUTO = {"linear_cross_entropy": "auto", "attention": "auto", "dense": "auto"}


def test_off_is_the_reference_everywhere():
    assert resolve(dict.fromkeys(ALL_AUTO, "off"), spec=SPEC).plan == KernelPlan()
    assert resolve({}, spec=SPEC).plan == KernelPlan()


def test_auto_takes_the_cpp_kernels_where_they_are_built(monkeypatch):
    monkeypatch.setattr(cpu, "unavailable_reason", lambda: None)
    chosen = resolve(ALL_AUTO, spec=SPEC).plan
    assert (chosen.linear_cross_entropy, chosen.attention) == ("cpu", "cpu")


def test_auto_without_a_compiler_takes_xla_and_says_why(monkeypatch):
    monkeypatch.setattr(cpu, "unavailable_reason", lambda: "the C++ kernels were not built")
    resolution = resolve(ALL_AUTO, spec=SPEC)
    assert (resolution.plan.linear_cross_entropy, resolution.plan.attention) == ("xla", "xla")
    assert "not cpu: the C++ kernels were not built" in resolution.reasons["attention"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"platform": "gpu"}, "not on gpu"),
        ({"compute_dtype": "bfloat16"}, "bfloat16"),
        ({"n_devices": 8}, "8 devices"),
    ],
)
def test_cpp_kernels_are_refused_for_work_that_they_cannot_take(change, reason):
    spec = dataclasses.replace(SPEC, **change)
    assert resolve({"attention": "auto"}, spec=spec).plan.attention == "xla"
    with pytest.raises(ConfigError, match=reason):
        resolve({"attention": "cpu"}, spec=spec)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_bf16_products_are_taken_only_where_the_processor_has_them(monkeypatch, has_bf16):
    monkeypatch.setattr(plan, "cpu_flags", lambda: frozenset({"avx512_bf16"} if has_bf16 else {"avx2"}))
    resolution = resolve({"dense": "auto"}, spec=SPEC)
    assert resolution.plan.dense == ("xla_bf16" if has_bf16 else "reference")
    if not has_bf16:
        assert "no AVX512-BF16" in resolution.reasons["dense"]
        with pytest.raises(ConfigError, match="no AVX512-BF16"):
            resolve({"dense": "xla_bf16"}, spec=SPEC)


def test_a_named_implementation_is_taken_or_refused_by_name():
    assert resolve({"attention": "xla"}, spec=SPEC).plan.attention == "xla"
    with pytest.raises(ConfigError, match=r"optimizations\.attention = 'cudnn'.*'cpu', 'xla'"):
        resolve({"attention": "cudnn"}, spec=SPEC)
    with pytest.raises(ConfigError, match=r"optimizations\.convolution: no such op"):
        resolve({"convolution": "auto"}, spec=SPEC)


def test_the_scanned_loss_is_refused_where_its_rows_are_spread_over_devices():
    spec = dataclasses.replace(SPEC, n_devices=8)
    resolution = resolve({"linear_cross_entropy": "auto"}, spec=spec)
    assert resolution.plan.linear_cross_entropy == "reference"
    assert "scan over rows" in resolution.reasons["linear_cross_entropy"]
    with pytest.raises(ConfigError, match="scan over rows"):
        resolve({"linear_cross_entropy": "xla"}, spec=spec)
