"""The rules that the values of a config keep, each naming the field, its value and what is allowed.

A rule here needs the config alone (and, where known, the number of devices). What depends on files is checked
by the data pipeline, what depends on the machine by the kernels.
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from ml_collections import ConfigDict

from ryot_jax.config.steps import SCHEDULED_TRAININGS, total_steps
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.run_directory import NAME_PATTERN, NAME_RULE
from ryot_jax.runtime.suggestions import did_you_mean
from ryot_jax.scaling import phases
from ryot_jax.training import recipe

MAX_VOCAB_SIZE = 65_535  # token ids are stored as uint16
BYTE_VOCAB_SIZE = 257  # 256 bytes and the end-of-document token
ARMS = ("baseline", "optimized")

CHOICES = {
    "tokenizer.kind": ("bpe", "byte", "file"),
    "model.positions": ("learned", "sinusoidal", "rotary"),
    "model.norm": ("layer", "rms"),
    "model.mlp": ("gelu", "swiglu", "relu2"),
    "model.compute_dtype": ("auto", "float32", "bfloat16", "float16"),
    "training.optimizer": ("adamw", "muon", "lion", "schedule_free"),
    "training.schedule": ("cosine", "linear", "constant"),
    "training.parallelism": ("jit", "shard_map", "pmap"),
    "comparison.beat": ("unigram", "bigram"),
    "optimizations.activations": ("off", "auto", "bfloat16"),
    "optimizations.linear_cross_entropy": ("off", "auto", "cpu", "mosaic", "triton", "xla"),
    "optimizations.attention": ("off", "auto", "cpu", "mosaic", "cudnn", "xla"),
    "optimizations.dense": ("off", "auto", "cpu", "xla", "fp8"),
    "optimizations.norm": ("off", "auto", "cpu", "triton", "mosaic", "xla"),
    "optimizations.embedding": ("off", "auto", "cpu"),
    "optimizations.dropout": ("off", "auto", "hash"),
    "optimizations.optimizer": ("off", "auto", "cpu"),
    "optimizations.qat": ("off", "auto", "round"),
    "optimizations.dispatch": ("off", "auto", "scan"),
}

# field: (smallest allowed, smallest value that is too large, or None)
RANGES: dict[str, tuple[float, float | None]] = {
    "seed": (0, 2**32),
    "data.max_documents": (0, None),
    "model.vocab_size": (2, MAX_VOCAB_SIZE + 1),
    "model.d_model": (1, None),
    "model.n_layers": (1, None),
    "model.n_heads": (1, None),
    "model.d_ff": (1, None),
    "model.max_len": (1, None),
    "model.dropout": (0.0, 1.0),
    "training.epochs": (1, None),
    "training.steps_per_epoch": (1, None),
    "training.batch_size": (1, None),
    "training.seq_len": (1, None),
    "training.accumulation": (1, None),
    "training.b1": (0.0, 1.0),
    "training.b2": (0.0, 1.0),
    "training.weight_decay": (0.0, None),
    "training.clip_norm": (0.0, None),
    "training.warmup_steps": (0, None),
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
    "comparison.loss_margin": (0.0, None),
    "comparison.tight_loss_margin": (0.0, None),
    "metrics.every_steps": (1, None),
}

POSITIVE = ("training.learning_rate", "scaling.recipe_learning_rate")


def validate(config: ConfigDict, *, device_count: int | None = None) -> None:
    """Check every rule.

    Args:
      config: a complete config tree.
      device_count: the devices that a training batch is divided over, where that is known already.

    Raises:
      ConfigError: one line for each broken rule: the field, its value, the rule.
    """
    problems = [
        *_single_fields(config),
        *_data(config),
        *_model(config),
        *_training(config, device_count),
        *_comparison(config),
        *_compression(config),
        *_scaling(config),
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _single_fields(config: ConfigDict) -> Iterable[str]:
    if not re.fullmatch(NAME_PATTERN, config.name):
        yield _broken("name", config.name, f"must be {NAME_RULE}")
    for path, choices in CHOICES.items():
        value = _get(config, path)
        if value not in choices:
            hint = did_you_mean(value, choices)
            yield _broken(path, value, f"must be one of {', '.join(choices)}{hint}")
    for path, (low, high) in RANGES.items():
        value = _get(config, path)
        if not (low <= value and (high is None or value < high) and math.isfinite(value)):
            upper = "" if high is None else f" and below {high}"
            yield _broken(path, value, f"must be at least {low}{upper}")
    for path in POSITIVE:
        value = _get(config, path)
        if not (value > 0 and math.isfinite(value)):
            yield _broken(path, value, "must be above 0")


def _data(config: ConfigDict) -> Iterable[str]:
    data, kind, vocab_size = config.data, config.tokenizer.kind, config.model.vocab_size
    sources = ("stdlib", "text", "tokens")
    if data.source not in sources and not re.fullmatch(r"hf:\S+", data.source):
        hint = did_you_mean(data.source, sources)
        yield _broken("data.source", data.source, f"must be one of {', '.join(sources)}, hf:NAME{hint}")
    if data.source in ("text", "tokens") and not data.path:
        yield _broken("data.path", data.path, f"must name the input of data.source = {data.source!r}")
    if not 0.0 < data.heldout_fraction < 1.0:
        yield _broken("data.heldout_fraction", data.heldout_fraction, "must be between 0 and 1, both excluded")
    if kind == "file" and not config.tokenizer.path:
        yield _broken("tokenizer.path", config.tokenizer.path, "must name the file of tokenizer.kind = 'file'")
    if kind in ("bpe", "byte") and vocab_size < BYTE_VOCAB_SIZE:
        yield _broken(
            "model.vocab_size",
            vocab_size,
            f"must be at least {BYTE_VOCAB_SIZE} (256 bytes, end of document) for tokenizer.kind = {kind!r}",
        )


def _model(config: ConfigDict) -> Iterable[str]:
    model = config.model
    if model.n_heads >= 1 and model.d_model % model.n_heads:
        yield _broken("model.n_heads", model.n_heads, f"must divide model.d_model = {model.d_model}")
    elif model.n_heads >= 1 and model.positions == "rotary" and (model.d_model // model.n_heads) % 2:
        head_dim = model.d_model // model.n_heads
        yield _broken(
            "model.n_heads",
            model.n_heads,
            f"gives heads of {head_dim} numbers, but model.positions = 'rotary' rotates them in pairs",
        )
    if model.positions == "sinusoidal" and model.d_model % 2:
        yield _broken("model.d_model", model.d_model, "must be even for model.positions = 'sinusoidal'")


def _training(config: ConfigDict, device_count: int | None) -> Iterable[str]:
    training = config.training
    if training.seq_len > config.model.max_len:
        yield _broken("training.seq_len", training.seq_len, f"must not exceed model.max_len = {config.model.max_len}")
    total_steps = training.epochs * training.steps_per_epoch
    if training.warmup_steps >= total_steps > 0:
        yield _broken(
            "training.warmup_steps",
            training.warmup_steps,
            f"must be below the {total_steps} steps of training.epochs x training.steps_per_epoch",
        )
    if training.optimizer == "schedule_free" and training.schedule != "constant":
        yield _broken(
            "training.schedule",
            training.schedule,
            "must be constant for training.optimizer = 'schedule_free', which replaces the decay",
        )
    if training.accumulation < 1:
        return
    part = training.batch_size // training.accumulation
    if training.batch_size % training.accumulation:
        yield _broken(
            "training.accumulation",
            training.accumulation,
            f"must divide training.batch_size = {training.batch_size}",
        )
    elif device_count and part % device_count:
        share = f"training.batch_size / training.accumulation = {part}"
        yield _broken(
            "training.batch_size",
            training.batch_size,
            f"cannot be divided over {device_count} devices: {share} must be a multiple of {device_count}",
        )


def _comparison(config: ConfigDict) -> Iterable[str]:
    arms, block, epoch = (
        config.comparison.arms,
        config.comparison.block_steps,
        config.training.steps_per_epoch,
    )
    for arm in arms:
        if arm not in ARMS:
            hint = did_you_mean(str(arm), ARMS)
            yield _broken("comparison.arms", arms, f"may hold {' and '.join(ARMS)}, not {arm!r}{hint}")
    if not arms or len(set(arms)) < len(arms):
        yield _broken("comparison.arms", arms, "must name at least one arm, and each once")
    if len(arms) > 1 and config.checkpoint.keep_latest < 2:
        yield _broken(
            "checkpoint.keep_latest",
            config.checkpoint.keep_latest,
            "must be at least 2 with two arms: a run killed between their saves goes on from the one before",
        )
    for field in ("pairs", "processes"):
        if len(arms) == 1 and config.comparison[field] > 1:
            yield _broken(f"comparison.{field}", config.comparison[field], "must be 1 where one arm is trained alone")
    if block >= 1 and epoch >= 1 and epoch % block:
        nearest = max(size for size in range(1, min(block, epoch) + 1) if epoch % size == 0)
        yield _broken(
            "comparison.block_steps",
            block,
            f"must divide training.steps_per_epoch = {epoch}, so that epochs end where blocks end; "
            f"the next smaller one is {nearest}",
        )
    if config.comparison.tight_loss_margin > config.comparison.loss_margin:
        yield _broken(
            "comparison.tight_loss_margin",
            config.comparison.tight_loss_margin,
            f"must not exceed comparison.loss_margin = {config.comparison.loss_margin}",
        )


def _compression(config: ConfigDict) -> Iterable[str]:
    fraction = config.compression.qat_fraction
    if not 0 < fraction <= 1:
        yield _broken("compression.qat_fraction", fraction, "must be above 0 and at most 1")
    elif config.optimizations.qat == "round" and rounded_steps(config) == 0:
        steps = total_steps(config)
        yield _broken(
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


def rounded_steps(config: ConfigDict) -> int:
    """How many of the last training steps see rounded weights with `optimizations.qat` = 'round'."""
    steps = total_steps(config)
    # A third of 300 steps is 100 of them, whatever the last digits of the product say.
    return math.floor(round(config.compression.qat_fraction * steps, 6))


def _get(config: ConfigDict, path: str) -> Any:
    for key in path.split("."):
        config = config[key]
    return config


def _broken(path: str, value: Any, rule: str) -> str:
    return f"{path} = {value!r} {rule}"
