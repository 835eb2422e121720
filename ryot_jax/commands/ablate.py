"""`ryot ablate`: what each optimization of a config brings to the time of a step, alone and beside the others.

The arms and their times are of `comparison.ablation`, the effects of `comparison.attribution`, the words of
`ablation_summary`; here they meet in one run directory.
"""

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ryot_jax.cli import AblateOptions
from ryot_jax.comparison import ablation, attribution, results
from ryot_jax.comparison.ablation import Built, Design
from ryot_jax.comparison.arms import Shared, kernel_spec, share
from ryot_jax.comparison.attribution import Attribution, Subset
from ryot_jax.config import to_json, validate
from ryot_jax.data.pipeline import Corpus, prepare
from ryot_jax.kernels import Resolution, Spec, resolve
from ryot_jax.machine.allocator import AllocatorRecord
from ryot_jax.machine.devices import Devices, describe_devices, describe_processor
from ryot_jax.model.config import from_config
from ryot_jax.report.topics import ablation as ablation_summary
from ryot_jax.runs import tuning
from ryot_jax.runs.caches import open_tuning_cache, use_compilation_cache
from ryot_jax.runtime import manifest
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import EXIT_PASS
from ryot_jax.runtime.files import shown, write_json, write_text
from ryot_jax.runtime.json_values import plain
from ryot_jax.runtime.progress import format_duration
from ryot_jax.runtime.run_directory import create_run

SCHEMA_VERSION = 1  # of attribution.json


def run(config: ConfigDict, options: AblateOptions, allocator: AllocatorRecord, console: Console) -> int:
    """Times the arms, prints what was found and writes `attribution.json` into a run directory; returns 0.

    Raises:
      RyotError: see the named errors; what was written before stays.
    """
    start = time.perf_counter()
    use_compilation_cache(config)
    devices = describe_devices()
    validate(config, device_count=devices.local_count)
    model = from_config(config.model, devices.platform)
    spec = kernel_spec(config, model, devices)
    cache = open_tuning_cache(config, console.line)
    if config.runtime.tune_kernels:
        for line in tuning.tune(config, model, spec, cache, log=console.line).table():
            console.line(line)
    optimized = resolve(config.optimizations, spec=spec, lookup=cache.lookup)
    # What is wrong with the command line shows here, before there is a run directory.
    design = ablation.design(optimized, spec, block_steps=options.block_steps, only=options.only)
    directory = create_run(options.workdir, f"{config.name}-ablate")
    with contextlib.closing(console):
        console.log_to(directory.log)
        console.line(f"run {directory.path}")
        write_text(directory.config, to_json(config))
        corpus = prepare(config.data, config.tokenizer, config.model.vocab_size, console.line)
        written = _manifest(config, devices, allocator, corpus, optimized)
        write_json(directory.manifest, written)
        attributed, document = _ablate(share(config, model, corpus), design, spec, options, optimized, console)
        seconds = time.perf_counter() - start
        document["manifest"] = {**written, "seconds_in_all": seconds}
        path = directory.path / "attribution.json"
        results.write(path, document)
        console.line()
        for line in ablation_summary.lines(attributed, document["warnings"]):
            console.line(line)
        console.line()
        console.line(f"finished in {format_duration(seconds)}; the time of every arm and round: {shown(path)}")
    return EXIT_PASS


def _ablate(
    shared: Shared, design: Design, spec: Spec, options: AblateOptions, optimized: Resolution, console: Console
) -> tuple[Attribution, dict[str, Any]]:
    """The effects, and everything that is found as JSON values.

    What is known beforehand is logged before the time is spent.
    """
    for player in design.players:
        console.line(f"{player.name}: {player.implementation} ({optimized.reasons[player.name]})")
    warnings = [*_few_rounds(options.rounds, design), *_left_out(design, design.missing)]
    for warning in warnings:
        console.line(f"warning: {warning}")
    built, unproven = ablation.build(shared, design, spec, log=console.line)
    seconds = ablation.measure(shared, built, rounds=options.rounds, block_steps=options.block_steps, log=console.line)
    missing = {**design.missing, **unproven}
    attributed = attribution.attribute(seconds, design.players)
    document = {
        "schema_version": SCHEMA_VERSION,
        "name": shared.config.name,
        "attribution": attributed,
        "block_steps": options.block_steps,
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


def _outliers(seconds: Mapping[Subset, np.ndarray], built: Mapping[Subset, Built]) -> list[str]:
    found = attribution.outliers(seconds)
    if not found:
        return []
    worst, times = found[0], sum(map(len, seconds.values()))
    return [
        f"{len(found)} of {times} times are more than {attribution.OUTLIER:g} times as long as their arm and round "
        f"explain (the worst {worst.factor:.1f} times: {built[worst.subset].variant.name}, round {worst.round}): the "
        "machine was busy with something else. They are kept, and widen the intervals"
    ]


def _arm(subset: Subset, arm: Built, seconds: np.ndarray) -> dict[str, Any]:
    return {
        "name": arm.variant.name,
        "on": sorted(subset),
        "plan": dataclasses.asdict(arm.variant.plan),
        "evidence": {name: evidence.text for name, evidence in arm.evidence.items()},
        "compile_seconds": arm.compile_seconds,
        "program_check": {name: dataclasses.asdict(check) for name, check in arm.program_checks.items()} or None,
        "seconds_per_step": seconds,
    }


def _manifest(
    config: ConfigDict, devices: Devices, allocator: AllocatorRecord, corpus: Corpus, optimized: Resolution
) -> dict[str, Any]:
    return manifest.collect(
        config_json=to_json(config),
        devices=devices,
        processor=describe_processor(),
        allocator=allocator,
        data_hash=corpus.data_hash,
        tokenizer_hash=corpus.tokenizer.hash,
        end_of_document=corpus.tokenizer.eod,
        kernel_plans={"optimized": dataclasses.asdict(optimized.plan)},
        kernel_reasons={"optimized": optimized.reasons},
    )
