"""`ryot train`: both arms from one config, compared, and written down in one run directory."""

import contextlib
import dataclasses
import functools
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ryot_jax.cli import TrainOptions
from ryot_jax.comparison import protocol, results, tuning
from ryot_jax.comparison.arms import Arm, Shared, kernel_spec, share, variants
from ryot_jax.comparison.criteria import EXIT_CODES
from ryot_jax.comparison.probes import Evidence
from ryot_jax.comparison.protocol import Observer, Plan, Schedule
from ryot_jax.comparison.record import Record
from ryot_jax.comparison.variants import Variant, check_active
from ryot_jax.config import to_json, validate
from ryot_jax.data.cache import root as cache_root
from ryot_jax.data.entropy import ngram_entropies
from ryot_jax.data.pipeline import Corpus, prepare
from ryot_jax.data.tokenizer import JsonTokenizer
from ryot_jax.kernels import KernelPlan, Resolution, Spec
from ryot_jax.kernels.plan import Choice, Lookup
from ryot_jax.kernels.tuning_cache import TuningCache
from ryot_jax.model import ModelConfig
from ryot_jax.model.accounting import parameters_by_part
from ryot_jax.model.config import from_config
from ryot_jax.report import files as report_files
from ryot_jax.report import terminal
from ryot_jax.runtime import manifest
from ryot_jax.runtime.allocator import AllocatorRecord
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.devices import describe_devices, describe_processor, enable_compilation_cache
from ryot_jax.runtime.errors import CheckpointError, DataError
from ryot_jax.runtime.files import write_json, write_text
from ryot_jax.runtime.metrics import MetricsWriter
from ryot_jax.runtime.progress import Progress, format_duration
from ryot_jax.runtime.run_directory import RunDirectory, create_run
from ryot_jax.runtime.run_lock import locked
from ryot_jax.training.checkpoints import Checkpoints


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


def use_compilation_cache(config: ConfigDict) -> None:
    """Turns JAX's cache of compiled programs on, if the config wants it; before the first JAX array."""
    if config.runtime.compilation_cache:
        enable_compilation_cache(cache_root(config.data.cache_dir))


def open_tuning_cache(config: ConfigDict, log: Callable[[str], None]) -> TuningCache:
    """The measured kernels on disk; where that cannot be, a cache that forgets, and `log` is told why."""
    try:
        return TuningCache(cache_root(config.data.cache_dir), log)
    except DataError as error:
        log(f"tuned kernels: {error}")
        return TuningCache(None, log)


def _run(
    config: ConfigDict,
    directory: RunDirectory,
    console: Console,
    allocator: AllocatorRecord,
    *,
    resumed: bool,
) -> int:
    start = time.perf_counter()
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
    spec = kernel_spec(config, model, devices)
    lookup = _kernel_choices(config, model, spec, directory, console, resumed=resumed)
    wanted, resolutions = variants(config, spec, lookup)
    reasons = {name: resolution.reasons for name, resolution in resolutions.items()}
    arms = [_build(shared, variant, resolutions[variant.name], console) for variant in wanted]
    programs = {arm.name: arm.hlo_text() for arm in arms}
    evidence = check_active(wanted, programs, spec)
    facts = [_facts(shared, arm, evidence.get(arm.name, {}), reasons[arm.name]) for arm in arms]
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
    record = _train(shared, arms, schedule, directory, console, resumed=resumed)
    found = results.assemble(
        record,
        facts,
        schedule,
        results.Settings(
            loss_margin=config.comparison.loss_margin,
            tight_loss_margin=config.comparison.tight_loss_margin,
            beat=config.comparison.beat,
        ),
        name=config.name,
        data={**corpus.description, "data_hash": corpus.data_hash},
        entropies=dataclasses.asdict(entropies),
        manifest={
            **written,
            "seconds_in_all": time.perf_counter() - start,
            "peak_memory_bytes": _peak_memory_bytes(),
        },
        artifacts=_artifacts(directory, config),
    )
    results.write(directory.results, found)
    report_files.write(directory.path, found)
    _print_summary(console, found, directory, time.perf_counter() - start)
    return EXIT_CODES[found["verdict"]]


def _kernel_choices(
    config: ConfigDict, model: ModelConfig, spec: Spec, directory: RunDirectory, console: Console, *, resumed: bool
) -> Lookup:
    """What 'auto' takes before its static order: the kernels of the run that is gone on with, or measured ones."""
    if resumed and directory.manifest.is_file():
        return _same_kernels(directory.manifest)
    cache = open_tuning_cache(config, console.line)
    if config.runtime.tune_kernels and "optimized" in config.comparison.arms:
        for line in tuning.tune(config, model, spec, cache, log=console.line).table():
            console.line(line)
    return cache.lookup


def _same_kernels(manifest: Path) -> Lookup:
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


def _train(
    shared: Shared,
    arms: Sequence[Arm],
    schedule: Schedule,
    directory: RunDirectory,
    console: Console,
    *,
    resumed: bool,
) -> Record:
    config, config_json = shared.config, to_json(shared.config)
    with contextlib.ExitStack() as stack:
        saved = _open_checkpoints(config, arms, directory, stack)
        record = _restore(arms, saved, directory) if resumed else None
        if record is not None:
            console.line(f"resuming after step {record.step} of {schedule.total_steps}")
        metrics = stack.enter_context(
            MetricsWriter(
                directory.metrics,
                resume_steps={arm.name: arm.step for arm in arms} if resumed else None,
                tensorboard=directory.path / "tensorboard" if config.metrics.tensorboard else None,
            )
        )
        progress = stack.enter_context(
            Progress(
                console,
                arms=[arm.name for arm in arms],
                epochs=schedule.epochs,
                steps_per_epoch=schedule.steps_per_epoch,
                tokens_per_step=schedule.tokens_per_step,
            )
        )
        for arm in arms:
            arm.on_step = functools.partial(_show_step, progress, arm.name, schedule.tokens_per_step, [])
        return protocol.run(
            arms,
            schedule,
            record=record,
            observer=Observer(
                block=functools.partial(_write_block, metrics, config.metrics.every_steps),
                heldout=functools.partial(_write_heldout, metrics, console, schedule),
                pair=functools.partial(_save_epoch, arms, saved, config_json),
            ),
        )


def _open_checkpoints(
    config: ConfigDict, arms: Sequence[Arm], directory: RunDirectory, stack: contextlib.ExitStack
) -> dict[str, Checkpoints]:
    if not config.checkpoint.enabled:
        return {}
    keep = config.checkpoint
    return {
        arm.name: stack.enter_context(
            contextlib.closing(Checkpoints(directory.checkpoints / arm.name, keep.keep_latest, keep.keep_best))
        )
        for arm in arms
    }


def _restore(arms: Sequence[Arm], saved: Mapping[str, Checkpoints], directory: RunDirectory) -> Record | None:
    """Puts all arms back to the newest step that every one of them has; None: there is none, start afresh."""
    if not saved:
        raise CheckpointError(f"{directory.path} cannot be resumed: it has checkpoint.enabled = False")
    steps = {name: set(checkpoints.steps()) for name, checkpoints in saved.items()}
    common = set.intersection(*steps.values())
    if not common:
        if any(steps.values()):
            raise CheckpointError(
                f"{directory.path}: the arms have no step in common ({ {n: sorted(s) for n, s in steps.items()} }); "
                "start a new run, with a larger checkpoint.keep_latest"
            )
        return None
    step = max(common)
    records = []
    for arm in arms:
        # A kill between two arms' saves leaves one of them ahead; what it has beyond the common step goes.
        saved[arm.name].delete_after(step)
        records.append(arm.trainer.restore(saved[arm.name], step)["record"])
    return Record.from_json(records[-1])


def _show_step(
    progress: Progress, arm: str, tokens_per_step: int, recent: list[tuple[float, int]], step: int, loss: float
) -> None:
    """Tells the display how far an arm is; tokens/s over the last ten calls of its program or so."""
    now = time.perf_counter()
    # Between two blocks of an arm the other one runs: a gap of many steps' length starts the window anew.
    if len(recent) > 1 and (now - recent[-1][0]) / (step - recent[-1][1]) > 5 * _seconds_per_step(recent):
        recent.clear()
    recent.append((now, step))
    del recent[:-11]
    if len(recent) > 1:
        progress.update(arm, step=step, loss=loss, tokens_per_second=tokens_per_step / _seconds_per_step(recent))


def _seconds_per_step(times_and_steps: Sequence[tuple[float, int]]) -> float:
    (start, first), (end, last) = times_and_steps[0], times_and_steps[-1]
    return (end - start) / (last - first)


def _write_block(metrics: MetricsWriter, every_steps: int, arm: str, plan: Plan, result: Any) -> None:
    for offset, (loss, grad_norm) in enumerate(zip(result.losses, result.grad_norms, strict=True)):
        step = result.first_step + offset + 1
        if step % every_steps == 0:
            metrics.write(arm, step, kind="train", loss=loss, grad_norm=grad_norm)
    metrics.write(
        arm,
        plan.end_step,
        kind="block",
        seconds=result.seconds,
        tokens_per_second=result.tokens / result.seconds,
    )


def _write_heldout(
    metrics: MetricsWriter, console: Console, schedule: Schedule, step: int, evaluations: Mapping[str, Any]
) -> None:
    for arm, evaluation in evaluations.items():
        metrics.write(arm, step, kind="heldout", loss=evaluation.mean_loss)
    losses = "  ".join(f"{arm} {evaluation.mean_loss:.4f}" for arm, evaluation in evaluations.items())
    console.line(f"epoch {step // schedule.steps_per_epoch}/{schedule.epochs}  held-out loss  {losses}")


def _save_epoch(
    arms: Sequence[Arm], saved: Mapping[str, Checkpoints], config_json: str, record: Record, plan: Plan
) -> None:
    if not plan.ends_epoch:
        return
    for arm in arms:
        if arm.name in saved:
            heldout_loss = record.heldout[-1].mean_loss[arm.name]
            arm.trainer.save(saved[arm.name], heldout_loss, config_json, facts={"record": record.to_json()})


def _facts(shared: Shared, arm: Arm, evidence: Mapping[str, Evidence], reasons: Mapping[str, str]) -> Any:
    checks = {name: dataclasses.asdict(check) for name, check in arm.program_checks.items()}
    return results.ArmFacts(
        variant=arm.variant,
        parameters=sum(parameters_by_part(shared.state.params).values()),
        compile_seconds=arm.compile_seconds,
        memory_bytes=arm.memory_bytes,
        program_check=checks or None,
        evidence=evidence,
        reasons=reasons,
    )


def _artifacts(directory: RunDirectory, config: ConfigDict) -> dict[str, str]:
    paths = {
        "config": directory.config,
        "manifest": directory.manifest,
        "metrics": directory.metrics,
        "results": directory.results,
        "log": directory.log,
    }
    if config.checkpoint.enabled:
        paths["checkpoints"] = directory.checkpoints
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


def _print_summary(console: Console, found: Mapping[str, Any], directory: RunDirectory, seconds: float) -> None:
    fancy = console.display is not None
    width = min(console.display.width, 120) if console.display is not None else 100
    console.line()
    for line in terminal.render(found, fancy=fancy, width=width).splitlines():
        console.line(line)
    console.line()
    console.line(f"finished in {format_duration(seconds)}; report: {_shown(directory.path / 'report.md')}")
    if "checkpoints" in found["artifacts"]:
        console.line(f"next: ryot generate --run={_shown(directory.path)} --prompt='def '")


def _shown(path: Path) -> Path:
    """The path as a person would type it from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
