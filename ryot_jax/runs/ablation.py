"""`ryot ablate`: the effect of each optimization of a config on the step time, alone and beside the others.

`comparison.ablation` times the arms, `comparison.attribution` computes the effects, `report.topics.ablation` words
them.
"""

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ryot_jax.comparison import ablation, attribution, results
from ryot_jax.comparison.ablation import CompiledArm, Design
from ryot_jax.comparison.attribution import Attribution, Subset
from ryot_jax.config import to_json
from ryot_jax.data.pipeline import prepare
from ryot_jax.kernels import Spec
from ryot_jax.machine.allocator import AllocatorRecord
from ryot_jax.optimizations import Resolution
from ryot_jax.report.topics import ablation as ablation_summary
from ryot_jax.runs.compiled_arms import collect_manifest, measure_kernels
from ryot_jax.runs.session import open_session
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import EXIT_PASS
from ryot_jax.runtime.files import display_path, write_json, write_text
from ryot_jax.runtime.json_values import plain
from ryot_jax.runtime.progress import format_duration
from ryot_jax.runtime.run_directory import create_run
from ryot_jax.training.setup import TrainingSetup, build_setup

SCHEMA_VERSION = 1  # version of attribution.json


@dataclasses.dataclass(frozen=True)
class Extent:
    """The extent of the measurement.

    Attributes:
      only: names of the optimizations to attribute; others are off in every arm. None: all that are on.
      rounds: number of rounds, each of which gives one ratio of any two arms; at least 2.
      block_steps: steps per turn; an arm has two turns per round.
    """

    only: tuple[str, ...] | None
    rounds: int
    block_steps: int


def ablate(config: ConfigDict, workdir: Path, extent: Extent, allocator: AllocatorRecord, console: Console) -> int:
    """Times the arms, prints the effects and writes `attribution.json` into a run directory; returns 0.

    Raises:
      RyotError: one of the named errors of `runtime.errors`; files written before it are kept.
    """
    start = time.perf_counter()
    session = open_session(config, console.line, trains=True)
    measure_kernels(session)
    optimized = session.resolve()
    # Raises for mistakes on the command line before a run directory exists.
    design = ablation.design(optimized, session.spec, block_steps=extent.block_steps, only=extent.only)
    directory = create_run(workdir, f"{config.name}-ablate")
    with contextlib.closing(console):
        console.log_to(directory.log)
        console.line(f"run {directory.path}")
        write_text(directory.config, to_json(config))
        corpus = prepare(config.data, config.tokenizer, config.model.vocab_size, console.line)
        written = collect_manifest(session, corpus, allocator, {"optimized": optimized})
        write_json(directory.manifest, written)
        setup = build_setup(config, session.model, corpus)
        attributed, document = _ablate(setup, design, session.spec, extent, optimized, console)
        seconds = time.perf_counter() - start
        document["manifest"] = {**written, "seconds_in_all": seconds}
        path = directory.path / "attribution.json"
        results.write(path, document)
        console.line()
        for line in ablation_summary.lines(attributed, document["warnings"]):
            console.line(line)
        console.line()
        console.line(f"finished in {format_duration(seconds)}; the time of every arm and round: {display_path(path)}")
    return EXIT_PASS


def _ablate(
    setup: TrainingSetup, design: Design, spec: Spec, extent: Extent, optimized: Resolution, console: Console
) -> tuple[Attribution, dict[str, Any]]:
    """Times the arms and returns the effects and the content of `attribution.json`.

    Warnings known in advance are printed before the measurement.
    """
    for player in design.players:
        console.line(f"{player.name}: {player.implementation} ({optimized.reasons[player.name]})")
    warnings = [*_few_rounds(extent.rounds, design), *_left_out(design, design.missing)]
    for warning in warnings:
        console.line(f"warning: {warning}")
    built, unproven = ablation.build(setup, design, spec, log=console.line)
    seconds = ablation.measure(setup, built, rounds=extent.rounds, block_steps=extent.block_steps, log=console.line)
    missing = {**design.missing, **unproven}
    attributed = attribution.attribute(seconds, design.players)
    document = {
        "schema_version": SCHEMA_VERSION,
        "name": setup.config.name,
        "attribution": attributed,
        "block_steps": extent.block_steps,
        "arms": [_arm(subset, arm, seconds[subset]) for subset, arm in built.items()],
        "missing": [{"on": sorted(subset), "reason": reason} for subset, reason in missing.items()],
        "warnings": [*warnings, *_left_out(design, unproven), *ablation.doubts(built), *_outliers(seconds, built)],
    }
    value: dict[str, Any] = plain(document)
    return attributed, value


def _few_rounds(rounds: int, design: Design) -> list[str]:
    tests = 2 * len(design.players)
    least = attribution.least_holm_p(rounds, tests)
    if least < attribution.LEVEL:
        return []
    enough = next(n for n in range(rounds, 100) if attribution.least_holm_p(n, tests) < attribution.LEVEL)
    return [
        f"{rounds} rounds cannot give a Holm p below {least:.2g} for {tests} tests, so that no effect can be told from "
        f"none by it; with --rounds={enough} it can fall below {attribution.LEVEL:g}"
    ]


def _left_out(design: Design, missing: Mapping[Subset, str]) -> list[str]:
    names = [player.name for player in design.players]
    return [f"not timed: {ablation.subset_name(subset, names)}: {reason}" for subset, reason in missing.items()]


def _outliers(seconds: Mapping[Subset, np.ndarray], built: Mapping[Subset, CompiledArm]) -> list[str]:
    outliers = attribution.outliers(seconds)
    if not outliers:
        return []
    worst, times = outliers[0], sum(map(len, seconds.values()))
    return [
        f"{len(outliers)} of {times} times are more than {attribution.OUTLIER:g} times as long as their arm and round "
        f"explain (the worst {worst.factor:.1f} times: {built[worst.subset].variant.name}, round {worst.round}): the "
        "machine was busy with something else. They are kept, and widen the intervals"
    ]


def _arm(subset: Subset, arm: CompiledArm, seconds: np.ndarray) -> dict[str, Any]:
    return {
        "name": arm.variant.name,
        "on": sorted(subset),
        "plan": dict(arm.variant.plan),
        "evidence": {name: evidence.text for name, evidence in arm.evidence.items()},
        "compile_seconds": arm.compile_seconds,
        "program_check": {name: dataclasses.asdict(check) for name, check in arm.program_checks.items()} or None,
        "seconds_per_step": seconds,
    }
