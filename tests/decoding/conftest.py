"""A small model with weights far from their initial ones, so that what it generates varies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.decoding import prepare
from ryot_jax.kernels import cpu
from ryot_jax.model import ModelConfig, functional
from ryot_jax.optimizations import KernelPlan

_MISSING = {
    "float32": cpu.unavailable_reason(),
    "bfloat16": None if cpu.multiplies_bfloat16() else "for bfloat16 the kernels here multiply float32, as for float32",
}
ENGINES = [
    ("reference", "float32"),
    *(
        pytest.param(("cpu", dtype), marks=pytest.mark.skipif(reason is not None, reason=str(reason)))
        for dtype, reason in _MISSING.items()
    ),
]
KERNELS = ENGINES[1:]


class Model:
    """A model's config and weights, and decoders of it."""

    def __init__(self, **overrides):
        sizes = {
            "vocab_size": 31,
            "d_model": 16,
            "n_layers": 2,
            "n_heads": 2,
            "d_ff": 24,
            "max_len": 16,
            "tie_embeddings": False,
        }
        self.cfg = ModelConfig(**(sizes | overrides))
        rng = np.random.default_rng(1)
        shapes = jax.eval_shape(lambda: functional.init(self.cfg, 0)[1])

        def draw(path, shape):
            # Scales around 1 and small outputs of layers: else one token would be the most likely everywhere.
            size = {"scale": 0.3, "bias": 0.1, "kernel": 0.2}.get(path[-1].key, 1.0)
            centre = 1.0 if path[-1].key == "scale" else 0.0
            return jnp.asarray(centre + size * rng.normal(size=shape.shape), jnp.float32)

        self.params = jax.tree_util.tree_map_with_path(draw, shapes)

    def decoder(self, engine=("reference", "float32")):
        return prepare(self.params, self.cfg, engine=engine[0], dtype=engine[1])

    def logits(self, ids_BT):
        """Of the full forward pass, which is what decoding is defined by."""
        graphdef = functional.graph(self.cfg)
        x_BTD = functional.hidden(graphdef, self.params, jnp.asarray(ids_BT, jnp.int32), plan=KernelPlan())
        return x_BTD @ functional.unembedding(graphdef, self.params).T


@pytest.fixture
def make_model():
    """`make_model(**overrides) -> Model`."""
    return Model


def pytest_generate_tests(metafunc):
    """A test that takes `engine` runs for all of them, one that takes `kernel` for those in C++."""
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", ENGINES, ids="-".join)
    if "kernel" in metafunc.fixturenames:
        metafunc.parametrize("kernel", KERNELS, ids="-".join)
