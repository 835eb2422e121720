"""Flash attention for Hopper: interpreted against float64, with detection of races, and lowered for a GPU.

Run as a script, it interprets all cases and prints what came out: the interpreter's warpgroups block threads of XLA's,
which has as many as cores unless NPROC says otherwise before JAX starts.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from ryot_jax.kernels import attention, packed_attention
from ryot_jax.kernels.gpu import pallas
from ryot_jax.kernels.ops.attention._mosaic_attention import flash_attention, packed_flash_attention
from ryot_jax.kernels.ops.attention._mosaic_blocks import BLOCKS, Blocks

ROUNDING = {"bfloat16": 2.0**-9, "float16": 2.0**-12}  # largest relative error of one
SMALL = Blocks(keys=64, stages=2, dq_keys=64, dq_stages=2, dkv_queries=64, dkv_stages=2)
# (B, T, S, H, G, K), causal, dtype, blocks. Several tiles of 128 rows, several blocks in each; lengths with a tail.
CASES = {
    "causal, grouped": ((1, 200, 200, 2, 1, 64), True, "bfloat16", SMALL),
    "not causal": ((1, 70, 140, 1, 1, 64), False, "float16", SMALL),
    "not causal, whole blocks": ((2, 128, 64, 1, 1, 64), False, "bfloat16", SMALL),
    "wide, default blocks": ((1, 120, 120, 1, 1, 128), True, "bfloat16", BLOCKS[128]),
}


@pytest.fixture(scope="module")
def interpreted(run_python):
    script = f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"
    # Each warpgroup of each block is compiled: with fewer optimizations in half the time.
    environment = {"NPROC": "8", "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return json.loads(run_python(script, environment=environment).stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_outcome_and_gradients_are_no_worse_than_the_reference(interpreted, case):
    errors, allowed = interpreted[case]["errors"], interpreted[case]["errors of reference"]
    # As the flash-attention tests have it: twice the error of the reference in the same dtype; and one rounding.
    for error, other in zip(errors, allowed, strict=True):
        assert error <= 2 * other + ROUNDING[CASES[case][2]], (errors, allowed)


@pytest.mark.parametrize("case", CASES)
def test_warpgroups_do_not_race(interpreted, case):
    assert not interpreted[case]["races"]


def test_packed_heads_give_what_separate_ones_do(interpreted):
    assert (
        interpreted["causal, grouped"]["packed is equal"] == [True] * 4
    )  # o, dq, dk, dv: the same sums in the same order


def test_the_detector_finds_a_race(interpreted):
    assert interpreted["a racy kernel"]["races"]


def _shapes(T=128, S=128, H=2, G=2, K=64, dtype="bfloat16"):
    return jax.ShapeDtypeStruct((1, T, H, K), dtype), *(jax.ShapeDtypeStruct((1, S, G, K), dtype) for _ in range(2))


@pytest.mark.parametrize(
    ("options", "causal", "error", "named"),
    [
        ({"K": 96}, True, NotImplementedError, "96"),
        ({"dtype": "float32"}, True, TypeError, "float32"),
        ({"S": 64}, True, ValueError, "64"),
        ({"H": 3, "G": 2}, False, ValueError, "3"),
    ],
)
def test_what_it_cannot_take_is_named(options, causal, error, named):
    with pallas.interpreted(), pytest.raises(error, match=named):
        jax.eval_shape(lambda q, k, v: flash_attention(q, k, v, causal=causal), *_shapes(**options))


@pytest.mark.parametrize(
    ("options", "n_heads", "error", "named"),
    [
        ({"K": 96}, 1, NotImplementedError, "96"),
        ({"dtype": "float32"}, 1, TypeError, "float32"),
        ({"H": 5}, 2, ValueError, "H = 2"),
        ({"H": 7}, 3, ValueError, "H = 3"),
        ({"H": 3}, 3, ValueError, "H = 3"),
        ({"H": 2}, 0, ValueError, "H = 0"),
    ],
)
def test_what_it_cannot_take_packed_is_named(options, n_heads, error, named):
    qkv, _, _ = _shapes(**{"H": 3} | options)
    with pallas.interpreted(), pytest.raises(error, match=named):
        jax.eval_shape(lambda qkv: packed_flash_attention(qkv, n_heads, causal=True), qkv)


@pytest.mark.parametrize("options", [{"window": 4}, {"mask_BS": jnp.ones((1, 128), bool)}])
def test_packed_attention_refuses_windows_and_masks(options):
    qkv, _, _ = _shapes(H=3)
    with pallas.interpreted(), pytest.raises(NotImplementedError, match="window"):
        jax.eval_shape(lambda qkv: packed_attention(qkv, 1, implementation="mosaic", **options), qkv)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="a GPU is there")
def test_a_cpu_is_refused():
    with pytest.raises(NotImplementedError, match="GPU"):
        jax.eval_shape(lambda q, k, v: flash_attention(q, k, v, causal=True), *_shapes())


@pytest.mark.parametrize("K", BLOCKS)
@pytest.mark.parametrize("causal", [True, False])
def test_it_lowers_for_hopper_to_three_kernels(K, causal):
    def loss(q, k, v):
        return jnp.sum(flash_attention(q, k, v, causal=causal).astype(jnp.float32))

    text = _lowered(jax.grad(loss, argnums=(0, 1, 2)), *_shapes(T=300, S=300, H=4, K=K))
    assert text.count("stablehlo.custom_call @mosaic_gpu") == 3


def test_packed_heads_lower_to_three_kernels_and_no_copies():
    text = _lowered(jax.grad(_packed_loss), *_shapes(T=256, H=8)[:1])
    assert text.count("stablehlo.custom_call @mosaic_gpu") == 3
    assert not [copy for copy in ("slice", "concatenate") if f"stablehlo.{copy}" in text]
    # The last kernel's outcome is the array that it was given: that of the gradient of queries.
    assert text.count("stablehlo.output_operand_alias<output_tuple_indices = [], operand_index = 6") == 1


def test_packed_heads_can_be_batched():
    qkv = jax.ShapeDtypeStruct((3, 1, 256, 8, 64), "bfloat16")
    text = _lowered(jax.vmap(jax.grad(_packed_loss)), qkv)
    assert text.count("stablehlo.custom_call @mosaic_gpu") == 3


def _packed_loss(qkv):
    return jnp.sum(packed_attention(qkv, 4, n_kv_heads=2, implementation="mosaic").astype(jnp.float32))


def _lowered(fn, *shapes):
    """The program for an H100, as text."""
    device = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        return jax.jit(fn).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()


def _exact(q_BTHK, k_BSGK, v_BSGK, do_BTHK, causal):
    """o, dq, dk, dv in float64, by the formulas."""
    q, k, v, do = (np.asarray(array, np.float64) for array in (q_BTHK, k_BSGK, v_BSGK, do_BTHK))
    (B, T, H, K), (_, S, G, _) = q.shape, k.shape
    k, v = (np.repeat(array, H // G, axis=2) for array in (k, v))
    s_BHTS = np.einsum("bthk,bshk->bhts", q, k) * K**-0.5
    if causal:
        s_BHTS = np.where(np.tri(T, S, dtype=bool), s_BHTS, -np.inf)
    e_BHTS = np.exp(s_BHTS - s_BHTS.max(-1, keepdims=True))
    p_BHTS = e_BHTS / e_BHTS.sum(-1, keepdims=True)
    dp_BHTS = np.einsum("bthk,bshk->bhts", do, v)
    ds_BHTS = p_BHTS * (dp_BHTS - (p_BHTS * dp_BHTS).sum(-1, keepdims=True)) * K**-0.5
    dk, dv = np.einsum("bhts,bthk->bshk", ds_BHTS, q), np.einsum("bhts,bthk->bshk", p_BHTS, do)
    dk, dv = (array.reshape(B, S, G, H // G, K).sum(3) for array in (dk, dv))
    return np.einsum("bhts,bshk->bthk", p_BHTS, v), np.einsum("bhts,bshk->bthk", ds_BHTS, k), dk, dv


def _interpret_case(sizes, causal, dtype, blocks, races):
    B, T, S, H, G, K = sizes
    rng = np.random.default_rng(0)
    shapes = (B, T, H, K), (B, S, G, K), (B, S, G, K), (B, T, H, K)
    *operands, do = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    exact = _exact(*operands, do, causal)

    def outcomes(op):
        def run(q, k, v, do):
            o, vjp = jax.vjp(op, q, k, v)
            return o, *vjp(do)

        results = jax.jit(run)(*operands, do)
        assert [x.dtype for x in results] == [dtype] * 4 and [x.shape for x in results] == [x.shape for x in exact]
        return [np.asarray(x, np.float64) for x in results]

    def packed(q, k, v):
        qkv = jnp.concatenate([q, k, v], axis=2)
        return packed_flash_attention(qkv, H, causal=causal, blocks=blocks)

    def errors(results):
        return [float(np.linalg.norm(x - y) / np.linalg.norm(y)) for x, y in zip(results, exact, strict=True)]

    result = {}
    with pallas.interpreted():
        actual = outcomes(lambda q, k, v: flash_attention(q, k, v, causal=causal, blocks=blocks))
        if G < H:
            equal = [np.array_equal(x, y) for x, y in zip(outcomes(packed), actual, strict=True)]
            result["packed is equal"] = equal
    result["races"] = races()
    reference = outcomes(lambda q, k, v: attention(q, k, v, causal=causal))
    return result | {"errors": errors(actual), "errors of reference": errors(reference)}


def _interpret_racy_kernel(races):
    """Two warpgroups write to the same place, and nothing says which one is first."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    def racy(y_ref, smem):
        smem[...] = jnp.full((128,), 1.0) * jax.lax.axis_index("warpgroup").astype(jnp.float32)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(smem, y_ref)
        plgpu.wait_smem_to_gmem(0)

    with pallas.interpreted():
        kernel = plgpu.kernel(
            racy,
            out_type=jax.ShapeDtypeStruct((128,), jnp.float32),
            scratch_types=[plgpu.SMEM((128,), jnp.float32)],
            num_threads=2,
            thread_name="warpgroup",
            compiler_params=plgpu.CompilerParams(),
            interpret=pallas.mosaic_interpretation(),
        )
        try:
            jax.block_until_ready(jax.jit(kernel)())
        except Exception as error:  # of a callback's: jax 0.12 raises where it finds a race
            return {"races": "RACE DETECTED" in str(error)}
    return {"races": races()}


def _interpret_all():
    from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call as interpreter

    def races():
        """Whether any was found since the last call."""
        found = interpreter.get_races().races_found
        interpreter.reset_gpu_interpret_mode_state()
        return found

    results = {case: _interpret_case(*arguments, races) for case, arguments in CASES.items()}
    return results | {"a racy kernel": _interpret_racy_kernel(races)}


if __name__ == "__main__":
    json.dump(_interpret_all(), sys.stdout)
