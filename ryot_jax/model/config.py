"""The model's config: one frozen, hashable record of every choice that shapes the network, and its rules.

Resolves `compute_dtype = 'auto'` for the device at hand. Importing this module does not import JAX, so that config
files are checked by the same rules before JAX starts. Rules that need more than the model's own fields are left to
`ryot_jax.config`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes  # noqa: F401, which teaches NumPy the name 'bfloat16'
import numpy as np

from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.field_rules import Choices, Ranges, broken, in_section, out_of_range, wrong_choices

CHOICES: Choices = {
    "positions": ("learned", "sinusoidal", "rotary"),
    "norm": ("layer", "rms"),
    "mlp": ("gelu", "swiglu", "relu2"),
    "compute_dtype": ("float32", "bfloat16", "float16"),
}

RANGES: Ranges = {
    "vocab_size": (1, None),
    "d_model": (1, None),
    "n_layers": (1, None),
    "n_heads": (1, None),
    "d_ff": (1, None),
    "max_len": (1, None),
    "dropout": (0.0, 1.0),
}


def contradictions(model: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line for each pair of fields that contradict each other.

    Args:
      model: the fields of `ModelConfig`.
    """
    heads, width = model["n_heads"], model["d_model"]
    if heads >= 1 and width % heads:
        yield broken("model.n_heads", heads, f"must divide model.d_model = {width}")
    elif heads >= 1 and model["positions"] == "rotary" and (width // heads) % 2:
        yield broken(
            "model.n_heads",
            heads,
            f"gives heads of {width // heads} numbers, but model.positions = 'rotary' rotates them in pairs",
        )
    if model["positions"] == "sinusoidal" and width % 2:
        yield broken("model.d_model", width, "must be even for model.positions = 'sinusoidal'")


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
        values = dataclasses.asdict(self)
        problems = [
            *wrong_choices(in_section("model", values), in_section("model", CHOICES)),
            *out_of_range(in_section("model", values), in_section("model", RANGES)),
            *contradictions(values),
        ]
        if problems:
            raise ConfigError("\n".join(problems))

    @property
    def head_dim(self) -> int:
        """Width K of one attention head."""
        return self.d_model // self.n_heads

    @property
    def use_bias(self) -> bool:
        """Whether projections and norms have additive biases."""
        return self.norm == "layer"

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the activations."""
        return np.dtype(self.compute_dtype)


def from_config(model: Mapping[str, Any], platform: str, compute_capability: str | None = None) -> ModelConfig:
    """Makes a `ModelConfig` from the `model` section of a config, for a platform ('cpu', 'gpu', 'tpu').

    `compute_capability` ('7.5') is asked of the first GPU when it is needed and not given.
    Raises ConfigError, naming the field, if a value is invalid.
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
    """Bfloat16 wherever the hardware multiplies it faster than float32, else float32."""
    if platform == "cpu":
        return "float32"
    if platform in ("gpu", "cuda"):
        import jax  # not at the top: config files are checked before JAX may start

        capability = compute_capability or str(jax.local_devices(backend=platform)[0].compute_capability)
        # AMD devices say 'gfx90a'; every one that JAX supports multiplies bfloat16.
        if capability[0].isdigit() and float(capability) < 8.0:
            return "float32"
    return "bfloat16"
