"""Muon in batches takes the steps of optax's, and its states are those of optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from ryot_jax.training.muon import muon, orthogonalized

# Kernels of one shape, of its transpose, of another, and a stack of layers; what Adam takes.
SHAPES = {
    "a": {"kernel": (6, 16)},
    "b": {"kernel": (16, 6)},
    "c": {"kernel": (6, 6)},
    "d": {"kernel": (3, 6, 16)},
    "e": {"kernel": (5, 6), "bias": (6,)},
    "embedding": {"table": (11, 6)},
}


def is_kernel(params):
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def draw(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
    )


@pytest.mark.parametrize(
    ("flags", "tolerance"),
    [
        (frozenset(), 2e-5),  # float32 products on a CPU: five iterations that stretch what is small by 3.4 a time
        # bfloat16 operands, 2^-9 each: singular values near zero, which small matrices have, land elsewhere.
        (frozenset({"avx512_bf16"}), 0.25),
    ],
    ids=["float32", "bfloat16"],
)
def test_its_updates_are_those_of_optax(monkeypatch, flags, tolerance):
    monkeypatch.setattr("ryot_jax.training.muon.cpu_flags", lambda: flags)
    jax.clear_caches()
    axes = MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    theirs = optax.contrib.muon(
        1e-2,
        weight_decay=0.1,
        adam_b1=0.9,
        adam_b2=0.95,
        adam_weight_decay=0.0,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(lambda k: axes if k else None, is_kernel(params)),
    )
    ours = muon(lambda step: 1e-2, is_matrix=is_kernel, weight_decay=0.1, adam_b1=0.9, adam_b2=0.95)
    params = draw(0)
    states = [theirs.init(params), ours.init(params)]
    for step in range(3):
        grads = draw(step + 1)
        results = [
            jax.jit(optimizer.update)(grads, state, params)
            for optimizer, state in zip((theirs, ours), states, strict=True)
        ]
        (wanted, _), (found, _) = results
        states = [state for _, state in results]
        for name in ("a", "b", "c", "d", "e"):
            difference = np.asarray(wanted[name]["kernel"] - found[name]["kernel"])
            assert np.abs(difference).max() < tolerance * np.abs(wanted[name]["kernel"]).max()
        for name, leaf in (("e", "bias"), ("embedding", "table")):
            np.testing.assert_allclose(found[name][leaf], wanted[name][leaf], rtol=1e-5, atol=1e-7)
        assert np.abs(wanted["a"]["kernel"]).max() > 1e-3


def test_a_state_of_optax_is_one_of_ours():
    """So that a run of before can be gone on with."""
    theirs = optax.contrib.muon(lambda step: 1e-2, muon_weight_dimension_numbers=lambda params: jax.tree.map(
        lambda k: MuonDimensionNumbers(-2, -1) if k else None, is_kernel(params)))  # fmt: skip
    ours = muon(lambda step: 1e-2, is_matrix=is_kernel, weight_decay=0.1, adam_b1=0.9, adam_b2=0.95)
    shapes = [jax.eval_shape(optimizer.init, draw(0)) for optimizer in (theirs, ours)]
    first, second = (
        [(jax.tree_util.keystr(path), leaf.shape, leaf.dtype) for path, leaf in jax.tree_util.tree_leaves_with_path(s)]
        for s in shapes
    )
    assert first == second


def test_singular_values_come_to_about_one_whatever_the_batch():
    rng = np.random.default_rng(5)
    shapes = [(6, 16), (16, 6), (6, 6), (2, 3, 6, 16), (4, 1), (1, 1)]
    matrices = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    together = orthogonalized(matrices)
    for matrix, found in zip(matrices, together, strict=True):
        assert found.shape == matrix.shape
        (alone,) = orthogonalized([matrix])
        np.testing.assert_allclose(found, alone, atol=2e-2)
        singular = np.linalg.svd(np.asarray(found), compute_uv=False)
        assert singular.min() > 0.3 and singular.max() < 1.3
        # and with the singular vectors of the matrix: its polar factor, within what the values may be off
        u, _, vh = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
        assert np.abs(np.asarray(found) - u @ vh).max() < 0.7
