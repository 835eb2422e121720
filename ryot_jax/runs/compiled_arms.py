"""The stage before the first step: kernels chosen, estimands stated, programs compiled, checked and proven active.

It writes the manifest of the run. `comparison.arms` compiles the arms.
"""

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ryot_jax.comparison import estimands
from ryot_jax.comparison.arms import Arm
from ryot_jax.comparison.protocol import BlockSchedule
from ryot_jax.comparison.schema import Settings
from ryot_jax.comparison.variants import Variant, check_active, is_statistical
from ryot_jax.config import to_json
from ryot_jax.data.pipeline import Corpus
from ryot_jax.kernels.declaration import Evidence
from ryot_jax.machine.allocator import AllocatorRecord
from ryot_jax.machine.processor import describe_processor
from ryot_jax.optimizations import KernelPlan, Resolution
from ryot_jax.runs import race, tuning
from ryot_jax.runs.compression import parse_budget
from ryot_jax.runs.run import Run
from ryot_jax.runs.session import Session
from ryot_jax.runs.stage import Stage, StageResult
from ryot_jax.runtime import manifest
from ryot_jax.runtime.errors import CheckpointError, ConfigError
from ryot_jax.runtime.files import write_json
from ryot_jax.runtime.run_directory import RunDirectory
from ryot_jax.training.setup import TrainingSetup


@dataclasses.dataclass(frozen=True)
class CompiledArms:
    """The compiled arms before their first step, with everything that decides how they are trained and judged.

    Attributes:
      arms: the arms, the baseline first.
      resolutions: kernel plan and reasons of each arm, by name.
      evidence: proof that each optimization is on, by arm (without the baseline) and optimization.
      schedule: the blocks of the run, with the run's own seed.
      settings: settings of the verdict.
      stated_at: time at which the estimands were stated: UTC, ISO 8601.
      manifest: the manifest as JSON values.
    """

    arms: Sequence[Arm]
    resolutions: Mapping[str, Resolution]
    evidence: Mapping[str, Mapping[str, Evidence]]
    schedule: BlockSchedule
    settings: Settings
    stated_at: str
    manifest: Mapping[str, Any]

    @property
    def variants(self) -> list[Variant]:
        """The variant of each arm."""
        return [arm.variant for arm in self.arms]


def _compile(run: Run) -> StageResult[CompiledArms]:
    session, config = run.session, run.config
    if "optimized" in config.comparison.arms:
        measure_kernels(session)
    variants, resolutions = session.variants
    settings = _settings(config)
    parse_budget(config.compression.budget)  # raises before hours of training, not after them
    stated_at = _write_estimands(run.directory, settings, statistical=is_statistical(variants[-1]))
    arms = [_build(run, variant, resolutions[variant.name]) for variant in variants]
    evidence = check_active(variants, {arm.name: arm.hlo_text() for arm in arms}, session.spec)
    written = collect_manifest(session, run.corpus, run.allocator, {v.name: resolutions[v.name] for v in variants})
    write_json(run.directory.manifest, written)
    schedule = schedule_of(run.setup, config.seed)
    return StageResult(CompiledArms(arms, resolutions, evidence, schedule, settings, stated_at, written))


STAGE = Stage("compilation and checks", _compile)


def measure_kernels(session: Session) -> None:
    """Measures what `runtime.tune` asks for, prints the measurements and stores the fastest kernels.

    A resumed run keeps its kernels, and a race is held once for a machine and the sizes of a step.
    """
    how = session.config.runtime.tune
    if how == "race" and race.is_needed(session):
        race.race(session)
    elif how == "ops" and session.kernels_before is None:
        outcome = tuning.tune(session.config, session.model, session.spec, session.tuning_cache, log=session.log)
        for line in outcome.table():
            session.log(line)
    session.limit_workers()
    raced = session.raced if session.kernels_before is None and len(session.config.comparison.arms) > 1 else None
    if raced is not None and session.resolve().plan == KernelPlan():
        raise ConfigError(
            f"nothing to compare: {raced.summary} ({raced.date}). Train one arm, "
            "--config.comparison.arms=\"('baseline',)\"; or take a fixed order of kernels, --config.runtime.tune=off"
        )


def schedule_of(setup: TrainingSetup, seed: int) -> BlockSchedule:
    """The block schedule of a config's training.

    Args:
      setup: setup of the training.
      seed: seed of the order of arms.
    """
    config = setup.config
    return BlockSchedule(
        epochs=config.training.epochs,
        steps_per_epoch=config.training.steps_per_epoch,
        block_steps=config.comparison.block_steps,
        tokens_per_step=setup.tokens_per_step,
        seed=seed,
    )


def collect_manifest(
    session: Session, corpus: Corpus, allocator: AllocatorRecord, resolutions: Mapping[str, Resolution]
) -> dict[str, Any]:
    """Collects the manifest of a run as JSON values; `resolutions` are by the arm's name."""
    return manifest.collect(
        config_json=to_json(session.config),
        devices=session.devices,
        processor=describe_processor(),
        allocator=allocator,
        data_hash=corpus.data_hash,
        tokenizer_hash=corpus.tokenizer.hash,
        end_of_document=corpus.tokenizer.eod,
        kernel_plans={name: dict(resolution.plan) for name, resolution in resolutions.items()},
        kernel_reasons={name: resolution.reasons for name, resolution in resolutions.items()},
    )


def _settings(config: ConfigDict) -> Settings:
    comparison, both = config.comparison, len(config.comparison.arms) == 2
    return Settings(
        loss_margin=comparison.loss_margin,
        tight_loss_margin=comparison.tight_loss_margin,
        beat=comparison.beat,
        training_pairs=comparison.pairs,
        processes=comparison.processes,
        controls=both and comparison.controls,
        arms=len(comparison.arms),
        decodes=config.decoding.enabled and config.checkpoint.enabled,
    )


def _write_estimands(directory: RunDirectory, settings: Settings, *, statistical: bool) -> str:
    """Writes the estimands before anything is measured; returns the time of the statement (UTC, ISO 8601)."""
    items = estimands.describe_estimands(settings, statistical=statistical)
    if directory.estimands.is_file():  # the run is resumed
        try:
            stated = json.loads(directory.estimands.read_text(encoding="utf-8"))
            if stated["sha256"] == estimands.digest(items):
                return str(stated["stated_at"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{directory.estimands} is damaged ({error}): start a new run") from error
        raise CheckpointError(
            f"{directory.estimands} states other estimands than this version of the program would judge the run by; "
            "resume with the version that began it, or start a new run"
        )
    stated_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    statement = {"sha256": estimands.digest(items), "stated_at": stated_at, "items": estimands.plain(items)}
    write_json(directory.estimands, statement)
    return stated_at


def _build(run: Run, variant: Variant, resolution: Resolution) -> Arm:
    arm, console = Arm(run.setup, variant), run.console
    memory = "" if arm.memory_bytes is None else f", {arm.memory_bytes / 2**20:,.0f} MiB"
    console.line(f"{variant.name}: compiled in {sum(arm.compile_seconds.values()):.1f} s{memory}")
    if variant.name != "baseline":
        for line in resolution.lines():
            console.line(f"  {line}")
    for check in arm.program_checks.values():
        console.line(f"  {check}")
    return arm
