"""Rules for the values of a config; a broken one is reported with the field, its value and the allowed values.

These rules need the config alone (and the number of devices, once known). The data pipeline checks files, the kernels
check the machine.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from ml_collections import ConfigDict

from ryot_jax.data import rules as data_rules
from ryot_jax.model import config as model_rules
from ryot_jax.optimizations import OPTIMIZATIONS
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.field_rules import (
    Choices,
    Ranges,
    broken,
    in_section,
    not_positive,
    out_of_range,
    wrong_choices,
)
from ryot_jax.runtime.run_directory import NAME_PATTERN, NAME_RULE
from ryot_jax.runtime.suggestions import did_you_mean
from ryot_jax.scaling import phases
from ryot_jax.training import recipe
from ryot_jax.training import rules as training_rules
from ryot_jax.training.steps import SCHEDULED_TRAININGS, rounded_steps, total_steps

ARMS = ("baseline", "optimized")

CHOICES: Choices = {
    "tokenizer.kind": data_rules.TOKENIZER_KINDS,
    **in_section("model", model_rules.CHOICES),
    "model.compute_dtype": ("auto", *model_rules.CHOICES["compute_dtype"]),
    **in_section("training", training_rules.CHOICES),
    "comparison.beat": ("unigram", "bigram"),
    "runtime.tune": ("race", "ops", "off"),
    **{optimization.switch: optimization.choices for optimization in OPTIMIZATIONS},
}

RANGES: Ranges = {
    "seed": (0, 2**32),
    "data.max_documents": (0, None),
    **in_section("model", model_rules.RANGES),
    "model.vocab_size": (2, data_rules.LARGEST_VOCABULARY + 1),
    **in_section("training", training_rules.RANGES),
    "evaluation.sequences": (1, None),
    "compression.calibration_sequences": (1, None),
    "compression.qat_bits": (2, 9),
    "evaluation.batch_size": (1, None),
    "checkpoint.keep_latest": (1, None),
    "checkpoint.keep_best": (1, None),
    "comparison.block_steps": (1, None),
    "comparison.pairs": (1, None),
    "comparison.processes": (1, None),
    "comparison.control_blocks": (2, None),
    "comparison.control_steps": (1, None),
    "comparison.control_seconds": (0.0, None),
    "comparison.loss_margin": (0.0, None),
    "comparison.tight_loss_margin": (0.0, None),
    "metrics.every_steps": (1, None),
}

POSITIVE = (*in_section("training", dict.fromkeys(training_rules.POSITIVE)), "scaling.recipe_learning_rate")


def validate(config: ConfigDict, *, device_count: int | None = None) -> None:
    """Checks every rule and reports all broken ones at once.

    Args:
      config: a complete config tree.
      device_count: number of devices that share a training batch; None: not known yet.

    Raises:
      ConfigError: one line for each broken rule: the field, its value, the rule.
    """
    problems = [
        *_single_fields(config),
        *_data(config),
        *model_rules.contradictions(config.model),
        *_training(config, device_count),
        *_comparison(config),
        *_compression(config),
        *_scaling(config),
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _single_fields(config: ConfigDict) -> Iterable[str]:
    if not re.fullmatch(NAME_PATTERN, config.name):
        yield broken("name", config.name, f"must be {NAME_RULE}")
    values = {path: _get(config, path) for path in (*CHOICES, *RANGES, *POSITIVE)}
    yield from wrong_choices(values, CHOICES)
    yield from out_of_range(values, RANGES)
    yield from not_positive(values, POSITIVE)


def _data(config: ConfigDict) -> Iterable[str]:
    data, kind, vocab_size = config.data, config.tokenizer.kind, config.model.vocab_size
    if refusal := data_rules.wrong_source(data.source):
        yield refusal
    if data.source in ("text", "tokens") and not data.path:
        yield broken("data.path", data.path, f"must name the input of data.source = {data.source!r}")
    if not 0.0 < data.heldout_fraction < 1.0:
        yield broken("data.heldout_fraction", data.heldout_fraction, "must be between 0 and 1, both excluded")
    if kind == "file" and not config.tokenizer.path:
        yield broken("tokenizer.path", config.tokenizer.path, "must name the file of tokenizer.kind = 'file'")
    if kind in ("bpe", "byte") and vocab_size < data_rules.SMALLEST_VOCABULARY:
        yield broken(
            "model.vocab_size",
            vocab_size,
            f"must be at least {data_rules.SMALLEST_VOCABULARY} (256 bytes, end of document) "
            f"for tokenizer.kind = {kind!r}",
        )


def _training(config: ConfigDict, device_count: int | None) -> Iterable[str]:
    training = config.training
    if training.seq_len > config.model.max_len:
        yield broken("training.seq_len", training.seq_len, f"must not exceed model.max_len = {config.model.max_len}")
    yield from training_rules.contradictions(training, device_count)


def _comparison(config: ConfigDict) -> Iterable[str]:
    arms, block, epoch = (
        config.comparison.arms,
        config.comparison.block_steps,
        config.training.steps_per_epoch,
    )
    for arm in arms:
        if arm not in ARMS:
            hint = did_you_mean(str(arm), ARMS)
            yield broken("comparison.arms", arms, f"may hold {' and '.join(ARMS)}, not {arm!r}{hint}")
    if not arms or len(set(arms)) < len(arms):
        yield broken("comparison.arms", arms, "must name at least one arm, and each once")
    if len(arms) > 1 and config.checkpoint.keep_latest < 2:
        yield broken(
            "checkpoint.keep_latest",
            config.checkpoint.keep_latest,
            "must be at least 2 with two arms: a run killed between their saves resumes from the one before",
        )
    for field in ("pairs", "processes"):
        if len(arms) == 1 and config.comparison[field] > 1:
            yield broken(f"comparison.{field}", config.comparison[field], "must be 1 where one arm is trained alone")
    if block >= 1 and epoch >= 1 and epoch % block:
        nearest = max(size for size in range(1, min(block, epoch) + 1) if epoch % size == 0)
        yield broken(
            "comparison.block_steps",
            block,
            f"must divide training.steps_per_epoch = {epoch}, so that epochs end where blocks end; "
            f"the next smaller one is {nearest}",
        )
    if config.comparison.tight_loss_margin > config.comparison.loss_margin:
        yield broken(
            "comparison.tight_loss_margin",
            config.comparison.tight_loss_margin,
            f"must not exceed comparison.loss_margin = {config.comparison.loss_margin}",
        )


def _compression(config: ConfigDict) -> Iterable[str]:
    fraction = config.compression.qat_fraction
    if not 0 < fraction <= 1:
        yield broken("compression.qat_fraction", fraction, "must be above 0 and at most 1")
    elif config.optimizations.qat == "round" and rounded_steps(config) == 0:
        steps = total_steps(config)
        yield broken(
            "compression.qat_fraction",
            fraction,
            f"leaves none of the {steps} steps to optimizations.qat = 'round'; it must be at least one in {steps}",
        )


def _scaling(config: ConfigDict) -> Iterable[str]:
    readers: dict[str, Callable[[str], tuple[object, ...]]] = {"recipe": recipe.parse}
    readers |= dict.fromkeys((training.phases_field for training in SCHEDULED_TRAININGS), phases.parse)
    for field, parse in readers.items():
        text = config.scaling[field]
        try:
            parse(text) if text else ()
        except ConfigError as error:
            yield f"scaling.{field} = {text!r}: {error}"


def _get(config: ConfigDict, path: str) -> Any:
    for key in path.split("."):
        config = config[key]
    return config
