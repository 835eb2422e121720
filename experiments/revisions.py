"""Speed of the training step in another revision and in this one, interleaved in one run.

    git worktree add /tmp/old REVISION
    (cd /tmp/old && python setup.py build_ext --inplace)    # its own C++ kernels
    python -m experiments.revisions --old=/tmp/old --config=configs/scaled.py --write

Each revision is a process that imports the package from its own folder, with its own allocator and compilation cache;
one waits while the other works. Both start from the same weights and train on the same batches. Ratios are taken within
a round of blocks of steps in random order, there and back.

Goal, with its 95 % interval: the new step at least 0.99 times as fast as the old one. Exit code 0: reached, 3: missed,
4: inconclusive. The losses of both are shown, and whether they agree bitwise.
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import numpy as np

from experiments.lib import record
from experiments.lib.blocks import block_of, steps_within
from experiments.peers import task
from experiments.peers.worker import REPOSITORY, Worker, WorkerError
from ryot_jax.comparison.interleaving import interleave
from ryot_jax.comparison.statistics import speed_up
from ryot_jax.config import load
from ryot_jax.runtime.errors import RyotError

GOAL = 0.99  # times as fast as the old revision, at least
ARMS = ("baseline", "optimized")
COMPARED_STEPS = 12  # steps after which losses are compared, before anything is timed


def start(folder: Path, arm: str, task_folder: Path, log: Path) -> Worker:
    """The training program of the revision in `folder`, ready to run blocks.

    Raises:
      RyotError: it did not start; the message ends with the last lines of its log.
    """
    command = [sys.executable, "-m", "experiments.peers.ours", f"--task={task_folder}", f"--arm={arm}"]
    try:
        # PYTHONPATH takes precedence over an editable install of another revision.
        return Worker(command, log, {"PYTHONPATH": str(folder)}, folder)
    except WorkerError as error:
        raise RyotError(f"{folder}: {error}") from error


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="a checkout of the other revision, its kernels built")
    parser.add_argument("--config", default="configs/scaled.py")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["optimized"])
    parser.add_argument("--rounds", type=int, default=24, help="each gives one pair")
    parser.add_argument("--block_seconds", type=float, default=1.5, help="length of a block, of which a round has two")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the revisions")
    parser.add_argument("--write", action="store_true", help="write experiments/results/revisions_CONFIG.md")
    options = parser.parse_args(words)
    if options.rounds < 2:
        parser.error("needs at least 2 rounds")
    old = options.old.resolve()
    if not (old / "experiments/peers/ours.py").is_file():
        parser.error(f"--old={options.old} is no checkout of this project")
    config = load(options.config)
    others = record.others_at_work()

    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        task.write(folder, config)
        rows, criteria, notes = [], [], []
        for arm in options.arms:
            workers = {}
            for name, checkout in (("old", old), ("new", REPOSITORY)):
                print(f"starting the {name} {arm}", file=sys.stderr, flush=True)
                log = folder / f"{name}-{arm}.log"
                workers[name] = stack.enter_context(start(checkout, arm, folder, log))
            losses = {name: worker.run_block(COMPARED_STEPS).loss for name, worker in workers.items()}
            blocks = {name: block_of(worker) for name, worker in workers.items()}
            steps = dict.fromkeys(blocks, steps_within(blocks["old"], options.block_seconds))
            seconds = interleave(
                blocks,
                steps,
                rounds=options.rounds,
                seed=options.seed,
                pause=0.2,
                on_round=lambda done: record.progress(done, options.rounds),
            )
            ratio = speed_up(seconds["old"], seconds["new"])
            criteria.append(record.at_least(f"speed of the new {arm} step, in that of the old", ratio, GOAL))
            for name in workers:
                times = 1e3 * seconds[name]
                rows.append((f"{name} {arm}", f"{np.median(times):.2f}", f"{min(times):.2f}", repr(losses[name])))
            same = "the same bits" if losses["old"] == losses["new"] else "other bits"
            notes.append(f"{arm}: after {COMPARED_STEPS} steps the losses are {same}.")
            notes += [f"{name} {arm}: {worker.ready.notes}." for name, worker in workers.items()]
            for worker in workers.values():
                worker.close()
        header = ("program", "median ms", "min ms", f"loss after {COMPARED_STEPS} steps")
        return record.conclude(
            f"revisions_{config.name}",
            f"The step of {config.name} in two revisions",
            command=record.command("experiments.revisions", words),
            tables=[record.Table("training step", header, rows)],
            criteria=criteria,
            notes=[*notes, others],
            write=options.write,
        )


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
