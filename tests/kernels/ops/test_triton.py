"""The Triton kernels, interpreted, against their definitions in float64; and lowered for GPUs that are not here."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh
from scipy.special import softmax

from ryot_jax.kernels import layer_norm
from ryot_jax.kernels.gpu import pallas
from ryot_jax.kernels.ops.linear_cross_entropy._tiled import TILE_V
from ryot_jax.kernels.ops.linear_cross_entropy._triton_kernel import ProductBlocks, exponentials
from ryot_jax.kernels.ops.norm._limits import LARGEST_D
from ryot_jax.kernels.ops.norm._triton_kernels import NormBlocks, norm_backward, norm_forward

GPUS = {"NVIDIA L4": 58, "NVIDIA A100-SXM4-80GB": 108, "NVIDIA H100 80GB HBM3": 132}  # and their processors
ROUNDING = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}  # largest relative error of one
# Small ones, so that small arrays have several of them along each axis: five blocks of rows are two groups and a half.
PRODUCT_BLOCKS = ProductBlocks(rows=16, depth_bytes=64, group=2)
NORM_BLOCKS = NormBlocks(elements=128, programs=3)
# Blocks that fill the array, leave a tail along each axis in turn, along all, or are larger than the array.
PRODUCT_SIZES = [(32, 32, 256), (72, 32, 256), (32, 37, 256), (32, 32, 300), (71, 37, 299), (5, 3, 2), (1, 1, 1)]
NORM_SIZES = [(24, 64), (29, 64), (24, 50), (61, 33), (3, 130), (1, 1)]


def _random(*shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(shape).normal(size=shape), dtype)


def _float64(*arrays):
    return [np.asarray(array, np.float64) for array in arrays]


def _interpreted(function, *operands, **options):
    with pallas.interpreted():
        return function(*operands, **options)


def _logits(x_CD, w_VD, soft_cap):
    x_CD, w_VD = _float64(x_CD, w_VD)
    logits_CV = x_CD @ w_VD.T
    return logits_CV if soft_cap is None else soft_cap * np.tanh(logits_CV / soft_cap)


def _tiles(x_CD, w_VD, soft_cap):
    """(exponentials_CV, top_nC, sum_nC) in float64."""
    logits_CV = _logits(x_CD, w_VD, soft_cap)
    (c, v), n = logits_CV.shape, -(-len(w_VD) // TILE_V)
    logits_CnT = np.pad(logits_CV, ((0, 0), (0, n * TILE_V - v)), constant_values=-np.inf).reshape(c, n, TILE_V)
    top_Cn = logits_CnT.max(axis=-1)
    exponentials_CnT = np.exp(logits_CnT - top_Cn[..., None])
    slope_CV = 1 if soft_cap is None else 1 - (logits_CV / soft_cap) ** 2
    return exponentials_CnT.reshape(c, -1)[:, :v] * slope_CV, top_Cn.T, exponentials_CnT.sum(axis=-1).T


@pytest.mark.parametrize("soft_cap", [None, 3.0])
@pytest.mark.parametrize(("c", "d", "v"), PRODUCT_SIZES)
def test_exponentials_match_float64(c, d, v, soft_cap):
    operands = _random(c, d), _random(v, d)
    tiles = _interpreted(exponentials, *operands, soft_cap=soft_cap, blocks=PRODUCT_BLOCKS)
    exponentials_CV, top_nC, sum_nC = _tiles(*operands, soft_cap)
    # Products of up to 37 terms with a sum of absolute values of up to 60: 1e-5 at worst, and some 1e-6 in fact.
    np.testing.assert_allclose(tiles.top_nC, top_nC, rtol=0, atol=5e-6)
    np.testing.assert_allclose(tiles.sum_nC, sum_nC, rtol=5e-6)
    np.testing.assert_allclose(tiles.exponentials_CV, exponentials_CV, rtol=2e-5, atol=2e-6)
    assert tiles.top_nC.dtype == tiles.sum_nC.dtype == tiles.exponentials_CV.dtype == jnp.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_rounds_only_what_is_written(dtype):
    operands = _random(21, 40, dtype=dtype), _random(150, 40, dtype=dtype)
    tiles = _interpreted(exponentials, *operands, soft_cap=5.0)
    exponentials_CV, top_nC, sum_nC = _tiles(*operands, 5.0)
    np.testing.assert_allclose(tiles.top_nC, top_nC, rtol=0, atol=5e-6)
    np.testing.assert_allclose(tiles.sum_nC, sum_nC, rtol=5e-6)
    # One rounding; numbers of float16 below 6e-5 are 6e-8 apart.
    written_CV = np.asarray(tiles.exponentials_CV, np.float64)
    np.testing.assert_allclose(written_CV, exponentials_CV, rtol=ROUNDING[dtype] + 2e-5, atol=4e-8)
    assert tiles.top_nC.dtype == tiles.sum_nC.dtype == jnp.float32
    assert tiles.exponentials_CV.dtype == dtype


def test_the_default_blocks_give_the_same():
    operands = _random(130, 70), _random(140, 70)
    default = _interpreted(exponentials, *operands)
    small = _interpreted(exponentials, *operands, blocks=PRODUCT_BLOCKS)
    # Sums of 70 products in another order: logits near 30 are 2e-6 apart.
    chex.assert_trees_all_close(default, small, rtol=3e-5, atol=1e-5)


def test_without_writing_there_are_maximum_and_sum_alone():
    operands = _random(20, 40), _random(150, 40)
    written, unwritten = (_interpreted(exponentials, *operands, soft_cap=4.0, write=write) for write in (True, False))
    assert unwritten.exponentials_CV is None
    # XLA compiles the two interpretations apart, and may add up in another order.
    chex.assert_trees_all_close(unwritten[1:], written[1:], rtol=5e-6)


def test_tiles_of_large_logits_make_the_softmax():
    operands = 20 * _random(9, 16), _random(300, 16)
    tiles = _interpreted(exponentials, *operands)
    (logits_CV,) = _float64(_logits(*operands, None))
    assert logits_CV.max() > 100  # exp() of which overflows in float32
    z_1C = jax.nn.logsumexp(tiles.top_nC, b=tiles.sum_nC, axis=0, keepdims=True)
    factor_CV = jnp.repeat(jnp.exp(tiles.top_nC - z_1C).T, TILE_V, axis=1)[:, :300]
    # Logits of some 300 are 3e-5 apart.
    np.testing.assert_allclose(tiles.exponentials_CV * factor_CV, softmax(logits_CV, axis=1), atol=2e-4)


def test_products_of_float32_do_not_use_tf32():
    def precision_is_highest(dtype):
        operands = _random(16, 16, dtype=dtype), _random(128, 16, dtype=dtype)
        return "HIGHEST" in str(_interpreted(jax.make_jaxpr(lambda x, w: exponentials(x, w)[1]), *operands))

    assert precision_is_highest("float32")
    assert not precision_is_highest("bfloat16")


def test_products_that_do_not_fit_are_refused():
    x, w = _random(4, 8), _random(5, 8)
    for operands in ((x, w[:, :7]), (x[0], w), (x[:0], w), (x, w[:0])):
        with pytest.raises(ValueError, match="need x"):
            _interpreted(exponentials, *operands)
    for operands in ((x, w.astype("bfloat16")), (x.astype("int32"), w.astype("int32"))):
        with pytest.raises(TypeError, match="one dtype of"):
            _interpreted(exponentials, *operands)
    with pytest.raises(ValueError, match="soft_cap > 0"):
        _interpreted(exponentials, x, w, soft_cap=0.0)


def _norm_operands(n, d, *, centre, with_ds, dtypes=("float32", "float32", "float32")):
    """dy, s, scale, mean, inverse and ds as `norm_backward` takes them."""
    dy_ND, s_ND, ds_ND = (
        (_random(n, d, i)[..., i - 1] + 0.5).astype(dtype) for i, dtype in zip((1, 2, 3), dtypes, strict=True)
    )
    (s64_ND,) = _float64(s_ND)
    mean_N1 = s64_ND.mean(axis=1, keepdims=True) if centre else np.zeros((n, 1))
    inverse_N1 = 1 / np.sqrt(((s64_ND - mean_N1) ** 2).mean(axis=1, keepdims=True) + 0.1)
    mean_N1, inverse_N1 = jnp.asarray(mean_N1, jnp.float32), jnp.asarray(inverse_N1, jnp.float32)
    return dy_ND, s_ND, _random(d), mean_N1 if centre else None, inverse_N1, ds_ND if with_ds else None


def _norm_gradients(dy_ND, s_ND, scale_D, mean_N1, inverse_N1, ds_ND):
    """(dx_ND, dscale_D, dbias_D) in float64."""
    dy_ND, s_ND, scale_D, inverse_N1 = _float64(dy_ND, s_ND, scale_D, inverse_N1)
    normal_ND = (s_ND if mean_N1 is None else s_ND - np.asarray(mean_N1, np.float64)) * inverse_N1
    dnormal_ND = dy_ND * scale_D
    dx_ND = dnormal_ND - normal_ND * (dnormal_ND * normal_ND).mean(axis=1, keepdims=True)
    if mean_N1 is not None:
        dx_ND -= dnormal_ND.mean(axis=1, keepdims=True)
    dx_ND *= inverse_N1
    if ds_ND is not None:
        dx_ND += np.asarray(ds_ND, np.float64)
    return dx_ND, (dy_ND * normal_ND).sum(axis=0), dy_ND.sum(axis=0)


@pytest.mark.parametrize("with_ds", [False, True])
@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize(("n", "d"), NORM_SIZES)
def test_norm_gradients_match_float64(n, d, centre, with_ds):
    operands = _norm_operands(n, d, centre=centre, with_ds=with_ds)
    gradients = _interpreted(norm_backward, *operands, blocks=NORM_BLOCKS)
    for gradient, expected in zip(gradients, _norm_gradients(*operands), strict=True):
        # About ten roundings of numbers below 20, and sums of up to 61 of them.
        np.testing.assert_allclose(gradient, expected, rtol=2e-6, atol=1e-5)
        assert gradient.dtype == jnp.float32


@pytest.mark.parametrize("dtypes", [("bfloat16", "float32", "float32"), ("float32", "bfloat16", "float16")])
def test_norm_rounds_only_what_is_written(dtypes):
    operands = _norm_operands(13, 40, centre=True, with_ds=True, dtypes=dtypes)
    dx_ND, *vectors = _interpreted(norm_backward, *operands)
    expected_ND, *expected_vectors = _norm_gradients(*operands)
    assert dx_ND.dtype == dtypes[1]
    np.testing.assert_allclose(_float64(dx_ND)[0], expected_ND, rtol=ROUNDING[dtypes[1]] + 2e-6, atol=1e-5)
    for vector_D, expected_D in zip(vectors, expected_vectors, strict=True):
        np.testing.assert_allclose(vector_D, expected_D, rtol=2e-6, atol=1e-5)  # of float32, whatever the arrays are
        assert vector_D.dtype == jnp.float32


def test_norms_that_do_not_fit_are_refused():
    dy, s, scale, mean, inverse, ds = operands = _norm_operands(4, 8, centre=True, with_ds=True)
    for i, wrong in enumerate((dy[:, :7], s[:3], scale[:7], mean[:, 0], inverse[:3], ds[:, :7])):
        with pytest.raises(ValueError, match="need dy"):
            _interpreted(norm_backward, *operands[:i], wrong, *operands[i + 1 :])
    with pytest.raises(TypeError, match="need arrays of"):
        _interpreted(norm_backward, dy.astype("int32"), s, scale, mean, inverse, ds)
    wide = _norm_operands(1, LARGEST_D + 1, centre=False, with_ds=False)
    with pytest.raises(NotImplementedError, match=f"got D = {LARGEST_D + 1}"):
        _interpreted(norm_backward, *wide)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_without_a_gpu_they_are_refused():
    with pytest.raises(NotImplementedError, match="runs on NVIDIA GPUs"):
        exponentials(_random(4, 8), _random(5, 8))
    with pytest.raises(NotImplementedError, match="runs on NVIDIA GPUs"):
        norm_backward(*_norm_operands(4, 8, centre=True, with_ds=True))


def _lowered(gpu, function, *operands):
    mesh = AbstractMesh((), (), abstract_device=AbstractDevice(device_kind=gpu, num_cores=GPUS[gpu], platform="gpu"))
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.jit(function).trace(*operands).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("gpu", GPUS)
def test_exponentials_lower_for_a_gpu(gpu, dtype):
    for c, d, v in ((8192, 768, 50304), (70, 37, 299), (1, 1, 1)):  # Triton takes powers of two alone
        operands = jax.ShapeDtypeStruct((c, d), dtype), jax.ShapeDtypeStruct((v, d), dtype)
        text = _lowered(gpu, lambda x, w: exponentials(x, w, soft_cap=5.0, blocks=ProductBlocks(warps=2)), *operands)
        assert text.count("__gpu$xla.gpu.triton") == 1
        assert "num_warps = 2 " in text


@pytest.mark.parametrize("gpu", GPUS)
def test_the_norm_lowers_for_a_gpu(gpu):
    for n, d in ((32768, 768), (29, 33), (1, 1), (3, LARGEST_D)):
        rows, row = jax.ShapeDtypeStruct((n, d), jnp.bfloat16), jax.ShapeDtypeStruct((n, 1), jnp.float32)
        scale = jax.ShapeDtypeStruct((d,), jnp.float32)
        for operands in ((rows, rows, scale, row, row, rows), (rows, rows, scale, None, row, None)):
            assert _lowered(gpu, norm_backward, *operands).count("__gpu$xla.gpu.triton") == 1


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("centre", [False, True])
def test_the_forward_norm_lowers_for_a_gpu(gpu, centre):
    for n, d in ((32768, 768), (29, 33), (1, 1), (3, LARGEST_D)):
        rows, vector = jax.ShapeDtypeStruct((n, d), jnp.bfloat16), jax.ShapeDtypeStruct((d,), jnp.float32)
        for operands in ((rows, None, vector, None), (rows, rows, vector, vector)):

            def norm(*arrays):
                return norm_forward(*arrays, centre=centre, epsilon=1e-5, dtype=jnp.dtype("bfloat16"))

            assert _lowered(gpu, norm, *operands).count("__gpu$xla.gpu.triton") == 1


@pytest.mark.parametrize("name", ["vmap", "remat"])
def test_gradients_lower_under_vmap_and_remat(name):
    def of_norm(x, scale):
        return jnp.sum(layer_norm(x, scale, implementation="triton").astype(jnp.float32))

    transformed = jax.vmap(jax.grad(of_norm), (0, None)) if name == "vmap" else jax.grad(jax.checkpoint(of_norm))
    leading = (4, 16) if name == "vmap" else (16,)
    operands = jax.ShapeDtypeStruct((*leading, 96), jnp.bfloat16), jax.ShapeDtypeStruct((96,), jnp.float32)
    assert "__gpu$xla.gpu.triton" in _lowered("NVIDIA H100 80GB HBM3", transformed, *operands)
