"""A race of whole training steps between a few kernel plans: what 'auto' takes on a machine where nothing is known yet.

Flags of a processor do not tell what is fast on it. The race is of the work itself, short, and held once: the cache of
`kernels.choice` keeps the outcome for this machine, these versions, sizes and switches. `ryot tune` measures op by op.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ryot_jax.kernels import cpu
from ryot_jax.kernels.catalogue import ops
from ryot_jax.kernels.choice import tuning
from ryot_jax.kernels.choice.cache import Entry
from ryot_jax.kernels.choice.tuning import Measurement
from ryot_jax.kernels.declaration import Op, Optimization, Spec
from ryot_jax.kernels.resolution import refusal
from ryot_jax.machine.processor import describe_processor
from ryot_jax.optimizations import OPTIMIZATIONS, KernelPlan, activations_dtype, resolve
from ryot_jax.runs.plan_steps import compiled_steps
from ryot_jax.runs.session import Session, whole_step
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.statistics import CONFIDENCE, ratio_interval

SECONDS = 15.0  # of timing in all
SECONDS_IN_ALL = 30.0  # with compilation: where that takes longer, less is left for timing, but always a third
_WORKERS_SHARE = 0.2  # of it, for the number of threads
_MOST_ROUNDS = 12
_ROUNDS_IN = 3  # after which a plan may drop out, if
_BEHIND = 1.25  # times the leader's time is less than its own, beyond noise
_ENOUGH = 5  # rounds for an interval to tell
_MATTERS = 1.1  # times as fast: what is undecided below it counts as no gain

REFERENCE = "reference"


def is_needed(session: Session) -> bool:
    """Whether the choice for 'auto' depends on speed, and no earlier measurement tells."""
    if session.kernels_before is not None or session.devices.platform != "cpu" or session.raced is not None:
        return False
    automatic = [o for o in _raced() if session.config.optimizations[o.name] == "auto"]
    return bool(automatic) and len(plans(session.config, session.spec)) > 1


def plans(config: ConfigDict, spec: Spec) -> dict[str, KernelPlan]:
    """The plans that race, by name, each once: the reference, the C++ kernels by dtype, and XLA's rewrites.

    Optimizations that are no matter of an op's speed are resolved by the static order in all plans.
    """
    wanted = config.optimizations
    automatic = [o.name for o in _raced() if wanted[o.name] == "auto"]
    named: dict[str, KernelPlan] = {}

    def add(name: str, **changes: str) -> None:
        try:
            plan = resolve({**wanted, **changes}, spec=spec).plan
        except ConfigError:  # not with the rest of this config, whose own mistakes the reference shows
            if not named:
                raise
            return
        if plan not in named.values():
            named[name] = plan

    add(REFERENCE, **dict.fromkeys(automatic, "off"))
    setting = [o for o in OPTIMIZATIONS if o.sets and o.name in automatic]
    add(f"kernels in {spec.dtype}", **{o.name: "off" for o in setting})
    for optimization in setting:
        for dtype in optimization.alternatives:
            if optimization.implementations[dtype].drawback(spec, wanted) is None:
                add(f"kernels in {dtype}", **{optimization.name: dtype})
    by_xla = [o for o in ops() if o.name in automatic and _is_possible(o, "xla", spec)]
    # Beside C++ kernels XLA's have a chance where they multiply in bfloat16.
    if cpu.unavailable_reason(spec.dtype) is not None or any(o.implementations["xla"].rounding for o in by_xla):
        add("XLA's rewrites", **{**dict.fromkeys(automatic, "off"), **{o.name: "xla" for o in by_xla}})
    return named


def race(session: Session, *, seconds: float = SECONDS) -> Entry | None:
    """Times steps of each plan, stores the choice in the session's cache, and tells it to the log.

    Args:
      session: a session whose `raced` is None.
      seconds: the most seconds of timing in all, but for two rounds.

    Returns:
      What was stored; None if a plan seems faster, but not beyond noise: the static order holds, and the next run races
      again.
    """
    config, spec = session.config, session.spec
    field = plans(config, spec)
    session.log(
        f"kernels: no measurement of these sizes on this machine: steps of {', '.join(field)} race for about "
        f"{seconds:.0f} s, once (--config.runtime.tune=off takes a fixed order)"
    )
    start = time.perf_counter()
    measured, calls = compiled_steps(config, session.model, field)
    compiled = time.perf_counter()
    seconds = min(seconds, max(seconds / 3, SECONDS_IN_ALL - (compiled - start)))
    times = laps(calls, seconds=seconds * (1 - _WORKERS_SHARE))
    measured |= {name: _timed(measured[name], times, name) for name in calls}
    for name, measurement in measured.items():
        session.log(f"  {name}: {_described(measurement)}")
    chosen = winner(times)
    took = f"{time.perf_counter() - compiled:.1f} s of timing, {compiled - start:.1f} s of compiling"
    if chosen is None:
        session.log(f"kernels: undecided beyond noise: the fixed order holds, and the next run races again; {took}")
        return None
    workers, threads_text = 0, ""
    if "cpu" in field[chosen].values():
        workers, threads_text = _fewer_workers(calls[chosen], seconds=seconds * _WORKERS_SHARE)
        took = f"{time.perf_counter() - compiled:.1f} s of timing, {compiled - start:.1f} s of compiling"
    summary = _summary(chosen, measured[chosen], field, spec.dtype) + threads_text
    session.log(f"kernels: {summary}; {took}")
    differing = [name for name in field[chosen] if len({plan[name] for plan in field.values()}) > 1]
    plan = {name: field[chosen][name] for name in differing}
    steps = {name: dataclasses.asdict(measurement) for name, measurement in measured.items()}
    entry = Entry(chosen, summary, {}, steps, plan=plan, workers=workers)
    session.tuning_cache.store(whole_step(config), spec, entry)
    return entry


def laps(calls: Mapping[str, Callable[[], Any]], *, seconds: float, seed: int = 0) -> dict[str, list[float]]:
    """Seconds of each call, round by round in a newly drawn order; a call that is behind beyond noise drops out early.

    Args:
      calls: calls that have run once before, as a first call costs more.
      seconds: seconds in all; two rounds are run in any case.
      seed: of the order.
    """
    deadline = time.perf_counter() + seconds
    order = np.random.default_rng(seed)
    times: dict[str, list[float]] = {name: [] for name in calls}
    running = list(calls)
    for number in range(_MOST_ROUNDS):
        if len(running) == 1:
            break
        if number >= 2 and time.perf_counter() + sum(times[name][-1] for name in running) > deadline:
            break
        for name in order.permutation(running):
            start = time.perf_counter()
            jax.block_until_ready(calls[name]())
            times[name].append(time.perf_counter() - start)
        if number + 1 >= _ROUNDS_IN:
            leader = min(running, key=lambda name: float(np.median(times[name])))
            running = [name for name in running if not _is_faster(times[leader], times[name], by=_BEHIND)]
    return times


def winner(times: Mapping[str, list[float]]) -> str | None:
    """The plan to take: the first one, or one that is faster than it by more than noise.

    Of those, a later one wins over an earlier one by more than noise too: the order is that of the least change. None:
    no plan wins over the first, although one seems to be faster by more than _MATTERS.
    """
    first, *others = times
    best = first
    for name in others:
        if _is_faster(times[name], times[best]):
            best = name
    if best == first and any(_ratio(times[first], times[name])[0] > _MATTERS for name in others):
        return None
    return best


def _is_faster(faster: list[float], slower: list[float], *, by: float = 1.0) -> bool:
    """Whether the t interval of the ratio lies above 1, and its mean above `by`.

    Of fewer than _ENOUGH rounds, where such intervals are wide: whether every round of the one took less time than any
    of the other, by a tenth.
    """
    mean, interval = _ratio(slower, faster)
    if len(faster) < _ENOUGH and max(faster) * 1.1 < min(slower):
        return mean > by
    return interval is not None and interval[0] > 1 and mean > by


def _fewer_workers(call: Callable[[], Any], *, seconds: float) -> tuple[int, str]:
    """Half of the threads if the step is faster with them, for cores that are two threads of one; else 0."""
    cores = describe_processor().usable_cores
    if cores < 2:
        return 0, ""
    half = cores // 2

    def with_half() -> Any:
        with cpu.workers_limited_to(half):
            return jax.block_until_ready(call())

    times = laps({"all": call, "half": with_half}, seconds=seconds)
    if _is_faster(times["half"], times["all"]):
        return half, f", with {half} of {cores} threads"
    return 0, f", with all {cores} threads"


def _raced() -> list[Optimization]:
    """The optimizations among whose implementations a step's speed decides: ops, and the dtype between them."""
    return [o for o in OPTIMIZATIONS if o.plan_without or (isinstance(o, Op) and o.is_benchmarked)]


def _is_possible(optimization: Optimization, implementation: str, spec: Spec) -> bool:
    return implementation in optimization.implementations and refusal(optimization, implementation, spec) is None


def _ratio(slower: list[float], faster: list[float]) -> tuple[float, tuple[float, float] | None]:
    both = min(len(slower), len(faster))
    return ratio_interval(slower[:both], faster[:both], CONFIDENCE)


def _timed(measurement: Measurement, times: Mapping[str, list[float]], name: str) -> Measurement:
    both = min(len(times[name]), len(times[REFERENCE]))
    rounds = {name: times[name][:both], REFERENCE: times[REFERENCE][:both]}
    return tuning.timed(measurement, rounds, name, REFERENCE)


def _described(measurement: Measurement) -> str:
    if measurement.milliseconds is None:
        return f"failed: {measurement.failure}"
    text = f"{measurement.milliseconds:.1f} ms"
    if measurement.speedup is not None and measurement.interval is not None:
        low, high = measurement.interval
        text += f", {measurement.speedup:.2f} times the reference ({low:.2f} to {high:.2f})"
    return text


def _summary(chosen: str, measurement: Measurement, field: Mapping[str, KernelPlan], dtype: str) -> str:
    if chosen == REFERENCE:
        return f"nothing pays here: no plan's step of {len(field)} is faster than the reference's beyond noise"
    plan = field[chosen]
    instructions = f" ({cpu.instruction_set(activations_dtype(plan, dtype))})" if "cpu" in plan.values() else ""
    speedup = measurement.speedup if measurement.speedup is not None else math.nan
    low, high = measurement.interval or (math.nan, math.nan)
    return f"{chosen}{instructions}, {speedup:.2f} times the reference's step ({low:.2f} to {high:.2f})"
