"""Speed of our step beside those of other programs, with the same model, weights and batches.

    apt-get install libjemalloc2
    python -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 numpy
    python -m venv /tmp/hf && /tmp/hf/bin/pip install 'transformers<5' jax==0.10.2 flax==0.12.8 optax==0.2.8
    python -m experiments.peers.compare --config=configs/scaled.py --write \
        --torch_python=/tmp/torch/bin/python --transformers_python=/tmp/hf/bin/python

Every program is a separate process with its own allocator, and all others wait while one works. They start from the
same weights and train on the same batches with the same optimizer; before anything is timed, their numbers of weights,
their first losses and their losses after some steps are compared, and a program that differs is an error. Then they run
blocks of steps in random order, there and back, in every round; ratios are taken within a round. About 12 minutes.

    ours-optimized, ours-baseline  the arms of the main command, with its allocator setting
    plain-fused, plain-mha         experiments/plain_flax_baseline.py in a Python process with default settings
    transformers-flax              GPT-2 of Hugging Face's transformers in Flax, likewise
    torch-compiled                 PyTorch, torch.compile, bfloat16, jemalloc, F.scaled_dot_product_attention
    torch-explicit                 the same with attention written out, which is faster on CPUs
    torch-eager                    PyTorch in float32 by default, with jemalloc

Goals, with their 95 % intervals: 4.0 times as fast as the faster plain Flax program for scaled; 1.8 times as fast as
the faster compiled PyTorch program for scaled and 1.2 times for wide. Exit code 0: all reached, 3: one missed, 4:
inconclusive, or a peer or jemalloc is not installed.

Other public JAX trainers were considered: EasyDeL, Levanter, MaxText and Tunix train on a CPU only with much effort
(their own mesh, data and checkpoint machinery, many dependencies) and have other models; nanodo is not packaged;
equinox and haiku have no GPT trainer in their packages.
"""

import argparse
import contextlib
import importlib.util
import math
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from ml_collections import ConfigDict

from experiments.lib import record
from experiments.lib.blocks import steps_within
from experiments.lib.record import Table
from experiments.peers import task
from experiments.peers.worker import Answer, Worker, WorkerError
from ryot_jax.comparison.criteria import Criterion
from ryot_jax.comparison.interleaving import interleave
from ryot_jax.comparison.statistics import SpeedUp, speed_up
from ryot_jax.config import load
from ryot_jax.runtime.errors import RyotError

OURS = "ours-optimized"
TORCH = ("torch-compiled", "torch-explicit", "torch-eager")
# Goal -> the programs, of which the fastest counts, and by config the required ratio of speeds.
GOALS: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "plain Flax": (("plain-fused", "plain-mha"), {"scaled": 4.0}),
    "PyTorch": (("torch-compiled", "torch-explicit"), {"scaled": 1.8, "wide": 1.2}),
}
LN_V_TOLERANCE = 0.15  # nats that an untrained model may lie above ln V; its logits have a deviation of up to 0.45
FIRST_LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-3}
TRAINED_STEPS = 12
TRAINED_LOSS_TOLERANCE = 0.02  # nats after TRAINED_STEPS from the same weights on the same batches

JEMALLOC = Path("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2")
MALLOC_CONF = "oversize_threshold:1,background_thread:true,metadata_thp:auto,dirty_decay_ms:-1,muzzy_decay_ms:-1"


def commands(folder: Path, options: argparse.Namespace) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The command of every program that can be started on this machine, and the reasons why others cannot."""
    here, torch = [sys.executable, "-m"], [options.torch_python, "-m", "experiments.peers.torch_gpt"]
    compiled = [*torch, "--precision=bfloat16", "--compile"]
    found = {
        OURS: [*here, "experiments.peers.ours", "--arm=optimized"],
        "ours-baseline": [*here, "experiments.peers.ours", "--arm=baseline"],
        "plain-fused": [*here, "experiments.peers.plain_flax", "--program=plain-fused"],
        "plain-mha": [*here, "experiments.peers.plain_flax", "--program=plain-mha"],
        "transformers-flax": [options.transformers_python, "-m", "experiments.peers.transformers_flax"],
        "torch-compiled": [*compiled, "--attention=fused"],
        "torch-explicit": [*compiled, "--attention=explicit"],
        "torch-eager": [*torch, "--precision=float32", "--attention=fused"],
    }
    missing = {name: f"give --{name.split('-')[0]}_python" for name, command in found.items() if not command[0]}
    wanted = options.only or list(found)
    missing |= {name: "left out by --only" for name in found if name not in wanted}
    return {name: [*found[name], f"--task={folder}"] for name in found if name not in missing}, missing


def environment(name: str, jemalloc: Path | None) -> dict[str, str]:
    """Additions to the caller's environment for a program."""
    if name.startswith("torch") and jemalloc is not None:
        return {"LD_PRELOAD": str(jemalloc), "MALLOC_CONF": MALLOC_CONF}
    return {}


def check_same(workers: Mapping[str, Worker], expected: Mapping[str, float], config: ConfigDict) -> dict[str, float]:
    """Check that all programs are the same, and return the loss of each after some steps.

    Raises:
      RyotError: a program has another model, or trains differently.
    """
    trained = {name: worker.run_block(TRAINED_STEPS).loss for name, worker in workers.items()}
    for name, worker in workers.items():
        ready = worker.ready
        if ready.parameters != expected["parameters"]:
            raise RyotError(f"{name} has {ready.parameters} weights, ours has {expected['parameters']}")
        if abs(ready.initial_loss - math.log(config.model.vocab_size)) > LN_V_TOLERANCE:
            raise RyotError(f"{name} starts at a loss of {ready.initial_loss:.4f}, far from ln V")
        exact = "bfloat16" not in ready.notes and not name.startswith("ours")
        tolerance = FIRST_LOSS_TOLERANCE["float32" if exact else "bfloat16"]
        if abs(ready.initial_loss - expected["initial_loss"]) > tolerance:
            raise RyotError(
                f"{name} is not the same model: its loss on the same weights and batch is {ready.initial_loss:.5f}, "
                f"ours {expected['initial_loss']:.5f}"
            )
    middle = float(np.median(list(trained.values())))
    for name, loss in trained.items():
        if not abs(loss - middle) <= TRAINED_LOSS_TOLERANCE:
            raise RyotError(
                f"{name} does not train alike: loss {loss:.4f} after {TRAINED_STEPS} steps, not {middle:.4f}"
            )
    return trained


def least(ratios: Mapping[str, SpeedUp]) -> SpeedUp:
    """The ratio against the fastest of several programs."""
    return min(ratios.values(), key=lambda ratio: math.inf if ratio.estimate is None else ratio.estimate)


def judge(
    config_name: str, ratios: Mapping[str, SpeedUp], missing: Mapping[str, str], handicaps: Mapping[str, str]
) -> list[Criterion]:
    """The criteria of a config's goals.

    Args:
      config_name: `config.name`.
      ratios: seconds of a program over those of ours.
      missing: program -> reason why it was not measured.
      handicaps: program -> what it lacked; a goal cannot be reached against such a program.
    """
    criteria = []
    for goal, (programs, targets) in GOALS.items():
        if config_name not in targets:
            continue
        name, target = f"times as fast as {goal}", targets[config_name]
        present = {program: ratios[program] for program in programs if program in ratios}
        if len(present) < len(programs):
            why = "; ".join(f"{program}: {missing[program]}" for program in programs if program in missing)
            criteria.append(record.not_measured(name, f"at least {target:g}", why))
            continue
        criterion = record.at_least(name, least(present), target)
        if criterion.verdict == "PASS" and (held_back := {handicaps[p] for p in programs if p in handicaps}):
            actual = f"{criterion.actual}, but {'; '.join(sorted(held_back))}"
            criterion = msgspec.structs.replace(criterion, actual=actual, verdict="INCONCLUSIVE")
        criteria.append(criterion)
    return criteria


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/scaled.py")
    parser.add_argument("--rounds", type=int, default=12, help="each gives one pair")
    parser.add_argument("--block_seconds", type=float, default=3.0, help="length of a block, of which a round has two")
    parser.add_argument("--block_steps", type=int, default=0, help="steps of a block instead")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the programs")
    parser.add_argument("--only", nargs="+", help="these programs, not all")
    here = {
        package: sys.executable if importlib.util.find_spec(package) else "" for package in ("torch", "transformers")
    }
    parser.add_argument("--torch_python", default=here["torch"], help="an interpreter that has torch and numpy")
    parser.add_argument("--transformers_python", default=here["transformers"], help="one that has transformers<5")
    parser.add_argument("--jemalloc", type=Path, default=JEMALLOC, help="library to preload for PyTorch")
    parser.add_argument("--write", action="store_true", help="write experiments/results/peers_CONFIG.md")
    options = parser.parse_args(words)
    if options.rounds < 2 or options.block_steps < 0:
        parser.error("needs at least 2 rounds of 1 step")
    config = load(options.config)
    others = record.others_at_work()
    jemalloc = options.jemalloc if options.jemalloc.is_file() else None
    if jemalloc is None:
        print(
            f"no jemalloc at {options.jemalloc} (apt-get install libjemalloc2): PyTorch runs without", file=sys.stderr
        )

    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        expected = task.write(folder, config)
        started, missing = commands(folder, options)
        if OURS not in started:
            parser.error(f"--only must name {OURS}")
        workers: dict[str, Worker] = {}
        for name, command in started.items():
            print(f"starting {name}", file=sys.stderr, flush=True)
            try:
                worker = Worker(command, folder / f"{name}.log", environment(name, jemalloc))
            except WorkerError as error:
                if name.startswith(("ours", "plain")):
                    raise RyotError(f"{name}: {error}") from error
                missing[name] = str(error)
                continue
            workers[name] = stack.enter_context(worker)
        trained = check_same(workers, expected, config)
        last: dict[str, Answer] = {}

        def block(name: str):
            def run(n_steps: int) -> float:
                last[name] = workers[name].run_block(n_steps)
                return last[name].seconds

            return run

        blocks = {name: block(name) for name in workers}
        steps = {name: options.block_steps or steps_within(run, options.block_seconds) for name, run in blocks.items()}
        seconds = interleave(
            blocks,
            steps,
            rounds=options.rounds,
            seed=options.seed,
            pause=0.2,
            on_round=lambda done: record.progress(done, options.rounds),
        )
        ratios = {name: speed_up(seconds[name], seconds[OURS]) for name in workers if name != OURS}
        return record.conclude(
            f"peers_{config.name}",
            f"Our step beside others', {config.name}",
            command=record.command("experiments.peers.compare", words),
            tables=_tables(workers, seconds, steps, ratios, trained, last),
            criteria=judge(config.name, ratios, missing, {} if jemalloc else dict.fromkeys(TORCH, "without jemalloc")),
            notes=[
                *(f"{name}: {worker.ready.notes}." for name, worker in workers.items()),
                *(f"{name} was not measured: {why}." for name, why in missing.items()),
                f"jemalloc: {jemalloc or 'not found; PyTorch ran with the default allocator'}.",
                "Resident memory is the largest of the process, compilation included.",
                others,
            ],
            write=options.write,
        )


def _tables(workers, seconds, steps, ratios, trained, last) -> list[Table]:
    rows = []
    for name, worker in workers.items():
        ratio = record.in_words(ratios[name]) if name in ratios else ""
        rows.append(
            (
                name,
                f"{1e3 * np.median(seconds[name]):.1f}",
                f"{1e3 * min(seconds[name]):.1f}",
                ratio,
                f"{last[name].page_faults / steps[name]:,.0f}",
                f"{last[name].peak_resident_bytes / 2**20:,.0f}",
                f"{worker.ready.initial_loss:.4f}",
                f"{trained[name]:.4f}",
                ", ".join(f"{package} {version}" for package, version in worker.ready.versions.items()),
            )
        )
    header = (
        *("program", "median ms", "min ms", "ours is so many times as fast", "faults/step", "resident MiB"),
        *("first loss", f"after {TRAINED_STEPS} steps", "versions"),
    )
    return [Table("training step", header, rows)]


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
