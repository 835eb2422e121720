"""Workloads do the work that is counted for them, and one that cannot run is refused with the reason."""

import jax.numpy as jnp
import pytest

from ryot_jax.machine import workloads
from ryot_jax.machine.workloads import XLA, Product, build
from ryot_jax.runtime.errors import RyotError

SHAPE = (64, 32, 48)


def test_every_implementation_of_the_product_is_tried_with_every_shape_and_dtype(monkeypatch):
    monkeypatch.setattr(workloads, "_LEAST_ARRAY_BYTES", 4096)
    monkeypatch.setattr(workloads, "_TIMES_CACHES", 0)
    monkeypatch.setattr(workloads, "_CPU_SHAPE", (16, 8, 8))
    monkeypatch.setattr(workloads, "_ACCELERATOR_SHAPE", (16, 8, 8))
    monkeypatch.setattr(workloads, "_ACCELERATOR_ARRAY_BYTES", 4096)
    seen = []

    def multiply(x_NK, w_KM):
        seen.append((x_NK.shape, x_NK.dtype, w_KM.dtype))
        return x_NK @ w_KM.astype(x_NK.dtype)

    built, refused = build(["bfloat16"], [SHAPE], products=[XLA, Product("ours", multiply, weights_dtype="float32")])
    names = [workload.name for workload in built if workload.resource == "bfloat16"]
    assert names == [f"{name} {shape}" for shape in ("16 x 8 x 8", "64 x 32 x 48") for name in ("XLA", "ours")]
    assert seen == [((16, 8), jnp.bfloat16, jnp.float32), ((64, 32), jnp.bfloat16, jnp.float32)]
    assert not refused


def test_products_are_those_of_their_operands(monkeypatch):
    monkeypatch.setattr(workloads, "_LEAST_ARRAY_BYTES", 4096)
    monkeypatch.setattr(workloads, "_TIMES_CACHES", 0)
    monkeypatch.setattr(workloads, "_CPU_SHAPE", SHAPE)
    found = {}
    for dtype in ("float32", "bfloat16"):
        built, _ = build([dtype])
        for workload in built:
            if workload.resource == dtype:
                x_NK, w_KM = workloads._operands(SHAPE, dtype, dtype)
                exact = x_NK.astype(jnp.float32) @ w_KM.astype(jnp.float32)
                # Sums of 32 products of numbers below a half, each rounded to 8 bits where the outcome is bfloat16.
                assert jnp.allclose(workload.call().astype(jnp.float32), exact, atol=0.02)
                found[workload.name, dtype] = workload
    assert len(found) >= 2


def test_traffic_needs_no_new_memory_and_a_copy_has_two_arrays():
    update, copy = workloads._update(4096), workloads._copy(4096)
    for workload in (update, copy):
        pointers = {workload.call().unsafe_buffer_pointer() for _ in range(3)}
        assert len(pointers) == 1, "pages of new memory would be timed too"
    assert float(update.call()[0]) == 6.0, "two calls when it was built, three before this one"


def test_a_copy_that_moves_nothing_is_noticed(monkeypatch):
    monkeypatch.setattr(jnp, "copy", jnp.zeros_like)
    with pytest.raises(RyotError, match=r"a copy gave \(0.0, 0.0\) in place of 1.0"):
        workloads._copy(4096)


def test_a_dtype_without_products_is_refused_with_the_reason():
    with pytest.raises(RyotError, match=r"no peak of float31 can be measured here: float31, XLA .*float31"):
        build(["float31"], seconds=0.0)


def test_products_are_cut_to_what_a_sample_has_time_for():
    assert workloads._cut((4096, 128, 512), 10**9) == (4096, 128, 512)
    rows, inner, columns = workloads._cut((10**6, 768, 50_257), 10**10)
    assert (inner, columns) == (768, 50_257) and 0.9 * 10**10 < 2 * rows * inner * columns <= 10**10
    assert workloads._cut((10**6, 10**5, 10**5), 10**9)[0] == 1
