"""Effect of the allocator setting: step time and page faults of the baseline without and with it.

    python -m experiments.allocator --config=configs/scaled.py --write

A setting of the C library holds for a whole process and cannot be undone, so every measurement is a fresh process:
pairs of one without and one with it, in random order. Each process compiles the baseline step (from the cache after
the first time), warms up, and times one block. About 4 minutes.

Goals: the setting makes the step 1.2 times as fast, including the 95 % interval, and leaves at most a hundredth of the
page faults. Exit code 0: both reached, 3: one missed, 4: inconclusive, or the setting cannot be applied on this
machine.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from experiments.lib import record
from experiments.peers import task
from experiments.peers.worker import Answer, Worker
from ryot_jax.comparison.statistics import speed_up
from ryot_jax.config import load

SPEED_UP = 1.2
FAULTS_LEFT = 0.01
WARM_UP_STEPS = 20  # the heap reaches its final size after 10


def measure(setting: str, folder: Path, n_steps: int) -> tuple[Answer, str]:
    """Run one block in a fresh process; return its measurements and the process's note on its allocator."""
    command = [sys.executable, "-m", "experiments.peers.ours", f"--task={folder}", "--arm=baseline"]
    with Worker([*command, f"--allocator={setting}"], folder / f"{setting}.log") as worker:
        worker.run_block(WARM_UP_STEPS)
        return worker.run_block(n_steps), worker.ready.notes.split("allocator: ")[-1]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/scaled.py")
    parser.add_argument("--pairs", type=int, default=8, help="pairs of processes")
    parser.add_argument("--block_steps", type=int, default=30, help="steps that are timed in each process")
    parser.add_argument("--seed", type=int, default=0, help="of the order within the pairs")
    parser.add_argument("--write", action="store_true", help="write experiments/results/allocator_CONFIG.md")
    options = parser.parse_args(words)
    if options.pairs < 2 or options.block_steps < 1:
        parser.error("needs at least 2 pairs of 1 step")
    config = load(options.config)
    others = record.others_at_work()
    order = np.random.default_rng(options.seed)
    found: dict[str, list[Answer]] = {"off": [], "on": []}
    reasons: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        task.write(folder, config)
        for pair in range(1, options.pairs + 1):
            for setting in order.permutation(list(found)):
                answer, reasons[str(setting)] = measure(str(setting), folder, options.block_steps)
                found[str(setting)].append(answer)
            record.progress(pair, options.pairs)

    seconds = {name: [answer.seconds / options.block_steps for answer in answers] for name, answers in found.items()}
    faults = {name: [answer.page_faults / options.block_steps for answer in answers] for name, answers in found.items()}
    faster = speed_up(seconds["off"], seconds["on"])
    left = float(np.mean(faults["on"]) / max(np.mean(faults["off"]), 1.0))
    rows = [
        (
            name,
            f"{1e3 * np.median(seconds[name]):.1f}",
            f"{1e3 * min(seconds[name]):.1f}",
            f"{np.median(faults[name]):,.0f}",
            f"{max(answer.peak_resident_bytes for answer in found[name]) / 2**20:,.0f}",
        )
        for name in found
    ]
    faster_name = "step time off / on"
    if reasons["on"] != "glibc keeps freed memory":
        criteria = [record.not_measured(faster_name, f"at least {SPEED_UP:g}", reasons["on"])]
    else:
        criteria = [
            record.at_least(faster_name, faster, SPEED_UP),
            record.at_most("page faults on / off", left, FAULTS_LEFT),
        ]
    return record.conclude(
        f"allocator_{config.name}",
        f"Allocator setting, baseline step of {config.name}",
        command=record.command("experiments.allocator", words),
        tables=[
            record.Table(
                "baseline step, a fresh process each time",
                ("setting", "median ms", "min ms", "faults/step", "resident MiB"),
                rows,
            )
        ],
        criteria=criteria,
        notes=[
            f"Off over on: {record.in_words(faster)}.",
            *(f"{name}: {why}." for name, why in reasons.items()),
            f"Each process warms up with {WARM_UP_STEPS} steps and then times {options.block_steps}.",
            others,
        ],
        write=options.write,
    )


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
