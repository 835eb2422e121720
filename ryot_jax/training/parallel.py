"""Compilation of the training step, ahead of time, for one or many devices.

Three ways to spread a step over devices (`jit` with sharded arrays, `shard_map`, `pmap`) behind one call;
they give the same numbers. A program takes one or several steps per call. `program_check` checks the compiler.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ryot_jax.runtime.compiler import counted_cache_hits
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.field_rules import broken, uneven_batch
from ryot_jax.training.rules import PARALLELISMS
from ryot_jax.training.state import State
from ryot_jax.training.step import Metrics

DATA_AXIS = "data"
# (state, batch, axis_name=None or the name of a mapped axis) -> (state, metrics)
StepFn = Callable[..., tuple[State, Metrics]]


def data_mesh() -> Mesh:
    """A mesh of all devices of this process along the one axis `data`."""
    devices = np.array(jax.local_devices())
    return Mesh(devices, (DATA_AXIS,), axis_types=(AxisType.Auto,))


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A compiled training step, or several in one program; calling it never recompiles.

    Attributes:
      executable: the program.
      parallelism: 'jit', 'shard_map' or 'pmap'.
      steps: training steps per call.
      state_sharding: sharding of the state, replicated on every device.
      batch_sharding: sharding of the batch, with the sequences spread over the devices.
      donate: whether a call consumes its state.
      seconds: seconds of 'trace', 'lower' and 'compile'; for pmap, which cannot trace separately, 'lower' includes it.
      memory_bytes: bytes of arguments, temporaries and results of one call on one device; None if not known.
      from_cache: whether the program came from JAX's compilation cache, so that `seconds` are not those of compiling.
    """

    executable: jax.stages.Compiled
    parallelism: str
    steps: int
    state_sharding: NamedSharding
    batch_sharding: NamedSharding
    donate: bool
    seconds: dict[str, float]
    memory_bytes: int | None
    from_cache: bool

    @property
    def n_devices(self) -> int:
        """Number of devices that the batch is spread over."""
        return self.state_sharding.mesh.size

    def place(self, state: State) -> State:
        """Places the state on every device of the program's mesh; leaves already there are not copied."""
        return jax.device_put(state, self.state_sharding)

    def __call__(self, state: State, batch: Mapping[str, Any]) -> tuple[State, Metrics]:
        """Takes one step, or `steps` of them. With `donate`, `state` must not be used afterwards.

        Args:
          state: a state from `place` or an earlier call; other states are placed first.
          batch: host arrays `[B, ...]` of the whole batch; `[steps, B, ...]` if `steps` > 1.

        Returns:
          The state after the last step, and the metrics: scalars, or `[steps]` if `steps` > 1.
        """
        # Checks one leaf for all: checking every leaf in every step would cost more than it saves.
        if not isinstance(state.step, jax.Array) or state.step.sharding != self.state_sharding:
            state = self.place(state)
        if self.parallelism == "pmap":
            batch = _split_over(batch, self.n_devices)
        return self.executable(state, jax.device_put(batch, self.batch_sharding))

    def hlo_text(self) -> str:
        """The optimized HLO text of the program."""
        return self.executable.as_text() or ""


def compile_step(
    step_fn: StepFn,
    state: State,
    batch: Mapping[str, Any],
    *,
    steps: int = 1,
    parallelism: str = "jit",
    mesh: Mesh | None = None,
    donate: bool = True,
    compiler_options: Mapping[str, Any] | None = None,
) -> CompiledStep:
    """Compiles one step, or several in one program, for the shapes of a state and a batch.

    Args:
      step_fn: `(state, batch, axis_name=...) -> (state, metrics)`, e.g. a partial of `train_step`.
      state: a state; only its shapes and dtypes are used.
      batch: a batch `[B, ...]`, or stacked batches `[steps, B, ...]` if `steps` > 1; only shapes and dtypes are used. B
        is divided among the devices.
      steps: training steps per call, by a scan over the batches.
      parallelism: 'jit' (the compiler places the collectives), 'shard_map' or 'pmap' (the step does).
      mesh: a mesh with one axis 'data'; None: all local devices.
      donate: whether the new state reuses the memory of the old one.
      compiler_options: XLA options of this program.

    Raises:
      ConfigError: the batch cannot be divided evenly, `parallelism` is unknown, or it is 'pmap' and `steps` > 1.
    """
    mesh = data_mesh() if mesh is None else mesh
    row_axis, batch_axes = (0, P(DATA_AXIS)) if steps == 1 else (1, P(None, DATA_AXIS))
    rows = {x.shape[row_axis] for x in jax.tree.leaves(dict(batch))}
    for n_rows in rows:
        if rule := uneven_batch(n_rows, mesh.size):
            raise ConfigError(broken("training.batch_size", n_rows, rule))
    replicated, by_row = NamedSharding(mesh, P()), NamedSharding(mesh, batch_axes)
    donated = (0,) if donate else ()
    if parallelism == "pmap":
        lowered, seconds = _lower_pmap(step_fn, state, batch, steps, replicated, by_row, donated)
    else:
        jitted = jax.jit(
            _global_step(step_fn, steps, parallelism, mesh, batch_axes),
            in_shardings=(replicated, by_row),
            out_shardings=(replicated, replicated),
            donate_argnums=donated,
        )
        shapes = _shapes(state, replicated), _shapes(batch, by_row)
        start = time.perf_counter()
        traced = jitted.trace(*shapes)
        traced_at = time.perf_counter()
        lowered = traced.lower()
        seconds = {"trace": traced_at - start, "lower": time.perf_counter() - traced_at}
    start = time.perf_counter()
    with counted_cache_hits() as hits:
        executable = lowered.compile(compiler_options=dict(compiler_options) if compiler_options else None)
    return CompiledStep(
        executable,
        parallelism,
        steps,
        replicated,
        by_row,
        donate,
        seconds | {"compile": time.perf_counter() - start},
        memory_bytes=_memory_bytes(executable),
        from_cache=bool(hits),
    )


def _lower_pmap(
    step_fn: StepFn,
    state: State,
    batch: Mapping[str, Any],
    steps: int,
    replicated: NamedSharding,
    by_row: NamedSharding,
    donated: tuple[int, ...],
) -> tuple[jax.stages.Lowered, dict[str, float]]:
    """The lowered program of `pmap`, which takes one step, and the seconds that it took."""
    if steps > 1:
        raise ConfigError(
            "training.parallelism = 'pmap': pmap takes one step a call; set optimizations.dispatch = 'off'"
        )
    # in_axes None replicates the state inside; outside it stays one tree without a device axis.
    mapped = jax.pmap(
        lambda s, b: step_fn(s, b, axis_name=DATA_AXIS),
        axis_name=DATA_AXIS,
        in_axes=(None, 0),
        out_axes=None,
        donate_argnums=donated,
        devices=list(replicated.mesh.devices.flat),
    )
    shapes = _shapes(state, replicated), _shapes(_split_over(batch, replicated.mesh.size), by_row)
    start = time.perf_counter()
    lowered = mapped.lower(*shapes)
    return lowered, {"trace": 0.0, "lower": time.perf_counter() - start}


def stack(batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stacks batches `[B, ...]` of several steps to `[steps, B, ...]`, for a program that takes that many per call."""
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def _global_step(
    step_fn: StepFn, steps: int, parallelism: str, mesh: Mesh, batch_axes: P
) -> Callable[..., tuple[State, Metrics]]:
    """The function of one call, one step or a scan over several, on whole arrays."""

    def call(state: State, batch: Mapping[str, Any], axis_name: str | None) -> tuple[State, Metrics]:
        step = functools.partial(step_fn, axis_name=axis_name)
        return step(state, batch) if steps == 1 else jax.lax.scan(step, state, batch, length=steps)

    if parallelism == "jit":
        return functools.partial(call, axis_name=None)
    if parallelism == "shard_map":
        return jax.shard_map(
            functools.partial(call, axis_name=DATA_AXIS),
            mesh=mesh,
            in_specs=(P(), batch_axes),
            out_specs=(P(), P()),
            # The step adds gradients up itself, as under pmap; with the check on, differentiation by
            # replicated params would already have done so, and the sum would be taken twice.
            check_vma=False,
        )
    raise ConfigError(broken("training.parallelism", parallelism, f"must be one of {', '.join(PARALLELISMS)}"))


def _split_over(batch: Mapping[str, Any], n_devices: int) -> dict[str, Any]:
    """[B, ...] -> [n_devices, B / n_devices, ...] for every array."""
    return {k: x.reshape(n_devices, x.shape[0] // n_devices, *x.shape[1:]) for k, x in batch.items()}


def _shapes(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _memory_bytes(executable: jax.stages.Compiled) -> int | None:
    analysis = executable.memory_analysis()
    if analysis is None:
        return None
    return (
        analysis.argument_size_in_bytes
        + analysis.temp_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
    )
