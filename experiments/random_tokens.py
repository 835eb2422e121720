"""The main command's arms on random tokens, as the time of a step does not depend on the text.

Tokens are drawn with the frequencies of Zipf's law, like words, and the batches repeat, so that losses fall and two
programs that train alike can be told from two that do not.
"""

import dataclasses
from collections.abc import Sequence

import grain
import numpy as np
from ml_collections import ConfigDict

from ryot_jax.comparison.arms import Arm
from ryot_jax.comparison.variants import Variant
from ryot_jax.data.pipeline import Corpus
from ryot_jax.data.tokenizer import NoTokenizer
from ryot_jax.kernels import Spec
from ryot_jax.model.config import ModelConfig
from ryot_jax.runs.session import open_session
from ryot_jax.training.setup import TrainingSetup, build_setup

BATCHES = 16


@dataclasses.dataclass(frozen=True)
class Setting:
    """The main command's own records for building arms, on random tokens."""

    setup: TrainingSetup
    spec: Spec
    variants: tuple[Variant, ...]

    @property
    def model(self) -> ModelConfig:
        """The model's sizes."""
        return self.setup.model

    def arm(self, name: str) -> Arm:
        """Build an arm, compiled, warm and at its first step."""
        arm = Arm(self.setup, next(variant for variant in self.variants if variant.name == name))
        arm.warm_up()
        return arm


def draw_tokens(config: ConfigDict, batches: int = BATCHES) -> np.ndarray:
    """Windows of token ids, int32[batches, B, T + 1]."""
    rows, length = config.training.batch_size, config.training.seq_len + 1
    frequencies_V = 1.0 / (1.0 + np.arange(config.model.vocab_size))
    generator = np.random.default_rng(config.seed)
    shape = (batches, rows, length)
    return generator.choice(config.model.vocab_size, shape, p=frequencies_V / frequencies_V.sum()).astype(np.int32)


def batches_of(tokens_nBT: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Batches in the form that the training step takes."""
    return [
        {"inputs": np.ascontiguousarray(window[:, :-1]), "targets": np.ascontiguousarray(window[:, 1:])}
        for window in tokens_nBT
    ]


def setting(config: ConfigDict, tokens_nBT: np.ndarray | None = None, arms: Sequence[str] | None = None) -> Setting:
    """Build everything but the compiled arms; uses the compilation cache according to the config.

    Raises:
      ConfigError: a requested optimization is not available on this machine.
    """
    tokens_nBT = draw_tokens(config) if tokens_nBT is None else tokens_nBT
    if arms is not None:
        config = config.copy_and_resolve_references()
        config.comparison.arms = tuple(arms)
    session = open_session(config, print)
    model = session.model
    ids = tokens_nBT.reshape(-1).astype(np.uint16)
    corpus = Corpus(ids, ids[: ids.size // 2], NoTokenizer(model.vocab_size), "", {})
    setup = build_setup(config, model, corpus)
    setup = dataclasses.replace(setup, dataset=grain.MapDataset.source(batches_of(tokens_nBT)).repeat())
    return Setting(setup, session.spec, session.variants[0])
