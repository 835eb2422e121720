"""How long until the baseline's final held-out loss? Kernels, step schedules and recipe, each apart and together.

    python -m experiments.time_to_loss --config=configs/scaled.py --seeds 0 1 2 3 4 --write
    python -m experiments.time_to_loss --config=configs/scaled.py --study --seeds 10 --write

Every arm trains on the config's text, from the weights of the same seed, to the end of a plan of its own, whose
learning rate decays to zero: what counts is the loss at the end of a shorter training, not one that a training passes
on its way. A plan is set before, by a first look at one seed (`--study`, which keeps the failures too). An arm has
reached the baseline's loss where the difference of the final losses, seed by seed, is not above zero with its interval;
only then its time says anything. Arms of one seed train one after the other, in an order that changes with the seed.

    baseline   the config's training with no optimization
    kernels    the same with all kernels
    schedule   with kernels, and steps of shorter sequences in smaller batches at first
    recipe     with kernels, and Muon for the matrices
    all        kernels, schedule and recipe

Programs are compiled anew for each arm, without the cache of compiled programs: 'compilation included' is what a first
training on a machine takes. Goals: the schedule alone 0.80 of the time of kernels, 0.90 with compilation; all of them
0.25 of the baseline's time, 0.30 with compilation; at most 6 programs a training, and none that was not planned. Exit
code 0: all reached, 3: one missed, 4: the seeds do not tell. About 25 minutes for five seeds of `scaled.py`.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import record
from experiments.record import Table
from ryot_jax.comparison.arms import init_state, kernel_spec, share, step_function
from ryot_jax.comparison.criteria import Criterion
from ryot_jax.comparison.statistics import ratio_interval, t_interval
from ryot_jax.config import load
from ryot_jax.data.batches import training_iterator
from ryot_jax.data.pipeline import Corpus, prepare
from ryot_jax.kernels import KernelPlan, resolve
from ryot_jax.model.config import from_config
from ryot_jax.runtime.allocator import configure_allocator
from ryot_jax.runtime.compiler import counted_compilations
from ryot_jax.runtime.devices import describe_devices
from ryot_jax.scaling import Static, StepSchedule, check, compose, per_phase
from ryot_jax.training.evaluation import Evaluator
from ryot_jax.training.optimizer import evaluation_params, make_optimizer
from ryot_jax.training.parallel import STEPS_PER_CALL, CompiledStep, compile_step, stack
from ryot_jax.training.scheduled import Programs, ScheduledTrainer, scheduled_dataset, scheduled_rate

Phases = tuple[tuple[int, int, int], ...]  # steps, batch size, sequence length


@dataclasses.dataclass(frozen=True)
class Arm:
    """A training: its steps, None: the config's; with kernels or not; and what differs in `training`."""

    phases: Phases | None = None
    kernels: bool = True
    training: tuple[tuple[str, Any], ...] = ()


def muon(learning_rate: float) -> tuple[tuple[str, Any], ...]:
    """The recipe: Muon for the matrices, with a rate of its own."""
    return (("optimizer", "muon"), ("learning_rate", learning_rate))


def rate(learning_rate: float) -> tuple[tuple[str, Any], ...]:
    """AdamW with another rate."""
    return (("learning_rate", learning_rate),)


# The plans that are judged, chosen by the study below.
ARMS: dict[str, dict[str, Arm]] = {
    "scaled": {
        "baseline": Arm(kernels=False),
        "kernels": Arm(),
        "schedule": Arm(((1000, 32, 32), (400, 16, 64), (100, 32, 128))),
        "recipe": Arm(((270, 32, 128),), training=muon(0.02)),
        "all": Arm(((340, 32, 64), (90, 32, 128)), training=muon(0.02)),
    }
}
# What was looked at first, so that nobody has to look again; all with kernels.
STUDY: dict[str, dict[str, Arm]] = {
    "scaled": {
        "the config's": Arm(),
        "rate 0.006": Arm(training=rate(0.006)),
        "batch 16": Arm(((1600, 16, 128),)),
        "batch 8": Arm(((3200, 8, 128),)),
        "batch 16, 60 %": Arm(((960, 16, 128),), training=rate(0.004)),
        "batch 8, 60 %": Arm(((1920, 8, 128),)),
        "batch 8, 16, 32": Arm(((800, 8, 128), (800, 16, 128), (400, 32, 128))),
        "length 32, 64, 128 at equal steps": Arm(((200, 128, 32), (200, 64, 64), (400, 32, 128))),
        "length 64, batch 16": Arm(((1600, 16, 64), (400, 32, 128))),
        "length 64, batch 16, 50 %": Arm(((800, 16, 64), (200, 32, 128))),
        "the same, most of it short": Arm(((1200, 16, 64), (100, 32, 128))),
        "the same, rate 0.005": Arm(((1200, 16, 64), (100, 32, 128)), training=rate(0.005)),
        "the same, batch 16 to the end": Arm(((1200, 16, 64), (200, 16, 128))),
        "length 64, batch 16, 65 %": Arm(((1400, 16, 64), (170, 32, 128))),
        "the same, rate 0.002": Arm(((1400, 16, 64), (170, 32, 128)), training=rate(0.002)),
        "length 64, batch 32, 65 %": Arm(((700, 32, 64), (170, 32, 128))),
        "length 64, batch 12, 65 %": Arm(((2000, 12, 64), (140, 32, 128))),
        "length 32, 64, 128, 50 %": Arm(((1000, 16, 32), (700, 16, 64), (100, 32, 128))),
        "length 32, 64, 128, 56 %": Arm(((1000, 32, 32), (400, 16, 64), (100, 32, 128))),
        "length 32, 64, 128, 65 %": Arm(((700, 32, 32), (700, 16, 64), (170, 32, 128))),
        "length 32, 128, 50 %": Arm(((1200, 32, 32), (100, 32, 128))),
        "length 16, 32, 128, 50 %": Arm(((600, 64, 16), (600, 32, 32), (100, 32, 128))),
        "Muon": Arm(training=muon(0.02)),
        "Muon, rate 0.01": Arm(training=muon(0.01)),
        "Muon, 50 %": Arm(((400, 32, 128),), training=muon(0.02)),
        "Muon, batch 16, 50 %": Arm(((800, 16, 128),), training=muon(0.02)),
        "Muon, 30 %": Arm(((240, 32, 128),), training=muon(0.02)),
        "Muon, 30 %, rate 0.03": Arm(((240, 32, 128),), training=muon(0.03)),
        "Muon, length 64, 29 %": Arm(((300, 32, 64), (80, 32, 128)), training=muon(0.02)),
        "Muon, length 64, batch 16, 24 %": Arm(((600, 16, 64), (40, 32, 128)), training=muon(0.02)),
        "Muon, length 32, 64, 128, 26 %": Arm(((400, 32, 32), (100, 32, 64), (60, 32, 128)), training=muon(0.02)),
        "Muon, length 32, batch 64, 26 %": Arm(((300, 64, 32), (60, 32, 128)), training=muon(0.02)),
        "Muon, length 32, 128, 23 %": Arm(((500, 32, 32), (60, 32, 128)), training=muon(0.02)),
    }
}


@dataclasses.dataclass(frozen=True)
class Trained:
    """What came of one training.

    Attributes:
      seconds: of all its steps.
      compile_seconds: of its programs.
      loss: held out, at its end, nats/token.
      programs: compiled for it.
      unplanned: programs that were compiled while it ran.
      tokens, steps: that it took.
    """

    seconds: float
    compile_seconds: float
    loss: float
    programs: int
    unplanned: int
    tokens: int
    steps: int


def schedule_of(arm: Arm, config: ConfigDict) -> StepSchedule:
    """The arm's steps."""
    training = config.training
    whole = ((training.epochs * training.steps_per_epoch, training.batch_size, training.seq_len),)
    phases = arm.phases or whole
    schedule = compose(
        batch_size=per_phase([(steps, batch_size) for steps, batch_size, _ in phases]),
        seq_len=per_phase([(steps, seq_len) for steps, _, seq_len in phases]),
    )
    check(schedule, max_len=config.model.max_len, steps_per_call=STEPS_PER_CALL)
    return schedule


def train(config: ConfigDict, arm: Arm, seed: int, corpus: Corpus, evaluator: Evaluator) -> Trained:
    """One training from fresh weights, by programs that are compiled for it."""
    config = config.copy_and_resolve_references().unlock()
    config.seed = seed
    for name, value in arm.training:
        config.training[name] = value
    devices = describe_devices()
    model = from_config(config.model, devices.platform)
    schedule = schedule_of(arm, config)
    # Warm-up takes the share of the tokens that it takes of the config's training.
    steps_of_config = config.training.epochs * config.training.steps_per_epoch
    config.training.warmup_steps = round(config.training.warmup_steps / steps_of_config * schedule.total_steps)
    rate_of_step = scheduled_rate(config.training, schedule)
    optimizer = make_optimizer(config.training, schedule.total_steps, rate_of_step)
    graphdef, state = init_state(model, optimizer, seed)
    plan = KernelPlan()
    if arm.kernels:
        plan = resolve(config.optimizations, spec=kernel_spec(config, model, devices)).plan
    config.training.epochs, config.training.steps_per_epoch = 1, schedule.total_steps
    step_fn = step_function(config, model, graphdef, optimizer, plan, rate_of_step)
    dataset = scheduled_dataset(np.asarray(corpus.train), schedule, seed=seed)

    def compile_static(static: Static) -> CompiledStep:
        shape = (static.batch_size, static.seq_len)
        batch = {name: np.zeros(shape, np.int32) for name in ("inputs", "targets")}
        return compile_step(step_fn, state, stack([batch] * STEPS_PER_CALL), steps=STEPS_PER_CALL)

    programs = Programs(schedule, compile_static)
    # As every arm of the main command, each program runs once before it is timed; on copies.
    for segment in schedule.segments:
        program = programs(segment.first, segment.end - segment.first)
        batches = stack([dataset[segment.first + i] for i in range(STEPS_PER_CALL)])
        jax.block_until_ready(program(jax.tree.map(jnp.copy, state), batches))
    trainer = ScheduledTrainer("arm", programs, state, training_iterator(dataset))
    with counted_compilations() as unplanned:
        result = trainer.run()
    loss = evaluator(evaluation_params(config.training.optimizer, trainer.trainer.state)).mean_loss
    return Trained(
        result.seconds,
        sum(programs.compile_seconds.values()),
        float(loss),
        len(schedule.programs()),
        len(unplanned),
        schedule.total_tokens,
        schedule.total_steps,
    )


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/scaled.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", help="these arms, not all")
    parser.add_argument("--study", action="store_true", help="what was looked at first, nothing is judged")
    parser.add_argument("--write", action="store_true", help="write experiments/results/time_to_loss_CONFIG.md")
    options = parser.parse_args(words)
    config = load(options.config)
    others = record.others_at_work()
    configure_allocator(True)
    arms = (STUDY if options.study else ARMS).get(config.name, {})
    if options.only:
        arms = {name: arm for name, arm in arms.items() if name in options.only}
    if not arms:
        parser.error(f"no plans for {config.name}, or none of that name")
    corpus = prepare(config.data, config.tokenizer, config.model.vocab_size, lambda line: None)
    # One program and one held-out set for all arms and seeds.
    evaluator = share(config, from_config(config.model, describe_devices().platform), corpus).evaluator
    trained: dict[str, list[Trained]] = {name: [] for name in arms}
    for seed in options.seeds:
        for name in np.random.default_rng(seed).permutation(list(arms)):
            trained[name].append(train(config, arms[name], seed, corpus, evaluator))
            found = trained[name][-1]
            print(f"seed {seed} {name}: loss {found.loss:.4f}, {found.seconds:.1f} s", file=sys.stderr, flush=True)
    tables, criteria = _found(config, arms, trained, judge=not options.study)
    title = "Schedules that were looked at" if options.study else "Time to the final loss of the baseline"
    return record.conclude(
        f"{'schedules_study' if options.study else 'time_to_loss'}_{config.name}",
        f"{title}, {config.name}",
        command=record.command("experiments.time_to_loss", words),
        tables=tables,
        criteria=criteria,
        notes=[
            others,
            "The plans were chosen by looks at seed 0.",
            f"Seeds {', '.join(map(str, options.seeds))}; intervals of 95 % are over seeds.",
        ],
        write=options.write,
    )


def _column(trained: Sequence[Trained], name: str) -> np.ndarray:
    return np.array([getattr(one, name) for one in trained], float)


def _found(
    config: ConfigDict, arms: dict[str, Arm], trained: dict[str, list[Trained]], *, judge: bool
) -> tuple[list[Table], list[Criterion]]:
    base = (
        config.training.epochs * config.training.steps_per_epoch * config.training.batch_size * config.training.seq_len
    )
    plans = [
        (
            name,
            "; ".join(f"{n} x {b} x {t}" for n, b, t in arm.phases) if arm.phases else "the config's",
            ", ".join(f"{key} {value}" for key, value in arm.training) or "the config's",
            f"{trained[name][0].tokens / base:.0%}",
            str(trained[name][0].programs),
        )
        for name, arm in arms.items()
    ]
    tables = [Table("plans", ("arm", "steps x batch x length", "optimizer", "tokens", "programs"), plans)]
    rows = []
    for name, found in trained.items():
        losses, seconds = _column(found, "loss"), _column(found, "seconds")
        rows.append(
            (
                name,
                f"{losses.mean():.4f}",
                f"{losses.min():.4f} to {losses.max():.4f}",
                f"{np.median(seconds):.1f}",
                f"{1e3 * np.median(seconds) / found[0].steps:.1f}",
                f"{np.median(_column(found, 'compile_seconds')):.1f}",
            )
        )
    header = ("arm", "final loss", "of all seeds", "s", "ms a step", "s compiling")
    tables.append(Table("trainings", header, rows))
    if not judge:
        return tables, []
    criteria: list[Criterion] = []
    rows = []
    for name, against, goal, goal_compiled in (
        ("kernels", "baseline", None, None),
        ("schedule", "kernels", 0.80, 0.90),
        ("recipe", "kernels", None, None),
        ("all", "kernels", None, None),
        ("all", "baseline", 0.25, 0.30),
    ):
        if name not in trained or against not in trained:
            continue
        excess = difference(trained[name], trained["baseline" if "baseline" in trained else against])
        ratios = [ratio(trained[name], trained[against], compiled=compiled) for compiled in (False, True)]
        rows.append((f"{name} / {against}", *map(_share, ratios), _nats(excess)))
        if goal is not None and goal_compiled is not None:
            criteria += [
                _not_above(f"final loss of {name} above that of the baseline", excess, 0.0, _nats(excess)),
                _not_above(f"time of {name} as a share of that of {against}", ratios[0], goal, _share(ratios[0])),
                _not_above("the same, compilation included", ratios[1], goal_compiled, _share(ratios[1])),
            ]
    header = ("arms", "time", "compilation included", "loss above the baseline's, nats")
    tables.append(Table("shares of time, with intervals", header, rows))
    most = max(one.programs for found in trained.values() for one in found)
    unplanned = sum(one.unplanned for found in trained.values() for one in found)
    criteria.append(record.at_most("programs of a training", most, 6, ".0f"))
    criteria.append(record.at_most("programs that were compiled while a training ran", unplanned, 0, ".0f"))
    return tables, criteria


Interval = tuple[float, tuple[float, float] | None]


def ratio(arm: Sequence[Trained], against: Sequence[Trained], *, compiled: bool) -> Interval:
    """Seconds of one as a share of the other's, seed by seed."""
    ours, theirs = (
        _column(found, "seconds") + compiled * _column(found, "compile_seconds") for found in (arm, against)
    )
    estimate, interval = ratio_interval(ours, theirs, 0.95)
    return float(estimate), interval


def difference(arm: Sequence[Trained], against: Sequence[Trained]) -> Interval:
    """Of the final losses, seed by seed."""
    values = _column(arm, "loss") - _column(against, "loss")
    return float(values.mean()), t_interval(values)


def _not_above(name: str, found: Interval, goal: float, words: str) -> Criterion:
    target = f"at most {goal:g}"
    if found[1] is None:
        return Criterion(name, target, words, "INCONCLUSIVE")
    low, high = found[1]
    return Criterion(name, target, words, "PASS" if high <= goal else "FAIL" if low > goal else "INCONCLUSIVE")


def _share(found: Interval) -> str:
    return f"{found[0]:.3f}" + ("" if found[1] is None else f" ({found[1][0]:.3f} to {found[1][1]:.3f})")


def _nats(found: Interval) -> str:
    return f"{found[0]:+.3f}" + ("" if found[1] is None else f" ({found[1][0]:+.3f} to {found[1][1]:+.3f})")


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
