"""`ryot train`: both arms from one config, compared, and written down in one run directory."""

import contextlib
import dataclasses
import datetime
import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from ryot_jax.cli import CheckpointOptions, TrainOptions
from ryot_jax.commands import compress
from ryot_jax.comparison import estimands, results
from ryot_jax.comparison.arms import Arm, Shared, kernel_spec, reseeded, share, variants
from ryot_jax.comparison.criteria import EXIT_CODES
from ryot_jax.comparison.outcomes import TrainingPair
from ryot_jax.comparison.probes import Evidence
from ryot_jax.comparison.protocol import Schedule
from ryot_jax.comparison.schema import CompressionResult, DecodingResult, Results, TimeToLoss
from ryot_jax.comparison.variants import Variant, check_active, describe, differences, is_statistical
from ryot_jax.config import to_json, validate
from ryot_jax.data.entropy import ngram_entropies
from ryot_jax.data.pipeline import Corpus, prepare
from ryot_jax.data.tokenizer import JsonTokenizer
from ryot_jax.kernels import KernelPlan, Resolution, Spec
from ryot_jax.kernels.plan import Choice, Lookup
from ryot_jax.machine import roofline
from ryot_jax.machine.allocator import AllocatorRecord
from ryot_jax.machine.devices import describe_devices, describe_processor
from ryot_jax.model import ModelConfig
from ryot_jax.model.accounting import parameters_by_part
from ryot_jax.model.config import from_config
from ryot_jax.report import files as report_files
from ryot_jax.report.formats import terminal
from ryot_jax.runs import (
    checkpoint_of_run,
    control_runs,
    decoding_speed,
    fresh_process,
    time_to_loss,
    training_pair,
    tuning,
)
from ryot_jax.runs.caches import open_tuning_cache, use_compilation_cache
from ryot_jax.runs.scheduled_arm import plans
from ryot_jax.runtime import manifest
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import CheckpointError, ConfigError, RyotError
from ryot_jax.runtime.files import shown, write_json, write_text
from ryot_jax.runtime.progress import format_duration
from ryot_jax.runtime.run_directory import RunDirectory, create_run
from ryot_jax.runtime.run_lock import locked


def run(config: ConfigDict, options: TrainOptions, allocator: AllocatorRecord, console: Console) -> int:
    """Trains, compares, reports; returns the exit code of the verdict.

    `allocator` says what was set before this module, and with it JAX, was imported.

    Raises:
      RyotError: see the named errors; what was written before stays.
    """
    use_compilation_cache(config)
    directory = RunDirectory(options.resume) if options.resume else create_run(options.workdir, config.name)
    with locked(directory) as previous_owner, contextlib.closing(console):
        console.log_to(directory.log)
        if previous_owner:
            console.line(previous_owner)
        write_text(directory.config, to_json(config))
        return _run(config, directory, console, allocator, resumed=options.resume is not None)


def _run(
    config: ConfigDict,
    directory: RunDirectory,
    console: Console,
    allocator: AllocatorRecord,
    *,
    resumed: bool,
) -> int:
    clock = _Phases()
    devices = describe_devices()
    validate(config, device_count=devices.local_count)
    console.line(f"run {directory.path}")
    corpus = prepare(config.data, config.tokenizer, config.model.vocab_size, console.line)
    console.line(_describe(corpus))
    if isinstance(corpus.tokenizer, JsonTokenizer):
        write_text(directory.tokenizer, corpus.tokenizer.to_json())
    model = from_config(config.model, devices.platform)
    shared = share(config, model, corpus)
    entropies = ngram_entropies(corpus.train, shared.heldout, model.vocab_size)
    console.line(
        f"held-out entropy of counts: unigram {entropies.unigram:.3f}, bigram {entropies.bigram:.3f} nats/token"
    )
    clock.end("data")
    spec = kernel_spec(config, model, devices)
    lookup = _kernel_choices(config, model, spec, directory, console, resumed=resumed)
    wanted, resolutions = variants(config, spec, lookup)
    reasons = {name: resolution.reasons for name, resolution in resolutions.items()}
    settings = _settings(config)
    compress.parse_budget(config.compression.budget)  # before hours of training, not after
    stated_at = _write_estimands(directory, settings, statistical=is_statistical(wanted[-1]))
    arms = [_build(shared, variant, resolutions[variant.name], console) for variant in wanted]
    evidence = check_active(wanted, {arm.name: arm.hlo_text() for arm in arms}, spec)
    written = manifest.collect(
        config_json=to_json(config),
        devices=devices,
        processor=describe_processor(),
        allocator=allocator,
        data_hash=corpus.data_hash,
        tokenizer_hash=corpus.tokenizer.hash,
        end_of_document=corpus.tokenizer.eod,
        kernel_plans={variant.name: dataclasses.asdict(variant.plan) for variant in wanted},
        kernel_reasons=reasons,
    )
    write_json(directory.manifest, written)
    schedule = Schedule(
        epochs=config.training.epochs,
        steps_per_epoch=config.training.steps_per_epoch,
        block_steps=config.comparison.block_steps,
        tokens_per_step=shared.tokens_per_step,
        seed=config.seed,
    )
    clock.end("compilation and checks")
    pairs = _train_pairs(shared, arms, schedule, corpus, directory, console, resumed=resumed)
    clock.end("training and evaluation")
    processes = fresh_process.run_all(directory, config.comparison.processes - 1, console)
    clock.end("fresh processes")
    controls = None
    if len(arms) == 2 and config.comparison.controls:
        controls = control_runs.run(arms[-1], schedule, dataclasses.asdict(entropies), settings, console)
    clock.end("controls")
    reached, scaling_warnings = _time_to_loss(shared, arms, pairs[0], corpus, directory, console, resumed=resumed)
    clock.end("schedule and recipe")
    peak_memory_bytes = _peak_memory_bytes()  # before the roofline, which takes hundreds of megabytes of its own
    under_roof, roof_warnings = roofline.of_run(shared, wanted, pairs[0].record)
    clock.end("roofline")
    compressed, compression_warnings = _compress_best(config, arms[-1], corpus, directory, console)
    clock.end("compression")
    decoded, decoding_warnings = _decode_with_best(config, arms[-1], corpus, directory, console, resumed=resumed)
    clock.end("decoding")
    facts = [
        dataclasses.replace(
            _facts(shared, arm, wanted[0], evidence.get(arm.name, {}), reasons[arm.name]),
            compiled_from_cache=arm.from_cache,
            compile_warm_seconds=arm.warm_compile_seconds() if config.runtime.compilation_cache else None,
        )
        for arm in arms
    ]
    clock.end("compilation from the cache")
    found = results.assemble(
        results.Measurements(pairs, processes, controls, under_roof, compressed, decoded, reached),
        facts,
        schedule,
        settings,
        name=config.name,
        data={**corpus.description, "data_hash": corpus.data_hash},
        entropies=dataclasses.asdict(entropies),
        manifest={
            **written,
            "seconds_in_all": clock.total(),
            "seconds_by_phase": clock.seconds,
            "peak_memory_bytes": peak_memory_bytes,
        },
        artifacts=_artifacts(directory, config, compressed),
        stated_at=stated_at,
        warnings=[*scaling_warnings, *roof_warnings, *compression_warnings, *decoding_warnings],
    )
    results.write(directory.results, found)
    report_files.write(directory.path, found)
    _print_summary(console, found, directory, clock.total())
    return EXIT_CODES[found.verdict]


class _Phases:
    """Where the time of a run goes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = self._last = time.perf_counter()

    def end(self, phase: str) -> None:
        """What passed since the phase before."""
        now = time.perf_counter()
        self.seconds[phase], self._last = now - self._last, now

    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start


def _settings(config: ConfigDict) -> estimands.Settings:
    comparison, both = config.comparison, len(config.comparison.arms) == 2
    return estimands.Settings(
        loss_margin=comparison.loss_margin,
        tight_loss_margin=comparison.tight_loss_margin,
        beat=comparison.beat,
        training_pairs=comparison.pairs,
        processes=comparison.processes,
        controls=both and comparison.controls,
        arms=len(comparison.arms),
        decodes=config.decoding.enabled and config.checkpoint.enabled,
    )


def _write_estimands(directory: RunDirectory, settings: estimands.Settings, *, statistical: bool) -> str:
    """Writes down what is to be estimated, before anything is measured; returns when that was (UTC, ISO 8601)."""
    items = estimands.describe_estimands(settings, statistical=statistical)
    if directory.estimands.is_file():  # of the run that is gone on with
        try:
            stated = json.loads(directory.estimands.read_text(encoding="utf-8"))
            if stated["sha256"] == estimands.digest(items):
                return str(stated["stated_at"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{directory.estimands} is damaged ({error}): start a new run") from error
        raise CheckpointError(
            f"{directory.estimands} states other estimands than this version of the program would judge the run by; "
            "go on with the version that began it, or start a new run"
        )
    stated_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    write_json(
        directory.estimands,
        {"sha256": estimands.digest(items), "stated_at": stated_at, "items": estimands.plain(items)},
    )
    return stated_at


def _train_pairs(
    shared: Shared,
    arms: Sequence[Arm],
    schedule: Schedule,
    corpus: Corpus,
    directory: RunDirectory,
    console: Console,
    *,
    resumed: bool,
) -> list[TrainingPair]:
    """The training pairs one after the other; those that a run before this one has finished are not done again."""
    pairs = []
    count = shared.config.comparison.pairs
    for index in range(count):
        seed, folder = shared.config.seed + index, directory.training_pair(index)
        record = training_pair.finished(folder) if resumed else None
        if record is None:
            if count > 1:
                console.line(f"training pair {index + 1} of {count}, seed {seed}")
            if index == 0:
                own, own_arms = shared, arms
            else:
                own = reseeded(shared, corpus, seed)
                own_arms = [Arm(own, arm.variant, same_programs_as=arm) for arm in arms]
            record = training_pair.train(
                own,
                own_arms,
                dataclasses.replace(schedule, seed=seed),
                folder,
                console,
                resumed=resumed,
                keep_checkpoints=index == 0,
            )
        pairs.append(TrainingPair(seed, record))
    return pairs


def _kernel_choices(
    config: ConfigDict, model: ModelConfig, spec: Spec, directory: RunDirectory, console: Console, *, resumed: bool
) -> Lookup:
    """What 'auto' takes before its static order: the kernels of the run that is gone on with, or measured ones."""
    if resumed and directory.manifest.is_file():
        return same_kernels(directory.manifest)
    cache = open_tuning_cache(config, console.line)
    if config.runtime.tune_kernels and "optimized" in config.comparison.arms:
        for line in tuning.tune(config, model, spec, cache, log=console.line).table():
            console.line(line)
    return cache.lookup


def same_kernels(manifest: Path) -> Lookup:
    """The kernels of a run, by its manifest.

    Raises:
      CheckpointError: the manifest is damaged.
    """
    try:
        arms = json.loads(manifest.read_text(encoding="utf-8"))["kernels"]
        names = {op: str(kernel["implementation"]) for op, kernel in arms.get("optimized", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{manifest} is damaged ({error}), so that the run's kernels are not known; remove it to choose them anew"
        ) from error

    def lookup(op: str, spec: Spec) -> Choice | None:
        # A switch that the version of before did not have was off.
        return Choice(names.get(op, getattr(KernelPlan(), op)), "as before the interruption")

    return lookup


def _build(shared: Shared, variant: Variant, resolution: Resolution, console: Console) -> Arm:
    arm = Arm(shared, variant)
    memory = "" if arm.memory_bytes is None else f", {arm.memory_bytes / 2**20:,.0f} MiB"
    console.line(f"{variant.name}: compiled in {sum(arm.compile_seconds.values()):.1f} s{memory}")
    if variant.name != "baseline":
        for line in resolution.lines():
            console.line(f"  {line}")
    for check in arm.program_checks.values():
        console.line(f"  {check}")
    return arm


def _facts(
    shared: Shared, arm: Arm, baseline: Variant, evidence: Mapping[str, Evidence], reasons: Mapping[str, str]
) -> results.ArmFacts:
    checks = {name: dataclasses.asdict(check) for name, check in arm.program_checks.items()}
    return results.ArmFacts(
        name=arm.name,
        parameters=sum(parameters_by_part(shared.state.params).values()),
        compile_seconds=arm.compile_seconds,
        memory_bytes=arm.memory_bytes,
        program_check=checks or None,
        plan=dataclasses.asdict(arm.variant.plan),
        statistical=is_statistical(arm.variant),
        optimizations=describe(arm.variant, evidence, reasons),
        differences=differences(baseline, arm.variant),
    )


def _time_to_loss(
    shared: Shared,
    arms: Sequence[Arm],
    pair: TrainingPair,
    corpus: Corpus,
    directory: RunDirectory,
    console: Console,
    *,
    resumed: bool,
) -> tuple[TimeToLoss | None, list[str]]:
    """How soon schedule and recipe reach the baseline's loss, as an earlier end of this run found it or as seen now."""
    if not (shared.config.scaling.enabled and len(arms) == 2 and plans(shared.config)):
        return None, []
    earlier = _measured_before(directory) if resumed else None
    before = None if earlier is None else earlier.time_to_loss
    if before is not None and len(before.trainings) == len(plans(shared.config)):
        return before, []
    keep = directory if shared.config.checkpoint.enabled else None
    return time_to_loss.measure(shared, (arms[0], arms[1]), pair, corpus, console, directory=keep)


def _compress_best(
    config: ConfigDict, arm: Arm, corpus: Corpus, directory: RunDirectory, console: Console
) -> tuple[CompressionResult | None, list[str]]:
    """What compressing the arm's best checkpoint gave, and what the reader should know if it gave nothing."""
    if not (config.compression.enabled and config.checkpoint.enabled):
        return None, []
    chosen = _best(directory, arm)
    budget = compress.parse_budget(config.compression.budget)
    try:
        checkpoint = checkpoint_of_run.restore(config, chosen)
        found = compress.compress_checkpoint(checkpoint, chosen, corpus, budget, console)
    except RyotError as error:  # the training is done and its comparison stands without
        console.line(f"not compressed: {error}")
        return None, [f"The best checkpoint was not compressed: {error}."]
    return found, []


def _decode_with_best(
    config: ConfigDict, arm: Arm, corpus: Corpus, directory: RunDirectory, console: Console, *, resumed: bool
) -> tuple[DecodingResult | None, list[str]]:
    """How fast the arm's best checkpoint generates, as an earlier end of this run found it or measured now."""
    if not (config.decoding.enabled and config.checkpoint.enabled):
        return None, []
    chosen = _best(directory, arm)
    try:
        checkpoint = checkpoint_of_run.restore(config, chosen)
        earlier = _measured_before(directory) if resumed else None
        before = None if earlier is None else earlier.decoding
        if before is not None and (before.arm, before.step) == (arm.name, checkpoint.step):
            return before, []
        return decoding_speed.measure(checkpoint, chosen, corpus, console), []
    except RyotError as error:  # the training is done and its comparison stands without
        console.line(f"decoding was not measured: {error}")
        return None, [f"Decoding was not measured: {error}."]


def _measured_before(directory: RunDirectory) -> Results | None:
    """The results that are there; None: none are, or what is there is damaged and written anew."""
    try:
        return results.read(directory.results)
    except ConfigError:
        return None


def _best(directory: RunDirectory, arm: Arm) -> CheckpointOptions:
    """The best of the run, not of the arm's weights: training goes on after it."""
    return CheckpointOptions(directory.path, arm.name, "best")


def _artifacts(directory: RunDirectory, config: ConfigDict, compressed: CompressionResult | None) -> dict[str, str]:
    paths = {
        "config": directory.config,
        "manifest": directory.manifest,
        "metrics": directory.metrics,
        "results": directory.results,
        "log": directory.log,
        "estimands": directory.estimands,
        "record": directory.record,
    }
    if config.checkpoint.enabled:
        paths["checkpoints"] = directory.checkpoints
    if compressed is not None:
        paths["compressed"] = directory.path / compressed.file
    return {name: str(path.relative_to(directory.path)) for name, path in paths.items()}


def _describe(corpus: Corpus) -> str:
    found = corpus.description
    train, heldout = found["train"], found["heldout"]
    return (
        f"text: {found['source']}, {train['tokens']:,} training and {heldout['tokens']:,} held-out tokens, "
        f"cache {found['cache']} ({found['seconds']:.1f} s)"
    )


def _peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _print_summary(console: Console, found: Results, directory: RunDirectory, seconds: float) -> None:
    console.line()
    terminal.show(found, console)
    console.line()
    console.line(f"finished in {format_duration(seconds)}; report: {shown(directory.path / 'report.html')}")
    if "checkpoints" in found.artifacts:
        console.line(f"next: ryot generate --run={shown(directory.path)} --prompt='def '")
