"""Time to the baseline's final held-out loss with kernels, step schedules and recipe, separately and together.

    python -m experiments.time_to_loss --config=configs/scaled.py --seeds 0 1 2 3 4 --write
    python -m experiments.time_to_loss --config=configs/scaled.py --study --seeds 0 --write

Every arm trains on the config's text, from the weights of the same seed, for its own fixed length, over which the
learning rate decays to zero: the final loss of a shorter training counts, not an intermediate one. The length was fixed
beforehand, from trials with one seed (`--study`, which keeps the failures too). An arm has reached the baseline's loss
if the interval of the difference of the final losses, seed by seed, is not above zero; only then is its time
meaningful. Arms of one seed train one after the other, in an order that changes with the seed.

    baseline   the config's training with no optimization
    kernels    the same with all kernels
    schedule   with kernels, by `scaling.schedule`
    recipe     with kernels and `scaling.recipe`, by `scaling.recipe_schedule`
    both       with kernels and `scaling.recipe`, by `scaling.both_schedule`

Programs are compiled again for each arm, without the cache of compiled programs: 'compilation included' is the time of
a first training on a machine. Goals: the step schedule alone 0.80 of the time of kernels, 0.90 with compilation; all of
them 0.25 of the baseline's time, 0.30 with compilation; at most 6 programs per training, and none unexpected. Exit code
0: all reached, 3: one missed, 4: inconclusive. About 25 minutes for five seeds of `scaled.py`.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from experiments.lib import record
from experiments.lib.record import Table
from ryot_jax.comparison.criteria import Criterion
from ryot_jax.comparison.statistics import ratio_interval, t_interval
from ryot_jax.config import load
from ryot_jax.data.pipeline import prepare
from ryot_jax.machine.allocator import configure_allocator
from ryot_jax.machine.devices import describe_devices
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import KernelPlan, resolve
from ryot_jax.runs.planned_training import PlannedTraining, planned_trainings
from ryot_jax.runs.scheduled_arm import TrainingOutcome, train_by
from ryot_jax.training.setup import build_setup, kernel_spec

MUON, ROTARY = ("muon",), ("muon", "rotary")

# Tried once in a scratch program at seed 0, with kernels, and not kept.
NOT_IN_THE_PACKAGE = (
    "Not in the package, as a first try did not pay. Patches of 2 or 4 tokens as one position (arXiv:2407.12665): 200 "
    "steps of 4,096 positions, then 400 of single tokens, the rate by steps: 3.93 and 4.00. The second next token in "
    "the loss at half the weight for the first 500 of 800 steps: 3.60, where none gave 3.46. Queries and keys "
    "normalized, beside Muon and rotary: 3.13 for 3.19 at 34 % of the tokens, in steps 1.16 times as long through "
    "XLA's attention.",
    "An attention window cannot pay at 128 positions: scores and their products with values are 6 % of a step's FLOPs.",
)


def _study(*wanted: PlannedTraining) -> dict[str, PlannedTraining]:
    return {plan.name: plan for plan in wanted}


# Preliminary trials, kept so that they need not be repeated; all with kernels.
STUDY: dict[str, dict[str, PlannedTraining]] = {
    "scaled": _study(
        PlannedTraining("the config's"),
        PlannedTraining("rate 0.006", learning_rate=0.006),
        PlannedTraining("half the tokens", "50% of B x T"),
        PlannedTraining("batch 16", "100% of B/2 x T"),
        PlannedTraining("batch 8", "100% of B/4 x T"),
        PlannedTraining("batch 8, 60 %", "60% of B/4 x T"),
        PlannedTraining("batch 8, 16, 32", "25% of B/4 x T, 50% of B/2 x T, 25% of B x T"),
        PlannedTraining("length 32, 64, 128 at equal steps", "25% of B*4 x T/4, 25% of B*2 x T/2, 50% of B x T"),
        PlannedTraining("length 64, batch 16", "50% of B/2 x T/2, 50% of B x T"),
        PlannedTraining("length 64, batch 16, 50 %", "25% of B/2 x T/2, 25% of B x T"),
        PlannedTraining("the same, most of it short", "37.5% of B/2 x T/2, 12.5% of B x T"),
        PlannedTraining("length 64, batch 16, 65 %", "43.75% of B/2 x T/2, 21.25% of B x T"),
        PlannedTraining("length 32, 64, 128, 56 %", "31.25% of B x T/4, 12.5% of B/2 x T/2, 12.5% of B x T"),
        PlannedTraining("length 32, 128, 50 %", "37.5% of B x T/4, 12.5% of B x T"),
        PlannedTraining("length 16, 32, 128, 50 %", "18.75% of B*2 x T/8, 18.75% of B x T/4, 12.5% of B x T"),
        PlannedTraining("depth 2, then 4", "75% of B x T depth L/2, 50% of B x T"),
        PlannedTraining("depth 2, length 64, batch 16, 46 %", "31.25% of B/2 x T/2 depth L/2, 15% of B x T"),
        PlannedTraining(
            "depth 2, length 32, 64, 128, 44 %",
            "21.875% of B x T/4 depth L/2, 9.375% of B/2 x T/2 depth L/2, 12.5% of B x T",
        ),
        PlannedTraining(
            "depth 2, length 32, 64, 128, 61 %",
            "31.25% of B x T/4 depth L/2, 12.5% of B/2 x T/2 depth L/2, 17.5% of B x T",
        ),
        PlannedTraining(
            "depth 1, 2, 4, length 32, 64, 128, 56 %",
            "31.25% of B x T/4 depth L/4, 12.5% of B/2 x T/2 depth L/2, 12.5% of B x T",
        ),
        PlannedTraining(
            "depth 1, 2, 4, length 32, 64, 128, 61 %",
            "31.25% of B x T/4 depth L/4, 12.5% of B/2 x T/2 depth L/2, 17.5% of B x T",
        ),
        PlannedTraining("rotary, rate 0.003", parts=("rotary",)),
        PlannedTraining("rotary, 56 %", "56% of B x T", ("rotary",)),
        PlannedTraining("relu2", parts=("relu2",)),
        PlannedTraining("Muon", parts=MUON, learning_rate=0.02),
        PlannedTraining("Muon, rate 0.01", parts=MUON, learning_rate=0.01),
        PlannedTraining("Muon, 34 %", "34% of B x T", MUON, 0.02),
        PlannedTraining("Muon, 34 %, rate 0.03", "34% of B x T", MUON, 0.03),
        PlannedTraining("Muon, 34 %, relu2", "34% of B x T", (*MUON, "relu2"), 0.02),
        PlannedTraining("Muon, 34 %, RMS norm", "34% of B x T", (*MUON, "rms_norm"), 0.02),
        PlannedTraining("Muon, 34 %, rotary", "34% of B x T", ROTARY, 0.02),
        PlannedTraining("Muon, length 64, 29 %", "18.75% of B x T/2, 10% of B x T", MUON, 0.02),
        PlannedTraining("Muon, length 64, batch 16, 24 %", "18.75% of B/2 x T/2, 5% of B x T", MUON, 0.02),
        PlannedTraining(
            "Muon, length 32, 64, 128, 26 %", "12.5% of B x T/4, 6.25% of B x T/2, 7.5% of B x T", MUON, 0.02
        ),
        PlannedTraining("Muon, depth 2, 39 %", "22.5% of B x T depth L/2, 16.25% of B x T", MUON, 0.02),
        PlannedTraining("Muon, rotary, 22 %", "22% of B x T", ROTARY, 0.02),
        PlannedTraining("Muon, rotary, depth 2, 22 %", "15% of B x T depth L/2, 7.5% of B x T", ROTARY, 0.02),
        PlannedTraining(
            "Muon, rotary, depth 2, length 64, 22 %", "15% of B x T/2 depth L/2, 7.5% of B x T", ROTARY, 0.02
        ),
        PlannedTraining(
            "Muon, rotary, depth 1, length 64, 18 %", "12.5% of B x T/2 depth L/4, 5% of B x T", ROTARY, 0.02
        ),
        PlannedTraining(
            "Muon, rotary, depth 1, length 64, 20 %", "12.5% of B x T/2 depth L/4, 7.5% of B x T", ROTARY, 0.02
        ),
    )
}


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
    wanted = [PlannedTraining("baseline"), PlannedTraining("kernels"), *planned_trainings(config)]
    arms = STUDY.get(config.name, {}) if options.study else {plan.name: plan for plan in wanted}
    if options.only:
        arms = {name: plan for name, plan in arms.items() if name in options.only}
    if not arms:
        parser.error(f"no plans for {config.name}, or none of that name")
    corpus = prepare(config.data, config.tokenizer, config.model.vocab_size, lambda line: None)
    devices = describe_devices()
    model = from_config(config.model, devices.platform)
    # One held-out set for all arms and seeds, and one program for all that have the config's model.
    setup = build_setup(config, model, corpus)
    kernels = resolve(config.optimizations, spec=kernel_spec(config, model, devices)).plan
    trained: dict[str, list[TrainingOutcome]] = {name: [] for name in arms}
    for seed in options.seeds:
        for name in np.random.default_rng(seed).permutation(list(arms)):
            with_kernels = KernelPlan() if name == "baseline" else kernels
            found = train_by(arms[name], setup, with_kernels, corpus, seed=seed)
            trained[name].append(found)
            print(
                f"seed {seed} {name}: loss {found.heldout.mean_loss:.4f}, {found.seconds:.1f} s, "
                f"{found.compile_seconds:.1f} s compiling",
                file=sys.stderr,
                flush=True,
            )
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
            *(NOT_IN_THE_PACKAGE if options.study else ()),
            f"Seeds {', '.join(map(str, options.seeds))}; intervals of 95 % are over seeds.",
        ],
        write=options.write,
    )


def _column(trained: Sequence[TrainingOutcome], name: str) -> np.ndarray:
    return np.array([getattr(one, name) for one in trained], float)


def _losses(trained: Sequence[TrainingOutcome]) -> np.ndarray:
    return np.array([one.heldout.mean_loss for one in trained], float)


def _found(
    config: ConfigDict, arms: dict[str, PlannedTraining], trained: dict[str, list[TrainingOutcome]], *, judge: bool
) -> tuple[list[Table], list[Criterion]]:
    base = (
        config.training.epochs * config.training.steps_per_epoch * config.training.batch_size * config.training.seq_len
    )
    rows: list[tuple[str, ...]] = []
    for name, plan in arms.items():
        first = trained[name][0]
        rows.append(
            (
                name,
                plan.phases,
                ", ".join(plan.parts) or "none",
                f"{first.config.training.learning_rate:g}",
                f"{first.schedule.total_tokens / base:.0%}",
                f"{first.schedule.total_steps:,}",
                str(len(first.schedule.programs())),
            )
        )
    header: tuple[str, ...] = ("arm", "phases", "recipe", "rate", "tokens", "steps", "programs")
    tables = [Table("plans", header, rows)]
    rows = []
    for name, found in trained.items():
        losses, seconds = _losses(found), _column(found, "seconds")
        rows.append(
            (
                name,
                f"{losses.mean():.4f}",
                f"{losses.min():.4f} to {losses.max():.4f}",
                f"{np.median(seconds):.1f}",
                f"{1e3 * np.median(seconds) / found[0].schedule.total_steps:.1f}",
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
        ("both", "kernels", None, None),
        ("both", "baseline", 0.25, 0.30),
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
    most = max(len(one.schedule.programs()) for found in trained.values() for one in found)
    unplanned = sum(one.unplanned for found in trained.values() for one in found)
    criteria.append(record.at_most("programs of a training", most, 6, ".0f"))
    criteria.append(record.at_most("programs that were compiled while a training ran", unplanned, 0, ".0f"))
    return tables, criteria


Interval = tuple[float, tuple[float, float] | None]


def ratio(arm: Sequence[TrainingOutcome], against: Sequence[TrainingOutcome], *, compiled: bool) -> Interval:
    """Seconds of one arm as a share of the other's, seed by seed."""
    ours, theirs = (
        _column(found, "seconds") + compiled * _column(found, "compile_seconds") for found in (arm, against)
    )
    estimate, interval = ratio_interval(ours, theirs, 0.95)
    return float(estimate), interval


def difference(arm: Sequence[TrainingOutcome], against: Sequence[TrainingOutcome]) -> Interval:
    """Differences of the final losses, seed by seed."""
    values = _losses(arm) - _losses(against)
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
