"""A process that times block pairs, which `ryot train` starts for each process beyond its own.

    python -m ryot_jax.runs.timing_process RUN INDEX

It recompiles the run's programs without the compilation cache, times as many block pairs as the run has, and writes the
times into the run directory.
"""

# JAX is imported after the allocator is set, as in `main`.
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from ryot_jax.machine.allocator import configure_allocator
from ryot_jax.runtime.files import write_json
from ryot_jax.runtime.run_directory import RunDirectory


def main() -> None:
    """Times the block pairs of one process and writes the times into the run directory."""
    directory, index = RunDirectory(Path(sys.argv[1])), int(sys.argv[2])
    config = json.loads(directory.config.read_text(encoding="utf-8"))
    configure_allocator(config["runtime"]["allocator"])
    write_json(directory.process(index), _time_blocks(directory, index))


def _time_blocks(directory: RunDirectory, index: int) -> dict[str, Any]:
    from ryot_jax.comparison.arms import Arm
    from ryot_jax.comparison.interleaving import take_turns
    from ryot_jax.comparison.outcomes import ProcessTimes
    from ryot_jax.config import load
    from ryot_jax.data.pipeline import prepare
    from ryot_jax.runs.compiled_arms import schedule_of
    from ryot_jax.runs.session import open_session
    from ryot_jax.training.setup import build_setup

    config = load(str(directory.config))
    session = open_session(config, _no_output, cached_programs=False, manifest=directory.manifest)
    session.limit_workers()
    setup = build_setup(
        config, session.model, prepare(config.data, config.tokenizer, config.model.vocab_size, _no_output)
    )
    arms = [Arm(setup, variant) for variant in session.variants[0]]
    schedule = schedule_of(setup, config.seed + 1000 * index)  # the seed decides the order of arms alone
    seconds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    blocks = {arm.name: lambda n, arm=arm: arm.run_block(n).seconds for arm in arms}
    for arm in arms:
        arm.warm_up()
    for block in schedule.blocks():
        for name, taken in take_turns(blocks, schedule.visits(block, list(blocks))).items():
            seconds[name].append(taken / block.steps)
    return dataclasses.asdict(
        ProcessTimes(
            {name: tuple(values) for name, values in seconds.items()},
            {arm.name: sum(arm.compile_seconds.values()) for arm in arms},
        )
    )


def _no_output(_: str) -> None:
    """Drops the log: the parent shows the output of this process only if it fails."""


if __name__ == "__main__":
    main()
