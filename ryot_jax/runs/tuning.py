"""Tunes the kernels of a config: ops first, then whole training steps; the fastest kernel plan is stored.

The gain of an op can vanish within the step, so kernel plans are confirmed there before they are stored.
`kernels.choice.tuning` measures one op, `kernels.choice.cache` keeps the files.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from ml_collections import ConfigDict

from ryot_jax.kernels.catalogue import ops as all_ops
from ryot_jax.kernels.choice import tuning
from ryot_jax.kernels.choice.cache import Entry, TuningCache
from ryot_jax.kernels.choice.tuning import Measurement
from ryot_jax.kernels.declaration import Op, Optimization, Spec
from ryot_jax.kernels.resolution import measurable
from ryot_jax.model import ModelConfig
from ryot_jax.optimizations import OPTIMIZATIONS, KernelPlan, resolve
from ryot_jax.runs.plan_steps import compiled_steps
from ryot_jax.runs.session import whole_step
from ryot_jax.runtime.statistics import CONFIDENCE, ratio_interval

STEP_SECONDS = 20.0  # seconds of timing, for all kernel plans together

REFERENCE, TUNED, STATIC = "reference", "tuned", "static order"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of tuning.

    Attributes:
      ops: measurements of the implementations of each measured op.
      winners: the fastest implementation of each measured op by itself.
      steps: measurement of the training step of each kernel plan; speed-ups are over the reference's step.
      chosen: name of the fastest kernel plan.
      plan: the fastest kernel plan.
    """

    ops: Mapping[str, Mapping[str, Measurement]]
    winners: Mapping[str, str]
    steps: Mapping[str, Measurement]
    chosen: str
    plan: KernelPlan

    def table(self) -> list[str]:
        """The measurements as lines of text, with one column for the subject and one for the numbers."""
        blocks = [*self.ops.items(), ("training step", self.steps)]
        rows = [(title, name, measurement) for title, measured in blocks for name, measurement in measured.items()]
        width = max(len(name) for _, name, _ in rows)
        lines = [f"{'':<21}{'':<{width}}  {'ms':>8}  {'times reference (95 %)':<23}  {'error':>7}  {'MiB':>7}"]
        for title, name, measurement in rows:
            best = name == (self.chosen if title == "training step" else self.winners[title])
            lines.append(f"{title:<21}{name:<{width}}  {_cells(measurement)}{'  <- ' if best else ''}".rstrip())
        changed = [op for op in self.winners if self.plan[op] != self.winners[op]]
        return [*lines, *(f"{op}: {self.plan[op]}, as the whole step is faster with it" for op in changed)]


def _cells(measurement: Measurement) -> str:
    if measurement.milliseconds is None:
        return f"failed: {measurement.failure}"
    speedup = ""
    if measurement.speedup is not None and measurement.interval is not None:
        speedup = f"{measurement.speedup:.2f} ({measurement.interval[0]:.2f} to {measurement.interval[1]:.2f})"
    error = "" if measurement.error is None else f"{measurement.error:.1e}"
    memory = "" if measurement.memory_bytes is None else f"{measurement.memory_bytes / 2**20:,.1f}"
    return f"{measurement.milliseconds:>8.2f}  {speedup:<23}  {error:>7}  {memory:>7}"


def tune(
    config: ConfigDict,
    model: ModelConfig,
    spec: Spec,
    cache: TuningCache,
    *,
    log: Callable[[str], None],
    op_seconds: float = tuning.SECONDS,
    step_seconds: float = STEP_SECONDS,
) -> Outcome:
    """Measures every op that the config leaves to 'auto', confirms the winners in whole steps and stores them.

    Args:
      config: the config whose shapes are measured.
      model: its model config.
      spec: the sizes of its training step, from `kernel_spec`.
      cache: receives the outcome.
      log: called with one line before each measurement.
      op_seconds: seconds of timing per op.
      step_seconds: seconds of timing for all kernel plans together.

    Raises:
      ConfigError: an optimization requested by name does not support the work.
    """
    static = resolve(config.optimizations, spec=spec).plan
    spec = _after(static, spec)
    ops: dict[str, Mapping[str, Measurement]] = {}
    winners: dict[str, str] = {}
    for op in all_ops():
        names = measurable(op, spec, config.optimizations)
        if op.is_benchmarked and config.optimizations[op.name] == "auto" and len(names) > 1:
            log(f"tuning {op.name}: {', '.join(names)}")
            winners[op.name], ops[op.name] = tuning.tune(op, spec, names, seconds=op_seconds)
    plans = _plans(config, spec, static, winners)
    log(f"tuning whole training steps: {'; '.join(plans)}")
    steps, seconds = _time_steps(config, model, plans, step_seconds)
    tuned = static.replace(**winners)
    chosen = choose(next(name for name, plan in plans.items() if plan == tuned), seconds)
    outcome = Outcome(ops, winners, steps, chosen, plans[chosen])
    _store(outcome, config, spec, cache)
    return outcome


def choose(preferred: str, seconds: Mapping[str, Sequence[float]]) -> str:
    """The name of the preferred kernel plan, or of the fastest plan if that is faster by more than noise.

    Args:
      preferred: name of the preferred plan.
      seconds: times of each plan, round by round; plans that failed are absent.
    """
    if preferred not in seconds:
        preferred = STATIC if STATIC in seconds else REFERENCE
    faster = {
        name: speedup
        for name in seconds
        if name != preferred
        for speedup, interval in [ratio_interval(seconds[preferred], seconds[name], CONFIDENCE)]
        if interval is not None and interval[0] > 1
    }
    return max(faster, key=lambda name: faster[name], default=preferred)


def _plans(config: ConfigDict, spec: Spec, static: KernelPlan, winners: Mapping[str, str]) -> dict[str, KernelPlan]:
    """The kernel plans to time whole steps with, by name, each plan once.

    Optimizations that no measurement decides are resolved by the static order in all plans: the timing is of one step,
    independent of the number of steps per call and of the weights that the loss sees.
    """
    kept = {o.name: static[o.name] for o in OPTIMIZATIONS if not o.plan_without and not _is_benchmarked(o)}
    named = [(REFERENCE, KernelPlan(**kept)), (TUNED, static.replace(**winners)), (STATIC, static)]
    for op, name in winners.items():
        named.append((f"static order but {op}={name}", static.replace(**{op: name})))
    for optimization in _measured_in_steps(config):
        if static[optimization.name] == optimization.reference:
            continue
        without = static.replace(**{optimization.name: optimization.reference})
        if optimization.sets:  # others were resolved for it
            off = {**config.optimizations, optimization.name: "off"}
            without = resolve(off, spec=_after(KernelPlan(), spec)).plan
        named.append((optimization.plan_without, without))
    names = {plan: name for name, plan in reversed(named)}
    return {name: plan for name, plan in named if names[plan] == name}


def _time_steps(
    config: ConfigDict, model: ModelConfig, plans: Mapping[str, KernelPlan], seconds: float
) -> tuple[dict[str, Measurement], dict[str, list[float]]]:
    """The measurement of each kernel plan's step, and the seconds of each round of the plans that passed."""
    measured, calls = compiled_steps(config, model, plans)
    seconds_by_name = tuning.race(calls, seconds=seconds)
    return measured | {n: tuning.timed(measured[n], seconds_by_name, n, REFERENCE) for n in calls}, seconds_by_name


def _store(outcome: Outcome, config: ConfigDict, spec: Spec, cache: TuningCache) -> None:
    """Stores one entry for each measured optimization."""
    steps = {name: dataclasses.asdict(measurement) for name, measurement in outcome.steps.items()}
    plan, chosen = outcome.plan, outcome.steps[outcome.chosen]
    for optimization in _measured_in_steps(config):
        summary = f"{optimization.implementation(plan)} in the fastest plan ({outcome.chosen})"
        if optimization.sets:
            summary += f"; its step is {chosen.speedup:.1f} times as fast as the reference" if chosen.speedup else ""
            works = [_after(KernelPlan(), spec)]
        else:  # the work is the same whatever the fastest plan has set
            works = [_after(KernelPlan(), spec), _after(plan, spec)]
        for work in works:
            cache.store(optimization.name, work, Entry(plan[optimization.name], summary, {}, steps))
    raced = {o.name: plan[o.name] for o in OPTIMIZATIONS if o.plan_without or _is_benchmarked(o)}
    left = {name: chosen_name for name, chosen_name in raced.items() if config.optimizations[name] == "auto"}
    told = f"{outcome.chosen} in `ryot tune`" + (
        f", {chosen.speedup:.2f} times the reference's step" if chosen.speedup else ""
    )
    cache.store(whole_step(config), _after(KernelPlan(), spec), Entry(outcome.chosen, told, {}, steps, plan=left))
    if _after(plan, spec) != spec:
        return  # the ops were measured with another dtype between them; for this one the static order holds
    for op, measured in outcome.ops.items():
        name, best = plan[op], outcome.winners[op]
        speedup = measured[name].speedup
        summary = f"{name} {speedup:.1f} times reference" if speedup else f"{name}, which nothing beats"
        if name != best:
            summary += f"; {best} is slower in the whole step"
        json_values = {name: dataclasses.asdict(measurement) for name, measurement in measured.items()}
        cache.store(op, spec, Entry(name, summary, json_values, steps))


def _after(plan: KernelPlan, spec: Spec) -> Spec:
    """The sizes of the step after the optimizations that set a field of them."""
    for optimization in OPTIMIZATIONS:
        spec = optimization.applied(spec, plan[optimization.name])
    return spec


def _measured_in_steps(config: ConfigDict) -> list[Optimization]:
    return [o for o in OPTIMIZATIONS if o.plan_without and config.optimizations[o.name] == "auto"]


def _is_benchmarked(optimization: Optimization) -> bool:
    return isinstance(optimization, Op) and optimization.is_benchmarked
