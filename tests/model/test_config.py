"""A model's config resolves its dtype for the device and refuses what cannot be built."""

import pytest

from ryot_jax.config import get_default
from ryot_jax.model import ModelConfig
from ryot_jax.model.config import from_config
from ryot_jax.runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("platform", "capability", "expected"),
    [
        ("cpu", None, "float32"),
        ("gpu", "7.5", "float32"),
        ("gpu", "8.0", "bfloat16"),
        ("gpu", "10.0", "bfloat16"),
        ("gpu", "gfx942", "bfloat16"),
        ("tpu", None, "bfloat16"),
    ],
)
def test_auto_dtype_is_what_the_device_multiplies_fastest(platform, capability, expected):
    assert from_config(get_default().model, platform, capability).compute_dtype == expected


def test_a_named_dtype_is_kept():
    assert from_config({**get_default().model, "compute_dtype": "bfloat16"}, "cpu").compute_dtype == "bfloat16"


def test_the_default_config_is_the_default_model():
    assert from_config(get_default().model, "cpu") == ModelConfig()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"n_heads": 3}, "model.n_heads = 3"),
        ({"n_heads": 128, "positions": "rotary"}, "model.positions = 'rotary'"),
        ({"d_model": 9, "n_heads": 3, "positions": "sinusoidal"}, "model.d_model = 9"),
        ({"n_layers": 0}, "model.n_layers = 0"),
        ({"dropout": 1.0}, "model.dropout = 1.0"),
        ({"norm": "batch"}, "model.norm = 'batch'"),
        ({"compute_dtype": "auto"}, "model.compute_dtype = 'auto'"),
    ],
)
def test_what_cannot_be_built_is_named(overrides, named):
    with pytest.raises(ConfigError, match=named):
        ModelConfig(**overrides)


def test_remat_without_scan_is_refused_where_it_saves_nothing():
    model = {**get_default().model, "remat": True}
    with pytest.raises(ConfigError, match="scan_layers"):
        from_config(model, "cpu")
    assert from_config(model | {"scan_layers": True}, "cpu").remat
    assert from_config(model, "tpu").remat
