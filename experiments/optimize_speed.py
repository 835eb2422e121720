"""How much faster do other people's models train through `optimize`?

    pip install --no-deps transformers==4.57.1 'huggingface_hub<1' equinox dm-haiku     # and what they ask for
    python -m experiments.optimize_speed --write

The models of `optimize_models`, unmodified, in the sizes of configs/scaled.py; a library that is not installed is told.
Each is compared with its optimized self by `compare_losses`: the same batches, in turns, with placebo and known delay.
About a minute and a half for each model on 2 cores. The memory allocator is left as a user's program has it, or set as
the main command sets it (`--allocator`), which makes both faster.

Goals, for transformers' Flax GPT-2: 1.8 times as fast in float32 and 3 times with `precision="bfloat16"`, gradients to
1e-5 and 1e-2. The other models have no goal.
"""

import argparse
import math
import sys
import time

import jax
import optax

from experiments.lib import record
from experiments.lib.other_models import MODELS, Model, Sizes
from ryot_jax import optimize
from ryot_jax.comparison import Comparison, compare_losses
from ryot_jax.comparison.statistics import SpeedUp
from ryot_jax.machine.allocator import configure_allocator

SIZES = Sizes(vocabulary=2048, length=128, width=128, heads=4, layers=4, batch=32)
BLOCKS, BLOCK_SECONDS = 12, 1.5
GPT2 = "transformers: Flax GPT-2"
GOALS = {"": ("float32", 1.8, 1e-5), "bfloat16": ("bfloat16", 3.0, 1e-2)}


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=sorted(MODELS), help="names of models")
    parser.add_argument("--allocator", action="store_true", help="set the allocator as the main command does")
    parser.add_argument("--write", action="store_true", help="write experiments/results/optimize_speed[_allocator].md")
    options = parser.parse_args(words)
    notes = ["Allocator: as it is in a program that does not set it."]
    if options.allocator:
        setting = configure_allocator()
        notes = [f"Allocator: {'as the main command sets it' if setting.applied else setting.reason}."]
    notes.append(record.others_at_work())
    rows: list[tuple[str, ...]] = []
    criteria = []
    for name in options.only or MODELS:
        try:
            model = MODELS[name](SIZES)
        except ImportError as missing:
            notes.append(f"{name}: not tried, {missing}.")
            continue
        for precision in ("", "bfloat16") if name == GPT2 else ("",):
            dtype, goal, most = GOALS[precision]
            error = optimize(model.loss, precision=precision).check(*model.arguments).gradient
            found = _compared(model, precision, f"{name}, {dtype}")
            rows.append(_row(f"{name}, {dtype}", found, error))
            print(" | ".join(rows[-1]), flush=True)
            if name == GPT2:
                speed_up = _speed_up(found)
                criteria.append(record.at_least(f"GPT-2 in {dtype}, times as fast", speed_up, goal))
                criteria.append(record.at_most(f"GPT-2 in {dtype}, error of gradients", error, most, ".0e"))
    header = ("model", "times as fast", "ms without", "ms with", "error of gradients", "verdict", "but for")
    return record.conclude(
        "optimize_speed_allocator" if options.allocator else "optimize_speed",
        "Other people's models, with and without optimize",
        command=record.command("experiments.optimize_speed", words),
        tables=[record.Table("gradient steps", header, rows)],
        criteria=criteria,
        notes=notes,
        write=options.write,
    )


def _compared(model: Model, precision: str, name: str) -> Comparison:
    """The comparison of a model with its optimized self, in blocks of some seconds."""
    gradient = jax.jit(jax.value_and_grad(model.loss))
    jax.block_until_ready(gradient(*model.arguments))
    start = time.perf_counter()
    jax.block_until_ready(gradient(*model.arguments))
    block_steps = 2 * max(1, math.ceil(BLOCK_SECONDS / (time.perf_counter() - start) / 2))
    return compare_losses(
        model.loss,
        optimize(model.loss, precision=precision, verify=False),
        model.params,
        model.batches,
        optimizer=optax.adam(3e-4),
        same_numerics=not precision,
        steps=BLOCKS * block_steps,
        block_steps=block_steps,
        control_blocks=BLOCKS,
        control_steps=block_steps,
        name=name,
    )


def _speed_up(found: Comparison) -> SpeedUp:
    assert found.results.comparison is not None
    return found.results.comparison.step_time_speedup


def _row(name: str, found: Comparison, error: float) -> tuple[str, ...]:
    results = found.results
    controls = results.controls.items if results.controls is not None else ()
    failed = [criterion.name for criterion in results.criteria if criterion.verdict != "PASS"]
    failed += [control.name for control in controls if control.verdict != "PASS"]
    without, with_kernels = (f"{arm.step_ms_median:.1f}" for arm in results.arms.values())
    return (
        name,
        record.in_words(_speed_up(found)),
        without,
        with_kernels,
        f"{error:.0e}",
        found.verdict,
        ", ".join(failed) or "nothing",
    )


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
