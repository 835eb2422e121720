"""The outcome of one arm, the optimizations that it ran with, and the proof of them."""

from collections.abc import Mapping
from typing import Any

from ryot_jax.runtime.records import Record


class Epoch(Record, frozen=True, kw_only=True):
    """One epoch of one arm; losses in nats/token, `seconds` count training alone."""

    epoch: int
    step: int
    train_loss: float | None
    heldout_loss: float | None
    seconds: float
    tokens_per_second: float | None


class ArmResult(Record, frozen=True, kw_only=True):
    """The outcome of one arm.

    Attributes:
      parameters: number of model parameters.
      steps: training steps done.
      tokens: target tokens trained on.
      initial_heldout_loss: held-out loss before the first step, nats/token as all losses.
      first_train_loss: training loss of the first step.
      final_train_loss: mean training loss of the last block.
      final_heldout_loss: held-out loss after the last step.
      best_heldout_loss: lowest held-out loss of all evaluations after the first step.
      best_step: step of that evaluation.
      train_seconds: seconds of training, summed over the blocks.
      tokens_per_second: target tokens trained on per second of training.
      step_ms_median: median over blocks of the milliseconds per step.
      compile_seconds: sum of `compile_parts`.
      compile_parts: seconds of 'trace', 'lower' and 'compile'.
      compile_warm_seconds: seconds to recompile the programs from the warm cache; None: not measured.
      compiled_from_cache: whether `compile_seconds` were served from that cache too.
      memory_bytes: bytes of arguments and temporaries of the compiled step.
      program_check: outcome of the start-up check of each program, by its name.
      plan: the kernel plan, op -> implementation.
      epochs: the epochs that ended with an evaluation.
    """

    parameters: int
    steps: int
    tokens: int
    initial_heldout_loss: float | None
    first_train_loss: float | None
    final_train_loss: float | None
    final_heldout_loss: float | None
    best_heldout_loss: float | None
    best_step: int | None
    train_seconds: float
    tokens_per_second: float | None
    step_ms_median: float | None
    compile_seconds: float
    compile_parts: Mapping[str, float]
    compile_warm_seconds: float | None
    compiled_from_cache: bool | None
    memory_bytes: int | None
    program_check: Mapping[str, Any] | None
    plan: Mapping[str, Any]
    epochs: tuple[Epoch, ...]


class OptimizationState(Record, frozen=True, kw_only=True):
    """The implementation of an optimization in an arm, and the proof from the compiled program that it is on."""

    name: str
    arm: str
    switch: str = ""
    implementation: str
    equivalence: str
    description: str = ""
    reason: str = ""
    active: bool
    evidence: str


class ConfigDifference(Record, frozen=True, kw_only=True):
    """A config field in which the arms differ."""

    field: str
    baseline: str
    optimized: str
