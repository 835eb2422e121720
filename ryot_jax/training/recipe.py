"""Recipes: what is changed in the training itself, beside kernels and schedules, as named parts.

Each part is `statistical`: it trains another way or another model, so its gain is no kernel's and is always told apart.
No part is ever in the baseline of a comparison.
"""

import dataclasses
from collections.abc import Mapping

from ml_collections import ConfigDict

from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.suggestions import did_you_mean


@dataclasses.dataclass(frozen=True)
class Part:
    """The config fields that it sets, and what it is in one line."""

    fields: Mapping[str, str]
    description: str


PARTS: Mapping[str, Part] = {
    "muon": Part(
        {"training.optimizer": "muon"},
        "steps of the matrices made orthogonal (Jordan 2024), AdamW for embeddings and vectors",
    ),
    "rotary": Part(
        {"model.positions": "rotary"}, "queries and keys turned by their positions (arXiv:2104.09864), none learned"
    ),
    "rms_norm": Part({"model.norm": "rms"}, "norms without mean and bias (arXiv:1910.07467)"),
    "relu2": Part({"model.mlp": "relu2"}, "squared ReLU in the MLP (arXiv:2109.08668)"),
    "swiglu": Part({"model.mlp": "swiglu"}, "gated SiLU in the MLP (arXiv:2002.05202)"),
}


def parse(text: str) -> tuple[str, ...]:
    """The parts of a line such as 'muon, rotary'; '' has none.

    Raises:
      ConfigError: there is no such part, or two of them set one field.
    """
    names = tuple(word.strip() for word in text.split(",")) if text.strip() else ()
    set_by: dict[str, str] = {}
    for name in names:
        if name not in PARTS:
            raise ConfigError(f"there is no part {name!r} of a recipe{did_you_mean(name, PARTS)}; {', '.join(PARTS)}")
        for field in PARTS[name].fields:
            if field in set_by:
                raise ConfigError(f"{set_by[field]} and {name} both set {field}; take one of them")
            set_by[field] = name
    return names


def with_recipe(config: ConfigDict, names: tuple[str, ...], learning_rate: float | None) -> ConfigDict:
    """A copy of the config with these parts, and with their learning rate; None: the config's.

    An implementation of the optimizer's step that the config names is left to choice again: it may be one of another
    optimizer.
    """
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.update_from_flattened_dict({field: v for name in names for field, v in PARTS[name].fields.items()})
        if learning_rate is not None:
            changed.training.learning_rate = learning_rate
        if changed.optimizations.optimizer != "off":
            changed.optimizations.optimizer = "auto"
    return changed
