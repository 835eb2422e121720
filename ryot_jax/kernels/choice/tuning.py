"""Measurement of an op's implementations, forward and backward, on the shapes of one training step.

An implementation is timed only after its results have passed an accuracy gate, interleaved with the others in random
order. Whole training steps and the file on disk are left to `runs.tuning` and `choice.cache`.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels.choice import own_process
from ryot_jax.kernels.choice.benchmark import benchmark, compiled, described, truth
from ryot_jax.kernels.declaration import Benchmark, Op, Spec
from ryot_jax.kernels.resolution import tunable
from ryot_jax.runtime.statistics import CONFIDENCE, ratio_interval

SECONDS = 2.0  # of timing per op
_MIN_ROUNDS, _MAX_ROUNDS = 7, 40
_MIN_MEASURED_SECONDS = 0.01  # a measurement repeats the call until it takes this long

# Largest relative error (L2, of any output or gradient) that rounding in a dtype explains: several times the
# reference's errors at the sizes of configs/scaled.py.
_TOLERANCES = {"float32": 2e-5, "bfloat16": 2e-2, "float16": 4e-3}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The outcome of measuring one implementation.

    Attributes:
      error: relative error against the float32 reference, or the benchmark's own error. None: not computed.
      tolerance: the largest error that passes.
      milliseconds: median time of one call, forward and backward; None if it failed.
      speedup: geometric mean of the reference's time over this implementation's.
      interval: 95 % t interval of `speedup`; None if undefined, as for the reference itself.
      memory_bytes: temporary memory of the compiled program; None if the compiler does not report it.
      failure: the reason why it was not timed; empty if it was.
    """

    error: float | None = None
    tolerance: float | None = None
    milliseconds: float | None = None
    speedup: float | None = None
    interval: tuple[float, float] | None = None
    memory_bytes: int | None = None
    failure: str = ""


def tune(
    op: Op,
    spec: Spec,
    names: Sequence[str] | None = None,
    *,
    seed: int = 0,
    seconds: float = SECONDS,
    apart: bool | None = None,
) -> tuple[str, dict[str, Measurement]]:
    """The fastest implementation of `op` for `spec`, and the measurement of each one.

    The winner is faster than the reference by more than noise: the interval of its speed-up lies above one. If no
    implementation is, the reference wins.

    Args:
      op: the op.
      spec: the work.
      names: implementations to measure, the reference first; None: all of `tunable`.
      seed: seed of the arrays and of the order of calls.
      seconds: total time of the measurements.
      apart: whether implementations not compiled by XLA alone are tried in a separate process first, see
        `own_process`; None: on a GPU only.
    """
    measured: dict[str, Measurement] = {}
    programs: dict[str, Callable[[], Any]] = {}
    apart = spec.platform == "gpu" if apart is None else apart
    arrays = benchmark(op, spec, seed=seed)
    error_of = arrays.error or functools.partial(relative_error, truth=truth(arrays, spec.platform))
    for name in tunable(op, spec) if names is None else names:
        is_alone = apart and not op.implementations[name].is_compiled_by_xla
        if is_alone and (failure_text := own_process.failure_of(op, spec, name, seed=seed)):
            measured[name] = Measurement(failure=failure_text)
            continue
        try:
            program, memory = compiled(arrays, name)
            error = error_of(program())
        except Exception as failure:  # of any kind: a compiler's, the runtime's, a kernel's own
            measured[name] = Measurement(failure=described(failure))
            continue
        tolerance = _tolerance(op, name, spec, arrays, measured)
        passed = error <= tolerance or name == op.reference
        failure_text = "" if passed else f"error {error:.1e} above {tolerance:.0e}"
        measured[name] = Measurement(error, tolerance, memory_bytes=memory, failure=failure_text)
        if passed:
            programs[name] = program
    seconds_by_name = race(programs, seconds=seconds, seed=seed)
    measured |= {name: timed(measured[name], seconds_by_name, name, op.reference) for name in programs}
    winners = {n: t.speedup for n, t in measured.items() if t.speedup and t.interval and t.interval[0] > 1}
    return max(winners, key=lambda name: winners[name] or 0.0, default=op.reference), measured


def race(calls: Mapping[str, Callable[[], Any]], *, seconds: float, seed: int = 0) -> dict[str, list[float]]:
    """Seconds of each call in each of several rounds; a round runs every call once, in a newly drawn order."""
    for call in calls.values():  # the first call costs more
        jax.block_until_ready(call())
    repeats = {name: max(1, math.ceil(_MIN_MEASURED_SECONDS / _seconds(call, 1))) for name, call in calls.items()}
    one_round = sum(repeats[name] * _seconds(call, repeats[name]) for name, call in calls.items())
    rounds = int(seconds / max(one_round, 1e-9))
    order = np.random.default_rng(seed)
    seconds_by_name: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(min(max(rounds, _MIN_ROUNDS), _MAX_ROUNDS)):
        for name in order.permutation(list(calls)):
            seconds_by_name[name].append(_seconds(calls[name], repeats[name]))
    return seconds_by_name


def timed(measurement: Measurement, seconds: Mapping[str, Sequence[float]], name: str, base: str) -> Measurement:
    """The measurement with the times of `name` filled in, and its speed-up over `base` unless they are the same."""
    measurement = dataclasses.replace(measurement, milliseconds=1e3 * float(np.median(seconds[name])))
    if name == base or base not in seconds:
        return measurement
    speedup, interval = ratio_interval(seconds[base], seconds[name], CONFIDENCE)
    return dataclasses.replace(measurement, speedup=speedup, interval=interval)


def relative_error(found: Any, truth: Any) -> float:
    """The largest relative L2 distance between leaves of two pytrees; infinite if any number is not finite."""
    errors = []
    for leaf, true_leaf in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
        leaf, true_leaf = (np.asarray(x.astype(jnp.float32), np.float64) for x in (leaf, true_leaf))
        error = np.linalg.norm(leaf - true_leaf) / max(np.linalg.norm(true_leaf), np.finfo(np.float32).tiny)
        errors.append(float(error) if np.isfinite(error) else math.inf)
    return max(errors, default=0.0)


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / repeats


def _tolerance(op: Op, name: str, spec: Spec, arrays: Benchmark, measured: Mapping[str, Measurement]) -> float:
    if arrays.largest_error is not None:
        return arrays.largest_error
    dtype = op.implementations[name].rounding or arrays.rounding or spec.dtype
    reference = measured[op.reference].error if op.reference in measured else None
    # A GPU may compute float32 products with fewer bits, the reference's as well.
    return max(_TOLERANCES[dtype], 2 * (reference or 0.0))
