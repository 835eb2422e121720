"""Pass rate of a run's controls on this machine.

    python -m experiments.control_runs --config=configs/scaled.py --runs=10 --write

Repeats the placebo and the known delay of the main command, with the program of its optimized arm on random tokens:
each time from the initial weights, with another order of arms. Only the machine's own noise can make a placebo fail.
Goals: the placebo passes in 9 of 10 runs or more, the known delay is detected in as many, and its interval covers the
true 5 %. About 45 seconds per run.
"""

import argparse
import sys
from collections.abc import Sequence

from experiments import random_tokens
from experiments.lib.record import Table, command, conclude, exit_code, others_at_work, progress
from ryot_jax.comparison.controls import Control, timing_controls
from ryot_jax.comparison.criteria import Criterion, Verdict
from ryot_jax.config import load
from ryot_jax.machine.allocator import configure_allocator


def main(words: Sequence[str] | None = None) -> int:
    """Run the controls, print each outcome, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/scaled.py")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(words)
    config = load(options.config)
    configure_allocator(config.runtime.allocator)
    quiet = others_at_work()
    arm = random_tokens.setting(config).arm("optimized")
    rows, placebos, delays = [], [], []
    for seed in range(options.runs):
        placebo, delay, floor = timing_controls(
            arm.twin,
            blocks=config.comparison.control_blocks,
            block_steps=config.comparison.control_steps,
            seconds=config.comparison.control_seconds,
            seed=seed,
        )
        placebos.append(placebo)
        delays.append(delay)
        seconds = f"{placebo.seconds + delay.seconds:.0f}"
        floor_words = "" if floor is None else f"{floor:.2%}"
        rows.append((str(seed), placebo.actual, placebo.verdict, delay.actual, delay.verdict, floor_words, seconds))
        progress(seed + 1, options.runs)
    header = ("seed", "placebo", "verdict", "known delay", "verdict", "noise floor", "seconds")
    return conclude(
        f"control_runs_{config.name}",
        f"Controls of {config.name}",
        command=command("experiments.control_runs", words),
        tables=[Table("controls", header, rows)],
        criteria=[_often("placebo", placebos), _often("known delay", delays)],
        notes=["An interval is one of 99 %, so that a control fails by chance in about one run of a hundred.", quiet],
        write=options.write,
    )


def _often(name: str, controls: Sequence[Control]) -> Criterion:
    passed = sum(control.verdict == "PASS" for control in controls)
    verdict: Verdict = "PASS" if passed >= 0.9 * len(controls) else "FAIL"
    return Criterion(f"{name} passes", "in 9 of 10 runs", f"in {passed} of {len(controls)}", verdict)


if __name__ == "__main__":
    sys.exit(exit_code(main))
