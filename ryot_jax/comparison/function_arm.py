"""An arm of the comparison made of a user-supplied step function; what is compared is left to `compare`."""

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
    """A step ready to be called.

    Attributes:
      call: `(state, batch) -> (state, metrics)`.
      compile_seconds: of 'trace', 'lower' and 'compile'; zeros where nothing was compiled.
      memory_bytes: arguments and temporaries; None where not known.
      fingerprint: of the compiled program without names; '' where nothing was compiled.
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
    """`step -> batch`; a sequence is gone through again and again.

    Raises:
      ConfigError: a sequence without an element, or neither a sequence nor callable.
    """
    if callable(batches):
        return batches
    if not isinstance(batches, Sequence) or not batches:
        raise ConfigError(
            f"batches must be a function of the step or a sequence with a batch or more; got {type(batches).__name__}"
        )
    return lambda step: batches[step % len(batches)]


def compile_arm(step: Step, state: Any, batch: Any, *, jit: bool) -> StepProgram:
    """Compiles a step for the shapes of a state and a batch, with the clock running.

    Raises:
      ConfigError: the step does not give a state like the one that it takes, and a scalar loss.
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
    """An `Arm` of the paired protocol.

    Attributes:
      name: of the arm.
      program: its step.
      initial_state: copied before the first step, so that steps may donate their state.
      stream: its batches.
      evaluator: `state -> losses[n]`, or None.
      items: what throughput counts in one step.
    """

    name: str
    program: StepProgram
    initial_state: Any
    stream: Stream
    evaluator: Callable[[Any], Any] | None
    items: int

    def __post_init__(self) -> None:
        """Starts from a copy of the initial state."""
        self.state = _copy(self.initial_state)
        self.step = 0
        self.seconds_spent = 0.0
        self._batches_sha256 = hashlib.sha256(b"").hexdigest()

    def twin(self, name: str) -> "FunctionArm":
        """Another arm at the start, of the same program."""
        return dataclasses.replace(self, name=name)

    def params_hash(self) -> str:
        """Digest of the present state."""
        return tree_hash(self.state)

    def batches_hash(self) -> str:
        """Running digest of every batch that the arm was fed."""
        return self._batches_sha256

    def warm_up(self) -> None:
        """One step on a copy of the state: what a first execution costs more is not a step's time."""
        jax.block_until_ready(self.program.call(_copy(self.state), self.stream(self.step)))

    def run_block(self, n_steps: int) -> _Block:
        """Takes `n_steps` steps; the device is idle before and after, and batches are made before the clock runs.

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
        """Held-out losses of the present state.

        Raises:
          ConfigError: `evaluate` did not give a vector of losses.
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
