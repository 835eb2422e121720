"""Speed of the optimized step on a CPU, relative to the baseline and to the machine's best matrix product.

    python -m experiments.cpu_step --config=configs/scaled.py --write

Both arms are built as by the main command and run in one process with one allocator setting, in blocks of steps in
random order, there and back. In every round the machine's best bfloat16 matrix product is measured too: the share of
the limit is the time of the step's matrix products at that rate, over the time of the step. About 3 minutes for
configs/scaled.py and 5 for configs/wide.py.

Goals, with their 95 % intervals: 2.8 times as fast as the baseline for scaled and 2.0 times for wide; 0.70 and 0.75
of the limit; a third of the baseline's memory. Exit code 0: all reached, 3: one missed, 4: inconclusive.
"""

import argparse
import sys

import numpy as np

from experiments import matrix_peak, random_tokens
from experiments.lib import record
from experiments.lib.blocks import block_of, steps_within
from ryot_jax.comparison.arms import Arm
from ryot_jax.comparison.interleaving import interleave
from ryot_jax.comparison.statistics import speed_up
from ryot_jax.comparison.variants import check_active
from ryot_jax.config import load
from ryot_jax.machine.allocator import configure_allocator
from ryot_jax.model.accounting import flops_per_step

SPEED_UP = {"scaled": 2.8, "wide": 2.0}
SHARE_OF_LIMIT = {"scaled": 0.70, "wide": 0.75}
MEMORY_RATIO = 1 / 3


class Limit:
    """The machine's rate as an arm: a block takes the time of the step's products at that rate."""

    def __init__(self, flops: int):
        self.flops = flops
        self.products, self.refused = matrix_peak.products()
        self.best: dict[tuple[str, tuple[int, int, int]], float] = {}

    def run_block(self, n_steps: int) -> float:
        """Seconds of `n_steps` steps at the current rate of the fastest product."""
        rates = list(matrix_peak.flops_per_second(self.products))
        for product, rate in rates:
            key = product.source, product.shape
            self.best[key] = max(rate, self.best.get(key, 0.0))
        return n_steps * self.flops / max(rate for _, rate in rates)

    def table(self) -> record.Table:
        """The fastest run of every product in this process so far."""
        rows = [
            (f"{source} {' x '.join(map(str, shape))}", f"{rate / 1e9:,.0f}")
            for (source, shape), rate in sorted(self.best.items(), key=lambda item: -item[1])
        ]
        return record.Table("bfloat16 products (rows x inner x columns), best run", ("product", "GFLOP/s"), rows)


def memory(arm: Arm) -> tuple[int, int, int]:
    """Bytes of arguments, of temporaries, and of the whole step, as allocated by the compiler."""
    step = max(arm.programs.values(), key=lambda program: program.memory_bytes or 0)
    analysis = step.executable.memory_analysis()
    assert analysis is not None and step.memory_bytes is not None, "XLA:CPU tells the memory of its programs"
    return analysis.argument_size_in_bytes, analysis.temp_size_in_bytes, step.memory_bytes


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/scaled.py")
    parser.add_argument("--rounds", type=int, default=16, help="each gives one pair")
    parser.add_argument("--block_seconds", type=float, default=2.0, help="length of a block, of which a round has two")
    parser.add_argument("--block_steps", type=int, default=0, help="steps of a block instead")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the arms")
    parser.add_argument("--write", action="store_true", help="write experiments/results/cpu_step_CONFIG.md")
    options = parser.parse_args(words)
    if options.rounds < 2 or options.block_steps < 0:
        parser.error("needs at least 2 rounds of 1 step")
    allocator = configure_allocator()
    others = record.others_at_work()
    config = load(options.config)

    setting = random_tokens.setting(config, arms=("baseline", "optimized"))
    arms = {variant.name: setting.arm(variant.name) for variant in setting.variants}
    programs = {name: arm.hlo_text() for name, arm in arms.items()}
    check_active(setting.variants, programs, setting.spec)
    flops = flops_per_step(setting.model, config.training.batch_size, config.training.seq_len)
    limit = Limit(flops)

    blocks = {name: block_of(arm) for name, arm in arms.items()}
    steps = {name: options.block_steps or steps_within(run, options.block_seconds) for name, run in blocks.items()}
    seconds = interleave(
        {**blocks, "limit": limit.run_block},
        {**steps, "limit": 1},
        rounds=options.rounds,
        seed=options.seed,
        on_round=lambda done: record.progress(done, options.rounds),
    )

    faster = speed_up(seconds["baseline"], seconds["optimized"])
    shares = {name: speed_up(seconds["limit"], seconds[name]) for name in arms}
    bytes_by_arm = {name: memory(arm) for name, arm in arms.items()}
    memory_ratio = bytes_by_arm["optimized"][2] / bytes_by_arm["baseline"][2]
    criteria = []
    if config.name in SPEED_UP:
        criteria = [
            record.at_least("baseline / optimized step time", faster, SPEED_UP[config.name]),
            record.at_least("share of the limit", shares["optimized"], SHARE_OF_LIMIT[config.name]),
            record.at_most("optimized / baseline memory", memory_ratio, MEMORY_RATIO),
        ]
    plan = setting.variants[-1].plan
    best_rate = max(limit.best.values())
    # A causal model needs half of the T x T score products that the convention counts.
    causal_flops = flops - 3 * 2 * setting.model.n_layers * config.training.seq_len * setting.model.d_model * (
        config.training.batch_size * config.training.seq_len
    )
    best_share = causal_flops / best_rate / np.median(seconds["optimized"])
    notes = [
        "optimized: " + ", ".join(f"{op}={name or 'as the model'}" for op, name in plan.items()) + ".",
        f"Baseline over optimized: {record.in_words(faster)}; median {faster.median:.3f}.",
        f"A step is {flops / 1e9:.1f} GFLOP by ryot_jax.model.accounting, which counts causal attention in full; "
        f"without the masked half it is {causal_flops / 1e9:.1f}. That, held against the best product of all rounds "
        f"({best_rate / 1e9:,.0f} GFLOP/s), is {best_share:.3f} of the limit at the median step.",
        "Memory is what the compiler planned; what the C++ kernels take while they run is not in it.",
        f"Allocator: {allocator.reason}.",
        others,
        *(f"No products of the {source}: {why}." for source, why in limit.refused.items()),
    ]
    return record.conclude(
        f"cpu_step_{config.name}",
        f"CPU step of {config.name}",
        command=record.command("experiments.cpu_step", words),
        tables=[_times(seconds, steps, flops, shares, bytes_by_arm), limit.table()],
        criteria=criteria,
        notes=notes,
        write=options.write,
    )


def _times(seconds, steps, flops, shares, bytes_by_arm) -> record.Table:
    header = ("arm", "median ms", "min ms", "GFLOP/s", "share of limit", "arguments MiB", "temporaries MiB", "step MiB")
    rows = []
    for name in steps:
        median = float(np.median(seconds[name]))
        sizes = [f"{size / 2**20:,.0f}" for size in bytes_by_arm[name]]
        share = "no data" if shares[name].estimate is None else f"{shares[name].estimate:.3f}"
        rows.append(
            (
                name,
                f"{1e3 * median:.1f}",
                f"{1e3 * min(seconds[name]):.1f}",
                f"{flops / median / 1e9:,.0f}",
                share,
                *sizes,
            )
        )
    ideal = seconds["limit"]
    rate = f"{flops / float(np.median(ideal)) / 1e9:,.0f}"
    rows.append(("limit", f"{1e3 * np.median(ideal):.1f}", f"{1e3 * min(ideal):.1f}", rate, "1.000", "", "", ""))
    return record.Table("training step", header, rows)


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
