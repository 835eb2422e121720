"""What a model is: one frozen, hashable record of every choice that shapes the network.

Resolves `compute_dtype = 'auto'` for the device at hand. Reading config files and every check that needs
more than the model's own fields is left to `ryot_jax.config`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax.runtime.errors import ConfigError

_CHOICES = {
    "positions": ("learned", "sinusoidal", "rotary"),
    "norm": ("layer", "rms"),
    "mlp": ("gelu", "swiglu", "relu2"),
    "compute_dtype": ("float32", "bfloat16", "float16"),
}
_SIZES = ("vocab_size", "d_model", "n_layers", "n_heads", "d_ff", "max_len")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape and kind of a transformer; `compute_dtype` is a resolved dtype name, never 'auto'.

    Weights are float32 always; activations are `compute_dtype`, products accumulate in float32.
    `norm='layer'` models have biases in every projection (GPT-2), `norm='rms'` models have none (LLaMA).
    """

    vocab_size: int = 2048
    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    d_ff: int = 512
    max_len: int = 128
    positions: str = "learned"
    norm: str = "layer"
    mlp: str = "gelu"
    tie_embeddings: bool = True
    dropout: float = 0.0
    compute_dtype: str = "float32"
    scan_layers: bool = False
    remat: bool = False

    def __post_init__(self) -> None:
        for field in _SIZES:
            if getattr(self, field) < 1:
                raise ConfigError(f"model.{field} = {getattr(self, field)}: must be at least 1")
        for field, names in _CHOICES.items():
            if getattr(self, field) not in names:
                raise ConfigError(f"model.{field} = {getattr(self, field)!r}: choose one of {', '.join(names)}")
        if self.d_model % self.n_heads:
            raise ConfigError(f"model.n_heads = {self.n_heads}: must divide model.d_model = {self.d_model}")
        if self.positions == "rotary" and self.head_dim % 2:
            raise ConfigError(
                f"model.positions = 'rotary': d_model / n_heads = {self.head_dim} must be even; change model.n_heads"
            )
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ConfigError(f"model.d_model = {self.d_model}: must be even for model.positions = 'sinusoidal'")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"model.dropout = {self.dropout}: must be at least 0 and below 1")

    @property
    def head_dim(self) -> int:
        """Width K of one attention head."""
        return self.d_model // self.n_heads

    @property
    def use_bias(self) -> bool:
        """Whether projections and norms have additive biases."""
        return self.norm == "layer"

    @property
    def dtype(self) -> jnp.dtype:
        """Dtype of the activations."""
        return jnp.dtype(self.compute_dtype)


def from_config(model: Mapping[str, Any], platform: str, compute_capability: str | None = None) -> ModelConfig:
    """Make a `ModelConfig` of the `model` section of a config, for a platform ('cpu', 'gpu', 'tpu').

    `compute_capability` ('7.5') is asked of the first GPU when it is needed and not given.
    Raises ConfigError, naming the field, where a value cannot be used.
    """
    fields = dict(model)
    if fields["compute_dtype"] == "auto":
        fields["compute_dtype"] = _auto_compute_dtype(platform, compute_capability)
    if platform == "cpu" and fields["remat"] and not fields["scan_layers"]:
        # Compiled for a CPU, the recomputation takes 23 % more time and frees at most 8 % of the temporary memory; in a
        # scan it frees three quarters (jaxlib 0.10.2, the scaled run's model).
        raise ConfigError(
            "model.remat = True: saves next to no memory on a CPU unless model.scan_layers = True; set both"
        )
    return ModelConfig(**fields)


def _auto_compute_dtype(platform: str, compute_capability: str | None) -> str:
    """What a competent person would choose: bfloat16 wherever the hardware multiplies it faster than float32."""
    if platform == "cpu":
        return "float32"
    if platform in ("gpu", "cuda"):
        capability = compute_capability or str(jax.local_devices(backend=platform)[0].compute_capability)
        # AMD devices say 'gfx90a'; every one that JAX supports multiplies bfloat16.
        if capability[0].isdigit() and float(capability) < 8.0:
            return "float32"
    return "bfloat16"
