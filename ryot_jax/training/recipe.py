"""Training recipes: named changes of the training itself, beside kernels and step schedules.

Each part is `statistical`: it changes the training or the model, so that its gain is reported separately from that of
kernels. No part is ever in the baseline of a comparison.
"""

import dataclasses
from collections.abc import Mapping

from ml_collections import ConfigDict

from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.suggestions import did_you_mean


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a recipe: the config fields that it sets, and its description in one line."""

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
    """Parses a recipe such as 'muon, rotary' into the names of its parts; '' has none.

    Raises:
      ConfigError: a part is unknown, or two parts set the same field.
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
    """A copy of the config with the parts of a recipe and their learning rate (None: the config's).

    A configured implementation of the optimizer's step is reset to automatic choice, as the recipe may set another
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
