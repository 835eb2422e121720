"""Benefit at equal bytes, and cost, of training on rounded weights in the last part (`optimizations.qat`).

    python -m experiments.qat --config=configs/scaled.py --seeds 0 --bits 3 4 --write

For each seed the optimized arm is trained without it and with it at each width, from the same weights on the same
batches; they diverge at the first rounded step. Each model's final weights are then compressed to the same bytes
(--ratios), as by the main command, and rounded to the nearest code of --bits bits, the target of the training. All are
evaluated on the same held-out sequences; intervals are over these, and do not cover other seeds. The time of a step is
measured in both parts of training, interleaved with the step without it.

Nothing is judged: exit code 0. About 10 minutes per seed for configs/scaled.py on a quiet machine.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.lib import record
from experiments.lib.record import Table
from ryot_jax.comparison.arms import Arm, variants
from ryot_jax.comparison.interleaving import Block, interleave
from ryot_jax.comparison.statistics import paired_difference, speed_up
from ryot_jax.comparison.variants import check_active
from ryot_jax.compression import balanced, chain, compress, decode, quantize
from ryot_jax.config import load, total_steps, validate
from ryot_jax.data.pipeline import Corpus, prepare
from ryot_jax.machine.allocator import configure_allocator
from ryot_jax.model import functional
from ryot_jax.runs.model_functions import ModelFunctions, batches
from ryot_jax.runs.session import open_session
from ryot_jax.training.optimizer import evaluation_params
from ryot_jax.training.qat import rounded
from ryot_jax.training.setup import TrainingSetup, build_setup, reseeded
from ryot_jax.training.steps import rounded_steps

WITHOUT = "without"
SEQUENCES = 2048  # held-out sequences on which every model is evaluated
BLOCK_STEPS = 10


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/scaled.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--bits", type=int, nargs="+", default=[4], help="widths to train for, an arm each")
    parser.add_argument("--ratios", type=float, nargs="+", default=[12.0, 16.0, 20.0], help="float32 to file, in bytes")
    parser.add_argument("--rounds", type=int, default=16, help="of step times; each gives one pair")
    parser.add_argument("--write", action="store_true", help="write experiments/results/qat_CONFIG.md")
    options = parser.parse_args(words)
    others = record.others_at_work()
    config = load(options.config)
    session = open_session(config, progress)
    corpus = prepare(config.data, config.tokenizer, config.model.vocab_size, progress)
    first_rounded = total_steps(config) - rounded_steps(config)

    setup = build_setup(config, session.model, corpus)
    arms = build(setup, options.bits)
    tables, notes = [], [others]
    for seed in options.seeds:
        own = reseeded(setup, corpus, seed)
        trained = {
            name: train(Arm(dataclasses.replace(own, config=arm.setup.config), arm.variant, same_programs_as=arm))
            for name, arm in arms.items()
        }
        before = {name: found.losses[:first_rounded] for name, found in trained.items()}
        same = all(losses == before[WITHOUT] for losses in before.values())
        best = [name for name, found in trained.items() if min(found.heldout) == found.heldout[-1]]
        notes.append(
            f"Seed {seed}: the losses of the {first_rounded} steps before the first rounded one are "
            f"{'the same bits in all arms' if same else 'NOT the same in all arms'}; the last weights are also the "
            f"best by float loss of: {', '.join(best)}."
        )
        tables += quality(f"seed {seed}", own, corpus, trained, options.bits, options.ratios)
    tables.append(step_times(arms, first_rounded, options.rounds))
    notes.append(
        f"Rounded weights in the last {rounded_steps(config)} of {first_rounded + rounded_steps(config)} steps "
        f"(compression.qat_fraction = {config.compression.qat_fraction:g}): a cost of x % there is "
        f"{config.compression.qat_fraction:g} x % of the whole training."
    )
    return record.conclude(
        f"qat_{config.name}",
        f"Training on rounded weights, {config.name}",
        command=record.command("experiments.qat", words),
        tables=tables,
        criteria=[],
        notes=notes,
        write=options.write,
    )


def progress(line: str) -> None:
    """Print a line to standard error, apart from the tables, which are the output."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def build(setup: TrainingSetup, widths: Sequence[int]) -> dict[str, Arm]:
    """The optimized arm without and with rounded weights, the latter proven to round."""
    configs = {WITHOUT: with_qat(setup.config, "off", 4)}
    configs |= {f"{bits} bits": with_qat(setup.config, "round", bits) for bits in widths}
    spec = open_session(setup.config, progress, cached_programs=False).spec
    arms = {}
    for name, config in configs.items():
        variant = dataclasses.replace(variants(config, spec)[0][-1], name=name)
        arms[name] = Arm(dataclasses.replace(setup, config=config), variant)
        progress(f"{name}: compiled in {sum(arms[name].compile_seconds.values()):.1f} s")
    check_active([arm.variant for arm in arms.values()], {name: arm.hlo_text() for name, arm in arms.items()}, spec)
    return arms


def with_qat(config: ConfigDict, switch: str, bits: int) -> ConfigDict:
    changed = config.copy_and_resolve_references()
    changed.comparison.arms = ("optimized",)
    changed.optimizations.qat = switch
    changed.compression.qat_bits = bits
    validate(changed)
    return changed


@dataclasses.dataclass(frozen=True)
class Trained:
    """The outcome of an arm's training: parameters to judge, the loss of every step, held-out loss after each epoch."""

    params: Any
    losses: list[float]
    heldout: list[float]


def train(arm: Arm) -> Trained:
    """Train an arm from its start to the end."""
    training, losses, heldout = arm.setup.config.training, [], []
    for epoch in range(training.epochs):
        losses += arm.run_block(training.steps_per_epoch).losses
        heldout.append(arm.evaluate().mean_loss)
        progress(f"{arm.name}: epoch {epoch + 1}/{training.epochs}, held-out loss {heldout[-1]:.4f}")
    return Trained(evaluation_params(training.optimizer, arm.trainer.state), losses, heldout)


def quality(
    title: str,
    setup: TrainingSetup,
    corpus: Corpus,
    trained: dict[str, Trained],
    widths: Sequence[int],
    ratios: Sequence[float],
) -> list[Table]:
    """Held-out losses of every model in float32, compressed to equal bytes, and rounded to the nearest code."""
    config = setup.config
    model, untrained = functional.unstack_layers(setup.model, setup.state.params)
    functions = ModelFunctions.of(open_session(config, progress, cached_programs=False), model)
    calibration = batches(corpus.train, config, config.compression.calibration_sequences)
    evaluator = functions.evaluator(corpus.heldout, config, SEQUENCES, untrained)

    def judge(params: Any) -> np.ndarray:
        return evaluator(params).sequence_losses

    floats: dict[str, np.ndarray] = {}
    compressed: dict[float, dict[str, tuple[int, np.ndarray]]] = {ratio: {} for ratio in ratios}
    nearest: dict[int, dict[str, np.ndarray]] = {bits: {} for bits in widths}
    for name, found in trained.items():
        _, params = functional.unstack_layers(setup.model, found.params)
        floats[name] = judge(params)
        for ratio in ratios:
            made = compress(
                params,
                functions.loss,
                calibration,
                f"ratio>={ratio:g}",
                targets=config.training.seq_len,
                measure=functions.fast_loss,
            )
            compressed[ratio][name] = made.size.total, judge(decode(made.params))
            progress(f"{title}, {name}, {ratio:g} times smaller: {made.size.total:,} bytes")
        # Vectors, which are not rounded, have the finest codes of the last file.
        vectors = balanced(min(made.settings.values()))
        for bits in widths:
            nearest[bits][name] = judge(decode(chain(quantize(bits), vectors)(params, made.stats)))

    rows = [(f"float32: {name}", "", *_cells(name, floats, floats)) for name in trained]
    for ratio, by_name in compressed.items():
        losses = {name: each for name, (_, each) in by_name.items()}
        rows += [
            (f"{ratio:g} times smaller: {name}", f"{by_name[name][0]:,}", *_cells(name, losses, floats))
            for name in trained
        ]
    columns = ("loss", "rise over its float32", "less the loss without (95 %)")
    sequences = f"{len(floats[WITHOUT]):,} sequences (nats/token)"
    at_equal_bytes = Table(
        f"{title}: held-out loss at equal bytes, {sequences}", ("model: trained", "bytes", *columns), rows
    )
    rows = [(f"{bits} bits: {name}", *_cells(name, each, floats)) for bits, each in nearest.items() for name in trained]
    rounding = f"{title}: matrices rounded to the nearest code of equal grids, {sequences}"
    return [at_equal_bytes, Table(rounding, ("codes: trained", *columns), rows)]


def _cells(name: str, losses: dict[str, np.ndarray], floats: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Cells for a model's losses over sequences: mean, rise, and difference from the arm without."""
    mean, rise = losses[name].mean(), (losses[name] - floats[name]).mean()
    if name == WITHOUT:
        return f"{mean:.4f}", f"{rise:+.4f}", ""
    found = paired_difference(losses[WITHOUT], losses[name])
    assert found.estimate is not None and found.ci95 is not None
    low, high = found.ci95
    return f"{mean:.4f}", f"{rise:+.4f}", f"{found.estimate:+.4f} ({low:+.4f} to {high:+.4f})"


def step_times(arms: dict[str, Arm], first_rounded: int, rounds: int) -> Table:
    """Times of a step without it, with it in both parts of training, and of the rounding alone."""
    name, arm = list(arms.items())[-1]
    params, bits = arm.setup.state.params, arm.setup.config.compression.qat_bits
    alone = jax.jit(lambda params: rounded(params, bits))

    def rounding(n_steps: int) -> float:
        start = time.perf_counter()
        for _ in range(n_steps):
            jax.block_until_ready(alone(params))
        return time.perf_counter() - start

    blocks = {
        "without": step_block(arms[WITHOUT], 0),
        f"with, before step {first_rounded}": step_block(arm, 0),
        f"with, from step {first_rounded} on": step_block(arm, first_rounded),
        "rounding all weights, alone": rounding,
    }
    for block in blocks.values():
        block(BLOCK_STEPS)
    seconds = interleave(blocks, dict.fromkeys(blocks, BLOCK_STEPS), rounds=rounds)
    rows: list[tuple[str, ...]] = []
    for which, times in seconds.items():
        ratio = "" if which == "without" else record.in_words(speed_up(times, seconds["without"]))
        rows.append((which, f"{1e3 * np.median(times):.1f}", f"{1e3 * times.min():.1f}", ratio))
    header = ("step", "median ms", "min ms", "times the step without (95 %)")
    return Table(f"time of a step, {name}", header, rows)


def step_block(arm: Arm, step: int) -> Block:
    """Blocks of steps that all begin at the same step number, on a separate state."""
    trainer = arm.twin(arm.name)

    def run(n_steps: int) -> float:
        numbered = dataclasses.replace(trainer.state, step=jnp.asarray(step, jnp.int32))
        trainer.state = trainer.compiled_step.place(numbered)
        return trainer.run_block(n_steps).seconds

    return run


if __name__ == "__main__":
    configure_allocator(True)
    sys.exit(record.exit_code(main))
