"""A model small enough to compile in a second, in every kind that the config can name."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.model import ModelConfig, functional

KINDS = [
    pytest.param({"positions": positions, "norm": norm, "mlp": mlp}, id=f"{positions}-{norm}-{mlp}")
    for positions, norm, mlp in itertools.product(
        ("learned", "sinusoidal", "rotary"), ("layer", "rms"), ("gelu", "swiglu", "relu2")
    )
]


def pytest_generate_tests(metafunc):
    """A test that takes `kind` runs for all position, norm and MLP kinds."""
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", KINDS)


class Small:
    """Small models with weights far from their initial ones (biases and scales too), and batches for them."""

    @staticmethod
    def config(**overrides):
        sizes = {"vocab_size": 31, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 24, "max_len": 12}
        return ModelConfig(**(sizes | overrides))

    @staticmethod
    def build(cfg, seed=0):
        """Graph and weights; drawn by numpy, which needs no compilation."""
        rng = np.random.default_rng(seed)

        def draw(path, shape):
            centre = 1.0 if path[-1].key == "scale" else 0.0
            return jnp.asarray(centre + 0.3 * rng.normal(size=shape.shape), jnp.float32)

        shapes = jax.eval_shape(lambda: functional.init(cfg, 0)[1])
        return functional.graph(cfg), jax.tree_util.tree_map_with_path(draw, shapes)

    @staticmethod
    def batch(cfg, batch_size=3, length=None, seed=0):
        shape = (batch_size, (length or cfg.max_len) + 1)
        tokens_BT = np.random.default_rng(seed).integers(0, cfg.vocab_size, shape, dtype=np.int32)
        targets_BT = tokens_BT[:, 1:].copy()
        targets_BT[0, :3] = -1
        return {"inputs": tokens_BT[:, :-1], "targets": targets_BT}


@pytest.fixture
def small():
    return Small()
