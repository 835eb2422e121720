"""Both arms' training steps in the roofline model of this machine.

    python -m experiments.roofline --config=configs/scaled.py --write

Both arms are built as by the main command and interleaved in blocks of steps, in random order, there and back; in every
round the machine's peaks are measured too, and the best of all rounds is the roof. The main command draws the same
after its run, from peaks measured once. About 2 minutes for configs/scaled.py.

Goal: no arm above its roof, which would be a bug. Exit code 0: none is, 3: one is.
"""

import argparse
import sys

import numpy as np

from experiments import random_tokens
from experiments.lib import record
from experiments.lib.blocks import block_of, steps_within
from ryot_jax.comparison.interleaving import interleave
from ryot_jax.comparison.variants import check_active
from ryot_jax.config import load
from ryot_jax.machine import roofline
from ryot_jax.machine.allocator import configure_allocator
from ryot_jax.machine.devices import describe_devices
from ryot_jax.machine.peaks import Meter
from ryot_jax.machine.workloads import MEMORY, build
from ryot_jax.runs import roofline as run_work


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/scaled.py")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--block_seconds", type=float, default=1.5, help="length of a block, of which a round has two")
    parser.add_argument("--peak_seconds", type=float, default=0.5, help="the same for the peaks")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the arms")
    parser.add_argument("--write", action="store_true", help="write experiments/results/roofline_CONFIG.md")
    options = parser.parse_args(words)
    if options.rounds < 1:
        parser.error("needs at least 1 round")
    allocator = configure_allocator()
    others = record.others_at_work()
    config = load(options.config)

    setting = random_tokens.setting(config, arms=("baseline", "optimized"))
    arms = {variant.name: setting.arm(variant.name) for variant in setting.variants}
    check_active(setting.variants, {name: arm.hlo_text() for name, arm in arms.items()}, setting.spec)
    shapes = run_work.product_shapes(setting.model, setting.spec.rows)
    dtypes = run_work.products_dtypes(setting.model, setting.variants)
    workloads, refused = build(dtypes, shapes, products=run_work.products())
    meter = Meter(workloads)

    def measure_peaks(rounds: int) -> float:
        meter.run(rounds * options.peak_seconds)
        return rounds * options.peak_seconds

    blocks = {name: block_of(arm) for name, arm in arms.items()}
    steps = {name: steps_within(run, options.block_seconds) for name, run in blocks.items()}
    seconds = interleave(
        {**blocks, "peaks": measure_peaks},
        {**steps, "peaks": 1},
        rounds=options.rounds,
        seed=options.seed,
        on_round=lambda done: record.progress(done, options.rounds),
    )

    medians = {name: float(np.median(seconds[name])) for name in arms}
    devices = describe_devices()
    work = run_work.training_steps(setting.setup, setting.variants, medians, devices)
    found = roofline.place(work, meter.peaks(), units=devices.independent_count)
    criteria = []
    for name, arm_found in found.arms.items():
        assert arm_found.share is not None  # set by `place`
        criteria.append(record.at_most(f"{name}: share of the roof", arm_found.share, 1.0))
    notes = [
        "Operations and bytes are the closed forms of ryot_jax.model.accounting: matrix products without the masked "
        "half of the scores; weights, gradients and optimizer state read and written once, and token ids. The roof is "
        "what the slower of products and memory traffic leaves at those. Times: the median and the best round.",
        *roofline.warnings(found),
        f"Allocator: {allocator.reason}.",
        others,
        *(f"Not measured: {why}." for why in refused),
    ]
    return record.conclude(
        f"roofline_{config.name}",
        f"Roofline of {config.name}",
        command=record.command("experiments.roofline", words),
        tables=[_arms(found, seconds), _peaks(meter)],
        criteria=criteria,
        notes=notes,
        write=options.write,
    )


def _arms(found, seconds) -> record.Table:
    header = (
        "arm",
        "products in",
        "GFLOP",
        "MiB",
        "FLOP/byte",
        "roof GFLOP/s",
        "bound by",
        "ms",
        "GFLOP/s",
        "share",
        "best ms",
        "best share",
    )
    rows = [
        (
            name,
            arm.dtype,
            f"{arm.flops / 1e9:.2f}",
            f"{arm.bytes / 2**20:,.1f}",
            f"{arm.flops / arm.bytes:,.0f}",
            f"{arm.roof / 1e9:,.0f}",
            arm.bound,
            f"{1e3 * arm.seconds:.1f}",
            f"{arm.flops_per_second / 1e9:,.0f}",
            f"{arm.share:.3f}",
            f"{1e3 * min(seconds[name]):.1f}",
            f"{arm.share * arm.seconds / min(seconds[name]):.3f}",
        )
        for name, arm in found.arms.items()
    ]
    return record.Table("training step", header, rows)


def _peaks(meter: Meter) -> record.Table:
    by_resource = sorted(meter.rates(), key=lambda found: found[0].resource)
    rows = [
        (f"{program.resource}, {program.name}", f"{rate / 1e9:,.0f} {_unit(program.resource)}")
        for program, rate in by_resource
    ]
    return record.Table("peaks (products: rows x inner x columns), best sample", ("program", "rate"), rows)


def _unit(resource: str) -> str:
    return "GB/s" if resource == MEMORY else "GFLOP/s"


if __name__ == "__main__":
    sys.exit(record.exit_code(main))
