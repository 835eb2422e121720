"""Tune the kernels of a config: the ops first, then whole training steps, and keep what won.

An op's victory can vanish within the step, so plans are confirmed there before they are stored. How one op is
measured is left to `kernels.tuning`, the files to `kernels.tuning_cache`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ryot_jax.kernels import KernelPlan, Spec, resolve
from ryot_jax.kernels.choice import tuning
from ryot_jax.kernels.choice.cache import Entry, TuningCache
from ryot_jax.kernels.choice.tuning import Trial, paired_speedup
from ryot_jax.kernels.plan import shown, tunable
from ryot_jax.model import ModelConfig
from ryot_jax.training.optimizer import make_optimizer
from ryot_jax.training.parallel import CompiledStep, compile_step
from ryot_jax.training.state import init_state
from ryot_jax.training.step_programs import step_function

STEP_SECONDS = 20.0  # of timing, for all plans together
# Largest relative difference of a first step's loss and gradient norm from the baseline's: bfloat16 between the ops
# makes some 0.001 (scaled run), a wrong kernel another number altogether.
_STEP_TOLERANCE = 0.05

REFERENCE, TUNED, STATIC, WITHOUT_BF16 = "reference", "tuned", "static order", "static order, no bfloat16 between ops"
WITHOUT_ADAMW = "static order, XLA's AdamW"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What tuning found.

    Attributes:
      ops: for each op that was measured, the trials of its implementations.
      winners: the fastest implementation of each of these ops by itself.
      steps: for each plan whose training step was measured, its trial; speed-ups are over the reference's step.
      chosen: the name of the plan to use.
      plan: that plan.
    """

    ops: Mapping[str, Mapping[str, Trial]]
    winners: Mapping[str, str]
    steps: Mapping[str, Trial]
    chosen: str
    plan: KernelPlan

    def table(self) -> list[str]:
        """The measurements as lines of text, a column each for what was measured and what was found."""
        blocks = [*self.ops.items(), ("training step", self.steps)]
        rows = [(title, name, trial) for title, trials in blocks for name, trial in trials.items()]
        width = max(len(name) for _, name, _ in rows)
        lines = [f"{'':<21}{'':<{width}}  {'ms':>8}  {'times reference (95 %)':<23}  {'error':>7}  {'MiB':>7}"]
        for title, name, trial in rows:
            best = name == (self.chosen if title == "training step" else self.winners[title])
            lines.append(f"{title:<21}{name:<{width}}  {_cells(trial)}{'  <- ' if best else ''}".rstrip())
        changed = [op for op in self.winners if getattr(self.plan, op) != self.winners[op]]
        return [*lines, *(f"{op}: {getattr(self.plan, op)}, as the whole step is faster with it" for op in changed)]


def _cells(trial: Trial) -> str:
    if trial.milliseconds is None:
        return f"failed: {trial.failure}"
    speedup = ""
    if trial.speedup is not None and trial.interval is not None:
        speedup = f"{trial.speedup:.2f} ({trial.interval[0]:.2f} to {trial.interval[1]:.2f})"
    error = "" if trial.error is None else f"{trial.error:.1e}"
    memory = "" if trial.memory_bytes is None else f"{trial.memory_bytes / 2**20:,.1f}"
    return f"{trial.milliseconds:>8.2f}  {speedup:<23}  {error:>7}  {memory:>7}"


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
      model: its model.
      spec: its work, of `kernel_spec`.
      cache: where to keep the outcome.
      log: told what is being measured.
      op_seconds: of timing, for one op.
      step_seconds: of timing, for all plans together.

    Raises:
      ConfigError: an optimization is asked for by name and cannot take the work.
    """
    static = resolve(config.optimizations, spec=spec).plan
    spec = dataclasses.replace(spec, activations=static.activations)
    ops: dict[str, Mapping[str, Trial]] = {}
    winners: dict[str, str] = {}
    for op in tuning.BENCHMARKS:
        candidates = tunable(op, spec)
        if config.optimizations[op] == "auto" and len(candidates) > 1:
            log(f"tuning {op}: {', '.join(candidates)}")
            winners[op], ops[op] = tuning.tune(op, spec, seconds=op_seconds)
    plans = _plans(config, spec, static, winners)
    log(f"tuning whole training steps: {'; '.join(plans)}")
    steps, seconds = _time_steps(config, model, plans, step_seconds)
    tuned = dataclasses.replace(static, **winners)
    chosen = choose(next(name for name, plan in plans.items() if plan == tuned), seconds)
    outcome = Outcome(ops, winners, steps, chosen, plans[chosen])
    _store(outcome, config, spec, cache)
    return outcome


def choose(preferred: str, seconds: Mapping[str, Sequence[float]]) -> str:
    """The preferred plan, unless others are faster by more than noise: then the fastest of those.

    `seconds` holds each plan's times, round by round; a plan that failed is not in it.
    """
    if preferred not in seconds:
        preferred = STATIC if STATIC in seconds else REFERENCE
    faster = {
        name: speedup
        for name in seconds
        if name != preferred
        for speedup, (low, _) in [paired_speedup(seconds[preferred], seconds[name])]
        if low > 1
    }
    return max(faster, key=lambda name: faster[name], default=preferred)


def _plans(config: ConfigDict, spec: Spec, static: KernelPlan, winners: Mapping[str, str]) -> dict[str, KernelPlan]:
    """The plans to take whole steps with, by name, each plan once.

    All have the dispatch and the qat of the static order: what is timed is a step, not how many of them go into a call
    or whose weights it sees.
    """
    reference = KernelPlan(dispatch=static.dispatch, qat=static.qat)
    named = [(REFERENCE, reference), (TUNED, dataclasses.replace(static, **winners)), (STATIC, static)]
    for op, name in winners.items():
        named.append((f"static order but {op}={name}", dataclasses.replace(static, **{op: name})))
    if config.optimizations.activations == "auto" and static.activations:
        off = {**config.optimizations, "activations": "off"}
        named.append((WITHOUT_BF16, resolve(off, spec=dataclasses.replace(spec, activations="")).plan))
    if config.optimizations.optimizer == "auto":  # measured here alone: it has no gradients, as the ops have
        named.append((WITHOUT_ADAMW, dataclasses.replace(static, optimizer="reference")))
    names = {plan: name for name, plan in reversed(named)}
    return {name: plan for name, plan in named if names[plan] == name}


def _time_steps(
    config: ConfigDict, model: ModelConfig, plans: Mapping[str, KernelPlan], seconds: float
) -> tuple[dict[str, Trial], dict[str, list[float]]]:
    """A trial of each plan's step, and the seconds of each round of those that passed."""
    training = config.training
    optimizer = make_optimizer(training, training.epochs * training.steps_per_epoch)
    graphdef, state = init_state(model, optimizer, config.seed)
    shape = (training.batch_size, training.seq_len + 1)
    tokens = tuning.zipf_tokens(np.random.default_rng(config.seed), model.vocab_size, shape)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    trials: dict[str, Trial] = {}
    programs: dict[str, CompiledStep] = {}
    baseline: dict[str, float] = {}
    for name, plan in plans.items():
        try:
            step_fn = step_function(config, model, graphdef, optimizer, plan)
            program = compile_step(step_fn, state, batch, parallelism=training.parallelism)
            found = jax.device_get(program(jax.tree.map(jnp.copy, state), batch)[1])
        except Exception as failure:  # of any kind: a compiler's, the runtime's, a kernel's own
            if name == REFERENCE:
                raise
            trials[name] = Trial(failure=tuning.described(failure))
            continue
        baseline = baseline or found
        trials[name] = Trial(None, _STEP_TOLERANCE, memory_bytes=program.memory_bytes)
        if model.dropout == 0:  # else other masks give other numbers
            error = max(abs(float(found[key] / baseline[key]) - 1) for key in ("loss", "grad_norm"))
            trials[name] = dataclasses.replace(trials[name], error=error)
            if not error <= _STEP_TOLERANCE:
                failed = f"loss or gradient norm is off by {error:.1e}, above {_STEP_TOLERANCE:.0e}"
                trials[name] = dataclasses.replace(trials[name], failure=failed)
                continue
        programs[name] = program

    current = state  # passed on from program to program: each takes its steps where the one before stopped

    def step(program: CompiledStep) -> Any:
        nonlocal current
        current, metrics = program(current, batch)
        return metrics

    calls = {name: functools.partial(step, program) for name, program in programs.items()}
    seconds_by_name = tuning.race(calls, seconds=seconds)
    return trials | {n: tuning.timed(trials[n], seconds_by_name, n, REFERENCE) for n in programs}, seconds_by_name


def _store(outcome: Outcome, config: ConfigDict, spec: Spec, cache: TuningCache) -> None:
    """One entry for each field of the plan that was left to 'auto'."""
    steps = {name: dataclasses.asdict(trial) for name, trial in outcome.steps.items()}
    plan, chosen = outcome.plan, outcome.steps[outcome.chosen]
    if config.optimizations.activations == "auto":
        times = f"; its step is {chosen.speedup:.1f} times as fast as the reference" if chosen.speedup else ""
        summary = f"{shown(plan.activations)} in the fastest plan ({outcome.chosen}){times}"
        cache.store(
            "activations", dataclasses.replace(spec, activations=""), Entry(plan.activations, summary, {}, steps)
        )
    if config.optimizations.optimizer == "auto":
        summary = f"{plan.optimizer} in the fastest plan ({outcome.chosen})"
        for activations in {"", plan.activations}:  # it takes float32 whatever there is between the ops
            entry = Entry(plan.optimizer, summary, {}, steps)
            cache.store("optimizer", dataclasses.replace(spec, activations=activations), entry)
    if plan.activations != spec.activations:
        return  # the ops were measured with another dtype between them; for this one the static order stands
    for op, trials in outcome.ops.items():
        name, best = getattr(plan, op), outcome.winners[op]
        speedup = trials[name].speedup
        summary = f"{name} {speedup:.1f} times reference" if speedup else f"{name}, which nothing beats"
        if name != best:
            summary += f"; {best} is slower in the whole step"
        json_trials = {name: dataclasses.asdict(trial) for name, trial in trials.items()}
        cache.store(op, spec, Entry(name, summary, json_trials, steps))
