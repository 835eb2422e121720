"""One arm of a run: a compiled step, its state and its data, run in timed blocks of steps.

Callers evaluate, save and log between blocks.
"""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.runtime.errors import NonFiniteLossError
from ryot_jax.training.checkpoints import Checkpoints
from ryot_jax.training.evaluation import Evaluation, Evaluator
from ryot_jax.training.optimizer import evaluation_params
from ryot_jax.training.parallel import CompiledStep, stack
from ryot_jax.training.state import State
from ryot_jax.training.step import Metrics


class BatchIterator(Protocol):
    """An iterator of batches of host arrays with a JSON position, such as grain's."""

    def __next__(self) -> Mapping[str, np.ndarray]:
        """The next batch."""
        ...

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        """Returns the iterator itself."""
        ...

    def get_state(self) -> dict[str, Any]:
        """The position in the data, as a JSON value."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to a position that `get_state` returned."""
        ...


@dataclasses.dataclass(frozen=True)
class BlockResult:
    """The seconds, losses and counts of one block of steps.

    Attributes:
      first_step: number of the first of its steps, from 0.
      seconds: wall-clock seconds from an idle device to the last result of the block.
      losses: loss of each step, nats per target, before the step's update.
      grad_norms: gradient norm of each step, before clipping.
      tokens: target tokens trained on.
    """

    first_step: int
    seconds: float
    losses: list[float]
    grad_norms: list[float]
    tokens: int


class Trainer:
    """One arm in training: takes steps and counts them.

    Args:
      name: name of the arm, for messages and checkpoints.
      compiled_step: the program that takes one step.
      state: the initial state; copied, so that arms can share it.
      batches: the training batches.
      scanned_steps: a program that takes several steps; None: one call per step.
      program_at: (step, steps left) -> the program that takes the step by a step schedule; it replaces the two programs
        above, and may take several steps.
      optimizer_name: `training.optimizer`, which decides the parameters to evaluate.
    """

    def __init__(
        self,
        name: str,
        compiled_step: CompiledStep,
        state: State,
        batches: BatchIterator,
        *,
        scanned_steps: CompiledStep | None = None,
        program_at: Callable[[int, int], CompiledStep] | None = None,
        optimizer_name: str = "adamw",
    ):
        self.name = name
        self.compiled_step = compiled_step
        self.scanned_steps = scanned_steps
        self.program_at = program_at
        self.state = compiled_step.place(jax.tree.map(jnp.copy, state))
        self.batches = batches
        self.optimizer_name = optimizer_name
        self.steps_taken = int(state.step)
        self.tokens = 0
        self.batches_sha256 = hashlib.sha256(b"").hexdigest()

    def run_block(self, n_steps: int, *, on_step: Callable[[int, float], None] | None = None) -> BlockResult:
        """Takes `n_steps` steps; the device is idle before and after.

        The program of several steps takes as many as it can, that of one step the rest. The host reads the metrics of a
        call after dispatching the next one, so that the device never waits.

        Args:
          n_steps: number of steps.
          on_step: called after each call with the number of steps taken and the last loss, while the device works on
            the next call. It is part of the measured time, so it must be fast.

        Raises:
          NonFiniteLossError: a loss or gradient norm is not finite. The state is then useless; restore a
            checkpoint.
        """
        first_step = self.steps_taken
        read: list[dict[str, float]] = []
        pending: Metrics | None = None
        jax.block_until_ready(self.state)
        start = time.perf_counter()
        for program in self._calls(n_steps):
            batch = self._next_batches(program.steps)
            self.state, metrics = program(self.state, batch)
            self.steps_taken += program.steps
            if pending is not None:
                read.extend(self._read(pending, first_step + len(read)))
                if on_step is not None:
                    on_step(first_step + len(read), read[-1]["loss"])
            pending = metrics
        jax.block_until_ready((self.state, pending))
        seconds = time.perf_counter() - start
        if pending is not None:
            read.extend(self._read(pending, first_step + len(read)))
            if on_step is not None:
                on_step(first_step + len(read), read[-1]["loss"])
        tokens = int(sum(metrics["n_targets"] for metrics in read))
        self.tokens += tokens
        losses, grad_norms = ([metrics[name] for metrics in read] for name in ("loss", "grad_norm"))
        return BlockResult(first_step, seconds, losses, grad_norms, tokens)

    def evaluate(self, evaluator: Evaluator) -> Evaluation:
        """Held-out loss of the evaluation parameters of this optimizer (see `evaluation_params`).

        Raises:
          NonFiniteLossError: the loss is not finite.
        """
        evaluation = evaluator(evaluation_params(self.optimizer_name, self.state))
        self._require_finite(self.steps_taken, heldout_loss=evaluation.mean_loss)
        return evaluation

    def save(
        self,
        checkpoints: Checkpoints,
        heldout_loss: float,
        config_json: str,
        *,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes state, data position and counters; returns when they are on disk.

        Args:
          checkpoints: the destination.
          heldout_loss: nats per target; the lowest one marks the best checkpoint.
          config_json: the resolved config.
          facts: JSON values of the caller, returned by `restore`.

        Raises:
          CheckpointError: the checkpoint could not be written.
        """
        data_state = {
            "iterator": self.batches.get_state(),
            "tokens": self.tokens,
            "batches_sha256": self.batches_sha256,
            "facts": dict(facts or {}),
        }
        checkpoints.save(self.steps_taken, self.state, data_state, heldout_loss, config_json, arm=self.name)

    def restore(self, checkpoints: Checkpoints, which: int | str = "latest") -> dict[str, Any]:
        """Resumes from a checkpoint, bit for bit, with the programs that are already compiled.

        Returns:
          The facts saved with the checkpoint.

        Raises:
          CheckpointError: the checkpoint does not exist, or does not fit this arm.
        """
        self.state, data_state = checkpoints.restore(which, self.state)
        self.steps_taken = int(self.state.step)
        self.batches.set_state(data_state["iterator"])
        self.tokens = data_state["tokens"]
        self.batches_sha256 = data_state["batches_sha256"]
        return data_state["facts"]

    def _calls(self, n_steps: int) -> Iterable[CompiledStep]:
        """The programs to call in turn for a number of steps."""
        if self.program_at is not None:
            return self._scheduled_calls(n_steps)
        if self.scanned_steps is None:
            return [self.compiled_step] * n_steps
        calls, rest = divmod(n_steps, self.scanned_steps.steps)
        return [self.scanned_steps] * calls + [self.compiled_step] * rest

    def _scheduled_calls(self, n_steps: int) -> Iterator[CompiledStep]:
        assert self.program_at is not None
        while n_steps:
            program = self.program_at(self.steps_taken, n_steps)
            n_steps -= program.steps
            yield program

    def _next_batches(self, steps: int) -> Mapping[str, np.ndarray]:
        batches = [self._next_batch() for _ in range(steps)]
        return batches[0] if steps == 1 else stack(batches)

    def _next_batch(self) -> Mapping[str, np.ndarray]:
        batch = next(self.batches)
        # A chain of digests rather than one long hash, as a checkpoint can hold its state, a string.
        digest = hashlib.sha256(self.batches_sha256.encode())
        for name in sorted(batch):
            digest.update(np.ascontiguousarray(batch[name]).data)
        self.batches_sha256 = digest.hexdigest()
        return batch

    def _read(self, metrics: Metrics, first_step: int) -> list[dict[str, float]]:
        """The metrics of each step of a call, on the host."""
        columns = {name: np.atleast_1d(values).tolist() for name, values in jax.device_get(metrics).items()}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for step, row in enumerate(rows, first_step):
            self._require_finite(step, loss=row["loss"], grad_norm=row["grad_norm"])
        return rows

    def _require_finite(self, step: int, **values: float) -> None:
        if all(map(math.isfinite, values.values())):
            return
        what = ", ".join(f"{name} = {value}" for name, value in values.items())
        raise NonFiniteLossError(
            f"arm {self.name!r}, step {step}: {what}; lower training.learning_rate or training.clip_norm, "
            "or resume from the last checkpoint, which is untouched"
        )
