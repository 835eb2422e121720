"""Rules of the config's `training` section that need no other section, declared without JAX.

`ryot_jax.config` applies them to config files; the optimizer and the compiled steps refuse by them too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ryot_jax.runtime.field_rules import Choices, Ranges, broken, uneven_batch

OPTIMIZERS = ("adamw", "muon", "lion", "schedule_free")
LEARNING_RATE_SCHEDULES = ("cosine", "linear", "constant")
PARALLELISMS = ("jit", "shard_map", "pmap")

CHOICES: Choices = {
    "optimizer": OPTIMIZERS,
    "schedule": LEARNING_RATE_SCHEDULES,
    "parallelism": PARALLELISMS,
}

RANGES: Ranges = {
    "epochs": (1, None),
    "steps_per_epoch": (1, None),
    "batch_size": (1, None),
    "seq_len": (1, None),
    "accumulation": (1, None),
    "b1": (0.0, 1.0),
    "b2": (0.0, 1.0),
    "weight_decay": (0.0, None),
    "clip_norm": (0.0, None),
    "warmup_steps": (0, None),
}

POSITIVE = ("learning_rate",)


def contradictions(training: Mapping[str, Any], n_devices: int | None = None) -> Iterator[str]:
    """One line for each pair of fields of the section that contradict each other.

    Args:
      training: the whole section.
      n_devices: the devices that share a batch, where known.
    """
    total_steps = training["epochs"] * training["steps_per_epoch"]
    if total_steps > 0:
        yield from wrong_warmup(training, total_steps, " of training.epochs x training.steps_per_epoch")
    yield from wrong_schedule_free(training)
    if training["accumulation"] < 1:
        return
    if training["batch_size"] % training["accumulation"]:
        whole = f"must divide training.batch_size = {training['batch_size']}"
        yield broken("training.accumulation", training["accumulation"], whole)
    elif n_devices and (rule := uneven_batch(training["batch_size"], n_devices, training["accumulation"])):
        yield broken("training.batch_size", training["batch_size"], rule)


def wrong_warmup(training: Mapping[str, Any], total_steps: int, where: str = " of the run") -> Iterator[str]:
    """One line where the warm-up of the learning rate takes the whole run; `where` says what fixes the steps."""
    if training["warmup_steps"] >= total_steps:
        yield broken("training.warmup_steps", training["warmup_steps"], f"must be below the {total_steps} steps{where}")


def wrong_schedule_free(training: Mapping[str, Any]) -> Iterator[str]:
    """One line for each field that contradicts `training.optimizer` = 'schedule_free'."""
    if training["optimizer"] != "schedule_free":
        return
    optimizer = "for training.optimizer = 'schedule_free'"
    if training["schedule"] != "constant":
        yield broken(
            "training.schedule", training["schedule"], f"must be constant {optimizer}, which replaces the decay"
        )
    if training["b1"] == 0:
        yield broken("training.b1", training["b1"], f"must be above 0 {optimizer}")
