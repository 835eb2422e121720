"""The norms' backward kernel for Hopper: interpreted against float64, and lowered for a GPU that is not here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from ryot_jax.kernels.gpu import pallas
from ryot_jax.kernels.ops.norm import _mosaic_backward as mosaic_norm
from ryot_jax.kernels.ops.norm._mosaic_backward import norm_backward

# Of the largest number: some ten roundings of float32 (6e-8 each).
TOLERANCE = 6e-7
ROUNDING = {"float32": 2.0**-23, "bfloat16": 2.0**-8, "float16": 2.0**-11}  # of dx, relative
H100 = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu"))


def operands(n, d, *, centre=True, with_ds=True, dtypes=("float32",) * 4):
    rng = np.random.default_rng(0)
    dy, s, ds = (jnp.asarray(rng.normal(0.5, 1, (n, d)), dtype) for dtype in dtypes[:3])
    s64 = np.asarray(s, np.float64)
    mean = s64.mean(-1, keepdims=True) * centre
    inverse = 1 / np.sqrt(((s64 - mean) ** 2).mean(-1, keepdims=True) + 1e-5)
    mean, inverse = (jnp.asarray(statistic, jnp.float32) for statistic in (mean, inverse))
    scale = jnp.asarray(rng.normal(size=d), dtypes[3])
    return dy, s, scale, mean if centre else None, inverse, ds if with_ds else None


def definition(*arrays):
    """The three gradients in float64."""
    dy, s, scale, mean, inverse, ds = (None if x is None else np.asarray(x, np.float64) for x in arrays)
    normal, dnormal = (s if mean is None else s - mean) * inverse, dy * scale
    dx = dnormal - normal * (dnormal * normal).mean(-1, keepdims=True)
    dx = (dx if mean is None else dx - dnormal.mean(-1, keepdims=True)) * inverse
    return dx if ds is None else dx + ds, (dy * normal).sum(0), dy.sum(0)


def interpreted(arrays, **parameters):
    """The outcome of the interpretation, which must find no races."""
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks

    with pallas.interpreted():
        outcome = jax.block_until_ready(norm_backward(*arrays, **parameters))
    assert not gpu_callbacks.get_races().races_found
    return outcome


def check(arrays, **parameters):
    outcome = interpreted(arrays, **parameters)
    assert [str(x.dtype) for x in outcome] == [str(arrays[1].dtype), "float32", "float32"]
    for x, expected, rounding in zip(outcome, definition(*arrays), (ROUNDING[str(arrays[1].dtype)], 0, 0), strict=True):
        assert x.shape == expected.shape
        error = np.abs(np.asarray(x, np.float64) - expected) - rounding * np.abs(expected)
        assert error.max() < TOLERANCE * np.abs(expected).max(), error.max()


@pytest.mark.parametrize("with_ds", [False, True])
@pytest.mark.parametrize("centre", [False, True])
def test_gradients_match_float64(centre, with_ds):
    check(operands(13, 128, centre=centre, with_ds=with_ds))


@pytest.mark.parametrize("n", [1, 70])
def test_any_number_of_rows_on_several_blocks_and_rounds_through_the_stages(monkeypatch, n):
    monkeypatch.setattr(pallas, "n_multiprocessors", lambda: 2)
    check(operands(n, 256), rows=4, stages=2, warpgroups=3)


@pytest.mark.parametrize("d", [1280, 2560])
def test_long_rows_are_shared_by_warps(d):
    check(operands(5, d))


@pytest.mark.parametrize(
    "dtypes",
    [("bfloat16", "bfloat16", "bfloat16", "float32"), ("float32", "float16", "bfloat16", "bfloat16")],
    ids=["bfloat16", "mixed"],
)
def test_each_operand_may_have_its_dtype(dtypes):
    check(operands(6, 128, dtypes=dtypes), rows=8)


def test_a_copy_that_is_not_awaited_is_found(monkeypatch):
    monkeypatch.setattr(mosaic_norm.plgpu, "barrier_wait", lambda barrier: None)
    # jax 0.12 raises itself, from within a callback.
    with pytest.raises(Exception, match=r"races_found|RACE DETECTED"):
        interpreted(operands(4, 128))


@pytest.mark.parametrize("d", [768, 1280, 4096])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_lowers_for_a_gpu_that_is_not_here(d, dtype):
    arrays = operands(64, d, dtypes=(dtype, dtype, dtype, "float32"))

    def backward(*arrays):
        with use_abstract_mesh(H100):
            return norm_backward(*arrays)

    text = jax.jit(backward).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == 1


def test_what_cannot_run_is_refused():
    arrays = operands(4, 128)
    with pytest.raises(NotImplementedError, match="runs on NVIDIA GPUs, not on cpu"):
        norm_backward(*arrays)
    with pallas.interpreted():
        for d in (0, 64, 1600, 2176, 4352, 8704):
            with pytest.raises(NotImplementedError, match=f"got D={d}"):
                norm_backward(*(jnp.zeros(shape) for shape in ((1, d), (1, d), (d,), (1, 1), (1, 1))))
        with pytest.raises(ValueError, match="a multiple of 4 for D=128; got 6"):
            norm_backward(*arrays, rows=6)
        with pytest.raises(ValueError, match="need fewer rows"):
            norm_backward(*arrays, rows=512)


@pytest.mark.parametrize("alone", [False, True])
def test_no_more_warpgroups_and_stages_than_the_memory_of_a_core_takes(alone):
    sizes = {"input_bytes": 18_432, "output_bytes": 12_288, "sums_bytes": 12_288, "alone": alone}
    assert mosaic_norm._fit(4, 2, **sizes) == ((3 if alone else 4), 2)
    assert mosaic_norm._fit(1, 3, **sizes) == (1, 3)
    large = {**sizes, "input_bytes": 150_000}
    assert mosaic_norm._fit(4, 3, **large) == (1, 1)
