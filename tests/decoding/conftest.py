"""A small model with weights far from their initial ones, so that what it generates varies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.model import ModelConfig, functional


@pytest.fixture
def make_model():
    """`make_model(**overrides) -> (graphdef, params, cfg)`."""

    def make(**overrides):
        sizes = {
            "vocab_size": 31,
            "d_model": 16,
            "n_layers": 2,
            "n_heads": 2,
            "d_ff": 24,
            "max_len": 16,
            "tie_embeddings": False,
        }
        cfg = ModelConfig(**(sizes | overrides))
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(lambda: functional.init(cfg, 0)[1])
        # Large biases would make one token the most likely everywhere.
        sizes = jax.tree_util.tree_map_with_path(lambda path, _: 0.1 if path[-1].key == "bias" else 1.0, shapes)
        params = jax.tree.map(lambda s, size: jnp.asarray(size * rng.normal(size=s.shape), jnp.float32), shapes, sizes)
        return functional.graph(cfg), params, cfg

    return make
