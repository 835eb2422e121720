"""Linear + cross-entropy from exponentials in tiles: Triton's and Mosaic's, interpreted, against float64.

Run as a script, it interprets Mosaic's cases and prints what came out: its warpgroups block threads of XLA's, which has
as many as cores unless NPROC says otherwise before JAX starts.
"""

import json
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from ryot_jax.kernels import linear_cross_entropy
from ryot_jax.kernels.gpu import pallas
from ryot_jax.kernels.ops.linear_cross_entropy import _tiled as tiled_cross_entropy
from ryot_jax.kernels.ops.linear_cross_entropy._mosaic_kernel import Blocks, exponentials

# N, D, V: tails of every block and tile; rows of two chunks, as the tests make them.
SIZES = [(1, 8, 2), (37, 70, 129), (300, 16, 300)]
TERMS = [{}, {"label_smoothing": 0.1}, {"z_loss": 1e-2, "label_smoothing": 0.2}, {"soft_cap": 3.0, "z_loss": 1e-2}]
# Sums of up to 300 float32 products and exponentials, as in test_linear_cross_entropy.
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(tiled_cross_entropy, "CHUNK_BYTES", 1)


def _operands(sizes, dtype="float32"):
    n, d, v = sizes
    rng = np.random.default_rng(0)
    x_ND, w_VD = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16).astype(dtype) for shape in ((n, d), (v, d)))
    targets_N = np.where(rng.random(n) < 0.2, -1, rng.integers(0, v, n))
    return x_ND, 0.5 * w_VD.astype(jnp.float32), jnp.asarray(targets_N, jnp.int32)


def _losses(implementation, reduction="none", **terms):
    def run(x_ND, w_VD, targets_N):
        outcome = linear_cross_entropy(
            x_ND, w_VD, targets_N, reduction=reduction, implementation=implementation, **terms
        )
        return outcome if reduction == "none" else outcome[0]

    return run


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("sizes", SIZES)
def test_losses_and_gradients_match_float64(errors_against_float64, reduction, sizes):
    with pallas.interpreted():
        errors = errors_against_float64(
            _losses("triton", reduction), _losses("reference", reduction), *_operands(sizes)
        )
    assert max(errors) < TOLERANCE, errors


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("terms", TERMS[1:], ids=str)
def test_the_other_terms_match_float64(errors_against_float64, reduction, terms):
    ops = (_losses(name, reduction, **terms) for name in ("triton", "reference"))
    with pallas.interpreted():
        errors = errors_against_float64(*ops, *_operands((49, 17, 140)))
    assert max(errors) < TOLERANCE, errors


@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_bfloat16_is_no_worse_than_the_reference(assert_no_worse_in_bfloat16, terms):
    ops = (_losses(name, **terms) for name in ("triton", "reference", "reference"))
    with pallas.interpreted():
        assert_no_worse_in_bfloat16(*ops, *_operands((131, 33, 200), "bfloat16"))


def test_large_logits_keep_their_probabilities_in_bfloat16():
    """Rounded to bfloat16 themselves, logits of some 60 would put probabilities off by up to 13 %."""
    x_ND, w_VD, targets_N = _operands((20, 64, 200), "bfloat16")
    x_ND, targets_N = 4 * x_ND, jnp.abs(targets_N)

    def gradient(implementation, dtype):
        run = lambda x: jnp.sum(_losses(implementation)(x, w_VD.astype(dtype), targets_N))  # noqa: E731
        return np.asarray(jax.grad(run)(x_ND.astype(dtype)).astype(jnp.float32))

    assert float(jnp.abs(x_ND.astype(jnp.float32) @ w_VD.T).max()) > 40
    with pallas.interpreted():
        found = gradient("triton", "bfloat16")
    true = gradient("reference", "float32")
    assert np.linalg.norm(found - true) < 2 * 2.0**-8 * np.linalg.norm(true)  # two roundings of bfloat16


def test_ignored_rows_add_nothing_and_targets_beyond_the_vocabulary_spoil_theirs():
    x_ND, w_VD, targets_N = _operands((40, 8, 30))
    with pallas.interpreted():
        nothing = jax.grad(lambda x: jnp.sum(_losses("triton")(x, w_VD, jnp.full(40, -1))))(x_ND)
        losses_N = _losses("triton")(x_ND, w_VD, targets_N.at[3].set(30))
    chex.assert_trees_all_equal(nothing, jnp.zeros_like(x_ND))
    assert np.isnan(losses_N[3]) and np.isfinite(np.delete(losses_N, 3)).all()


def test_no_rows_give_no_gradients():
    x_ND, w_VD, targets_N = _operands((0, 8, 30), "bfloat16")
    with pallas.interpreted():
        gradients = jax.grad(lambda *a: _losses("triton", "sum")(*a, targets_N), argnums=(0, 1))(x_ND, w_VD)
    chex.assert_trees_all_equal(gradients, (jnp.zeros_like(x_ND), jnp.zeros_like(w_VD)))


def test_a_target_beyond_the_vocabulary_spoils_no_other_row_s_gradient_with_a_soft_cap():
    x_ND, w_VD, targets_N = _operands((40, 8, 30))
    with pallas.interpreted():
        run = lambda x: jnp.sum(_losses("triton", soft_cap=3.0)(x, w_VD, targets_N.at[3].set(30))[4:])  # noqa: E731
        dx_ND = jax.grad(run)(x_ND)
    assert np.isfinite(np.delete(dx_ND, 3, axis=0)).all() and np.any(dx_ND[4:])


def test_under_a_mesh_of_cpus_it_is_refused_by_name_not_by_the_compiler():
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    operands = _operands((4, 8, 30), "bfloat16")
    spec = jax.sharding.PartitionSpec()
    losses = jax.shard_map(_losses("triton"), mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)
    with pytest.raises(NotImplementedError, match="runs on NVIDIA GPUs, not on cpu"):
        jax.jit(losses)(*operands)


def test_what_it_cannot_take_is_refused():
    operands = _operands((4, 8, 30))
    with pallas.interpreted(), pytest.raises(NotImplementedError, match="soft cap or label smoothing, not both"):
        _losses("triton", soft_cap=2.0, label_smoothing=0.1)(*operands)
    with pallas.interpreted(), pytest.raises(TypeError, match="bfloat16 or float16"):
        _losses("mosaic")(*operands)
    for backend in ("mosaic", "triton") if jax.default_backend() == "cpu" else ():
        with pytest.raises(NotImplementedError, match=f"implementation='{backend}' runs on NVIDIA GPUs, not on cpu"):
            _losses(backend)(*_operands((4, 8, 30), "bfloat16"))


@pytest.mark.parametrize(
    ("rows", "vocab_size", "chunk"),
    [
        (32_768, 50_304, 4_096),  # 8 chunks, where 5 of at most 7,936 rows would not divide the rows
        (32_768, 128_256, 2_048),
        (33_000, 50_304, 6_656),  # which nothing divides
        (4_096, 2_048, 4_096),  # all at once
        (100, 50_304, 100),
        (1_000, 10**9, 256),  # one block of the kernels is the least
    ],
)
def test_chunks_are_alike_and_as_large_as_memory_is_given(monkeypatch, rows, vocab_size, chunk):
    monkeypatch.undo()
    assert tiled_cross_entropy.rows_at_a_time(rows, vocab_size, 2) == chunk


@pytest.mark.parametrize(
    ("implementation", "kind", "cores", "target"),
    [
        ("mosaic", "NVIDIA H100 80GB HBM3", 132, "mosaic_gpu"),
        ("triton", "NVIDIA L4", 58, "__gpu$xla.gpu.triton"),
        ("triton", "NVIDIA A100-SXM4-80GB", 108, "__gpu$xla.gpu.triton"),
        ("triton", "NVIDIA H100 80GB HBM3", 132, "__gpu$xla.gpu.triton"),
    ],
)
def test_it_lowers_for_gpus_that_are_not_here(implementation, kind, cores, target):
    device = AbstractDevice(device_kind=kind, num_cores=cores, platform="gpu")
    gradient = jax.grad(lambda *a: _losses(implementation, "sum")(*a), argnums=(0, 1))
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        traced = jax.jit(gradient).trace(*_operands((600, 70, 333), "bfloat16"))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count(f"stablehlo.custom_call @{target}") == 1


@pytest.fixture(scope="module")
def interpreted(run_python):
    script = f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"
    environment = {"NPROC": "8", "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return json.loads(run_python(script, environment=environment).stdout.splitlines()[-1])


@pytest.mark.parametrize("case", [*map(str, TERMS), "narrow"])
def test_mosaic_is_no_worse_than_the_reference_and_does_not_race(interpreted, case):
    case = interpreted[case]
    for error, other in zip(case["errors"], case["errors of reference"], strict=True):
        assert error <= 2 * other + 2.0**-9, case
    assert not case["races"]


def test_mosaic_s_blocks_take_more_than_one_turn(interpreted):
    assert interpreted["turns"]["error"] < 2.0**-8 and not interpreted["turns"]["races"]


def _interpret_all():
    from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call as interpreter

    def races():
        found = interpreter.get_races().races_found
        interpreter.reset_gpu_interpret_mode_state()
        return found

    tiled_cross_entropy.CHUNK_BYTES = 1
    results = {}
    cases = {str(terms): ((300, 70, 200), terms) for terms in TERMS} | {"narrow": ((20, 40, 130), {})}
    for case, (sizes, terms) in cases.items():
        operands = _operands(sizes, "bfloat16")

        def gradients(implementation, dtype, operands=operands, terms=terms):
            run = lambda x, w: 3 * _losses(implementation, "sum", **terms)(x, w, operands[2])  # noqa: E731
            outcome = jax.jit(jax.value_and_grad(run, argnums=(0, 1)))(operands[0].astype(dtype), operands[1])
            return [np.asarray(leaf.astype(jnp.float32), np.float64) for leaf in jax.tree.leaves(outcome)]

        exact = gradients("reference", "float32")  # an error of float32 is nothing beside one of bfloat16
        with pallas.interpreted():
            found = gradients("mosaic", "bfloat16")
        errors = [
            [float(np.linalg.norm(a - e) / np.linalg.norm(e)) for a, e in zip(arm, exact, strict=True)]
            for arm in (found, gradients("reference", "bfloat16"))
        ]
        results[case] = {"errors": errors[0], "errors of reference": errors[1], "races": races()}
    x_ND, w_VD, _ = _operands((300, 70, 200), "bfloat16")
    with pallas.interpreted():
        tiles = exponentials(x_ND, w_VD.astype(x_ND.dtype), blocks=Blocks(rows=64, steps=2, cluster=1))
    logits_NV = np.asarray(x_ND, np.float64) @ np.asarray(w_VD, np.float64).T
    exact = np.exp(logits_NV - np.asarray(tiles.top_nC, np.float64).T[:, np.arange(200) // tiled_cross_entropy.TILE_V])
    error = np.abs(np.asarray(tiles.exponentials_CV, np.float64) - exact).max()
    return results | {"turns": {"error": float(error), "races": races()}}


if __name__ == "__main__":
    json.dump(_interpret_all(), sys.stdout)
