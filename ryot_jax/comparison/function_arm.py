"""An arm of the paired protocol made of a user-supplied step function, for `compare`."""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.comparison.protocol import tree_hash
from ryot_jax.runtime import hlo
from ryot_jax.runtime.errors import ConfigError, NonFiniteLossError

Step = Callable[[Any, Any], tuple[Any, Any]]  # (state, batch) -> (state, loss or dict with 'loss')
Stream = Callable[[int], Any]  # step -> batch


@dataclasses.dataclass(frozen=True)
class StepProgram:
    """A user-supplied step, ready to be called.

    Attributes:
      call: `(state, batch) -> (state, metrics)`.
      compile_seconds: seconds of 'trace', 'lower' and 'compile'; zeros if nothing was compiled.
      memory_bytes: bytes of arguments and temporaries; None if not known.
      fingerprint: digest of the compiled program without names; '' if nothing was compiled.
    """

    call: Step
    compile_seconds: Mapping[str, float]
    memory_bytes: int | None
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class _Block:
    seconds: float
    losses: list[float]
    tokens: int


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    mean_loss: float
    sequence_losses: np.ndarray


def as_stream(batches: Callable[[int], Any] | Sequence[Any]) -> Stream:
    """The batches as a function `step -> batch`; a sequence is repeated in a cycle.

    Raises:
      ConfigError: `batches` is an empty sequence, or neither a sequence nor callable.
    """
    if callable(batches):
        return batches
    if not isinstance(batches, Sequence) or not batches:
        raise ConfigError(
            f"batches must be a function of the step or a sequence with a batch or more; got {type(batches).__name__}"
        )
    return lambda step: batches[step % len(batches)]


def compile_arm(step: Step, state: Any, batch: Any, *, jit: bool) -> StepProgram:
    """Compiles a step for the shapes of a state and a batch, and times the compilation.

    Raises:
      ConfigError: the step does not return a state like its input and a scalar loss.
    """
    if not jit:
        return StepProgram(step, dict.fromkeys(("trace", "lower", "compile"), 0.0), None, "")
    jitted: Any = step if hasattr(step, "trace") and hasattr(step, "lower") else jax.jit(step)
    start = time.perf_counter()
    traced = jitted.trace(state, batch)
    _check_outcome(traced.out_info, state)
    at_traced = time.perf_counter()
    lowered = traced.lower()
    at_lowered = time.perf_counter()
    compiled = lowered.compile()
    seconds = {
        "trace": at_traced - start,
        "lower": at_lowered - at_traced,
        "compile": time.perf_counter() - at_lowered,
    }
    memory = compiled.memory_analysis()
    size = None if memory is None else int(memory.argument_size_in_bytes + memory.temp_size_in_bytes)
    return StepProgram(compiled, seconds, size, hlo.parse(compiled.as_text()).fingerprint)


@dataclasses.dataclass
class FunctionArm:
    """An arm of the paired protocol (see `protocol.Arm`) that calls a user-supplied step.

    Attributes:
      name: name of the arm.
      program: its step.
      initial_state: copied before the first step, so that steps may donate their state.
      stream: `step -> batch`.
      evaluator: `state -> losses[n]`, or None.
      items: items per step that throughput counts, such as tokens.
    """

    name: str
    program: StepProgram
    initial_state: Any
    stream: Stream
    evaluator: Callable[[Any], Any] | None
    items: int

    def __post_init__(self) -> None:
        """Copies the initial state, from which the arm starts."""
        self.state = _copy(self.initial_state)
        self.step = 0
        self.seconds_spent = 0.0
        self._batches_sha256 = hashlib.sha256(b"").hexdigest()

    def twin(self, name: str) -> "FunctionArm":
        """A second arm with the same program, back at the initial state."""
        return dataclasses.replace(self, name=name)

    def params_hash(self) -> str:
        """Sha256 of the current state."""
        return tree_hash(self.state)

    def batches_hash(self) -> str:
        """Running sha256 of every batch that the arm was fed."""
        return self._batches_sha256

    def warm_up(self) -> None:
        """Takes one step on a copy of the state, so that the extra cost of a first execution is in no measured time."""
        jax.block_until_ready(self.program.call(_copy(self.state), self.stream(self.step)))

    def run_block(self, n_steps: int) -> _Block:
        """Takes `n_steps` steps; the device is idle before and after, and batches are made before the clock starts.

        Raises:
          NonFiniteLossError: a loss is not finite.
        """
        batches = [self.stream(self.step + i) for i in range(n_steps)]
        for batch in batches:
            self._batches_sha256 = hashlib.sha256(f"{self._batches_sha256} {tree_hash(batch)}".encode()).hexdigest()
        batches = [jax.tree.map(jnp.asarray, batch) for batch in batches]
        metrics = []
        jax.block_until_ready((self.state, batches))
        start = time.perf_counter()
        for batch in batches:
            self.state, step_metrics = self.program.call(self.state, batch)
            metrics.append(step_metrics)
        jax.block_until_ready((self.state, metrics))
        seconds = time.perf_counter() - start
        losses = [float(_loss_of(one)) for one in jax.device_get(metrics)]
        for i, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise NonFiniteLossError(f"arm {self.name!r}, step {self.step + i}: loss = {loss}")
        self.step += n_steps
        self.seconds_spent += seconds
        return _Block(seconds, losses, n_steps * self.items)

    def evaluate(self) -> _Evaluation:
        """Held-out losses of the current state.

        Raises:
          ConfigError: `evaluate` did not return a vector of losses.
          NonFiniteLossError: their mean is not finite.
        """
        assert self.evaluator is not None
        losses_n = np.asarray(jax.device_get(self.evaluator(self.state)), np.float64)
        if losses_n.ndim != 1 or losses_n.size < 2:
            raise ConfigError(f"evaluate(state) must give losses[n] of two or more examples; got {losses_n.shape}")
        mean = float(losses_n.mean())
        if not math.isfinite(mean):
            raise NonFiniteLossError(f"arm {self.name!r}, step {self.step}: held-out loss = {mean}")
        return _Evaluation(mean, losses_n)


def _copy(state: Any) -> Any:
    return jax.tree.map(jnp.copy, state)


def _loss_of(metrics: Any) -> Any:
    return metrics["loss"] if isinstance(metrics, Mapping) else metrics


def _check_outcome(outcome: Any, state: Any) -> None:
    if not isinstance(outcome, tuple) or len(outcome) != 2:
        raise ConfigError("a step must return two things: the new state, and its loss or a dict with 'loss'")
    new_state, metrics = outcome
    if isinstance(metrics, Mapping) and "loss" not in metrics:
        raise ConfigError(f"a step's metrics must have 'loss'; got {sorted(metrics)}")
    if getattr(_loss_of(metrics), "shape", None) != ():
        raise ConfigError(f"a step's loss must be a scalar; got {_loss_of(metrics)}")
    before, after = (
        jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree) for tree in (state, new_state)
    )
    if before != after:
        raise ConfigError(
            "a step must return a state of the structure, shapes and dtypes of the one that it takes: "
            f"took {before}, returned {after}"
        )
