"""`results.json`: everything that a run found, assembled from the record and the facts about each arm.

The one source that reports draw from. Its shape is held by `schema`; how it looks is left to `report`.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ryot_jax.comparison import criteria, estimands, outcomes
from ryot_jax.comparison.controls import Controls
from ryot_jax.comparison.criteria import ArmOutcome, PairOutcome
from ryot_jax.comparison.estimands import Settings
from ryot_jax.comparison.outcomes import ProcessTimes, TrainingPair
from ryot_jax.comparison.protocol import Schedule
from ryot_jax.comparison.record import Record
from ryot_jax.comparison.schema import SCHEMA_VERSION
from ryot_jax.comparison.statistics import loss_tests, speed_up
from ryot_jax.runtime.files import write_text


@dataclasses.dataclass(frozen=True)
class ArmFacts:
    """What is known of an arm beside its record.

    Attributes:
      name: of the arm.
      parameters: number of model parameters.
      compile_seconds: seconds of `trace`, `lower` and `compile`.
      compile_warm_seconds: of the same programs once more, from the cache of compiled programs; None: not measured.
      compiled_from_cache: whether `compile_seconds` too were served from that cache; None: not known.
      memory_bytes: arguments and temporaries of the compiled step; None where XLA does not tell.
      program_check: outcome of the start-up check of each program, plain JSON values by its name; None if not run.
      plan: what it runs with, plain JSON values.
      statistical: whether it promises no more than a training run of the same quality.
      optimizations: what sets it apart from the baseline, one entry each as in the schema.
      differences: the settings in which it differs from the baseline.
    """

    name: str
    parameters: int
    compile_seconds: Mapping[str, float]
    memory_bytes: int | None
    program_check: Mapping[str, Any] | None = None
    plan: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    statistical: bool = False
    optimizations: Sequence[Mapping[str, Any]] = ()
    differences: Sequence[Mapping[str, str]] = ()
    compile_warm_seconds: float | None = None
    compiled_from_cache: bool | None = None


@dataclasses.dataclass(frozen=True)
class Found:
    """What a run measured.

    Attributes:
      pairs: its training pairs; the first is the one that arms and epochs are shown of.
      processes: block pairs that fresh processes timed.
      controls: None where none were run.
      roofline: as in the schema; None where it was not measured.
      compression: as in the schema; None where nothing was compressed.
      decoding: as in the schema; None where nothing was generated.
      time_to_loss: of schedule and recipe, as in the schema; None where none was trained.
    """

    pairs: Sequence[TrainingPair]
    processes: Sequence[ProcessTimes] = ()
    controls: Controls | None = None
    roofline: Mapping[str, Any] | None = None
    compression: Mapping[str, Any] | None = None
    decoding: Mapping[str, Any] | None = None
    time_to_loss: Mapping[str, Any] | None = None


def assemble(
    found: Found,
    facts: Sequence[ArmFacts],
    schedule: Schedule,
    settings: Settings,
    *,
    name: str,
    data: Mapping[str, Any],
    entropies: Mapping[str, float],
    manifest: Mapping[str, Any],
    artifacts: Mapping[str, str],
    stated_at: str | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """The results of a run as plain JSON values.

    Args:
      found: what it measured.
      facts: one per arm, the baseline first.
      schedule: what the run was to do.
      settings: margins and targets.
      name: name of the run.
      data: description of the text: counts, source, hashes.
      entropies: nats/token of the held-out targets under `unigram` and `bigram` counts; others are kept.
      manifest: versions, device, flags, hashes, git revision.
      artifacts: what the run left, name -> path within the run directory.
      stated_at: when the estimands were written down, UTC in ISO 8601.
      warnings: sentences for the reader.
    """
    names = [fact.name for fact in facts]
    arms = {name: [outcomes.arm_outcome(p.record, name, schedule) for p in found.pairs] for name in names}
    pair = outcomes.pair_outcome(found.pairs, found.processes) if len(facts) == 2 else None
    controls, statistical = found.controls, facts[-1].statistical
    judged = criteria.judge(
        arms,
        pair,
        entropies=entropies,
        beat=settings.beat,
        margin=settings.loss_margin,
        tight_margin=settings.tight_loss_margin,
        statistical=statistical,
        noise_floor=None if controls is None else controls.noise_floor,
    )
    judged = (*judged, *_on_decoding(found.decoding))
    stated = estimands.state(settings, statistical=statistical)
    record = found.pairs[0].record
    return plain(
        {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "verdict": "INCONCLUSIVE" if controls is not None and controls.failed() else criteria.overall(judged),
            "estimands": {"sha256": estimands.digest(stated), "stated_at": stated_at, "items": stated},
            "controls": None if controls is None else _controls(controls),
            "criteria": [dataclasses.asdict(criterion) for criterion in judged],
            "arms": {fact.name: _arm(record, fact, arms[fact.name][0], schedule) for fact in facts},
            "comparison": None if pair is None else _comparison(found, facts, pair, settings),
            "optimizations": [dict(entry) for entry in facts[-1].optimizations],
            "config_differences": [dict(entry) for entry in facts[-1].differences],
            "schedule": dataclasses.asdict(schedule),
            "settings": dataclasses.asdict(settings),
            "data": {**data, "entropies": dict(entropies)},
            "roofline": found.roofline,
            "attribution": None,
            "compression": found.compression,
            "decoding": found.decoding,
            "time_to_loss": found.time_to_loss,
            "initial_params_hash": record.initial_params_hash,
            "batches_hash": record.blocks[-1].batches_hash if record.blocks else None,
            "warnings": [*warnings, *_control_warnings(controls)],
            "artifacts": dict(artifacts),
            "manifest": dict(manifest),
        }
    )


def write(path: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Write `results` to `path`, which is never seen half written."""
    write_text(path, to_text(results))


def to_text(value: Any) -> str:
    """`value` as strict JSON: no NaN tokens, and fields in the order in which a person reads them."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """`value` as strict JSON values: numpy as Python's, tuples as lists, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _arm(record: Record, fact: ArmFacts, outcome: ArmOutcome, schedule: Schedule) -> dict[str, Any]:
    name, blocks = fact.name, record.blocks
    best = [e for e in record.heldout if e.step > 0 and e.mean_loss[name] == outcome.best_heldout_loss]
    return {
        "parameters": fact.parameters,
        "steps": record.step,
        "tokens": sum(block.tokens for block in blocks),
        "initial_heldout_loss": outcome.initial_heldout_loss,
        "first_train_loss": outcome.first_train_loss,
        "final_train_loss": outcome.final_train_loss,
        "final_heldout_loss": outcome.final_heldout_loss,
        "best_heldout_loss": outcome.best_heldout_loss,
        "best_step": best[0].step if best else None,
        "train_seconds": sum(block.seconds[name] for block in blocks),
        "tokens_per_second": outcome.tokens_per_second,
        "step_ms_median": (float(np.median([1e3 * b.seconds[name] / b.steps for b in blocks])) if blocks else None),
        "compile_seconds": sum(fact.compile_seconds.values()),
        "compile_parts": dict(fact.compile_seconds),
        "compile_warm_seconds": fact.compile_warm_seconds,
        "compiled_from_cache": fact.compiled_from_cache,
        "memory_bytes": fact.memory_bytes,
        "program_check": None if fact.program_check is None else dict(fact.program_check),
        "plan": dict(fact.plan),
        "epochs": [row for epoch in range(1, schedule.epochs + 1) if (row := _epoch(record, name, epoch)) is not None],
    }


def _epoch(record: Record, arm: str, epoch: int) -> dict[str, Any] | None:
    """One row per epoch that ended with an evaluation."""
    evaluation = next((e for e in record.heldout if e.epoch == epoch), None)
    if evaluation is None:
        return None
    blocks = [block for block in record.blocks if block.epoch == epoch]
    seconds = sum(block.seconds[arm] for block in blocks)
    steps = sum(block.steps for block in blocks)
    return {
        "epoch": epoch,
        "step": evaluation.step,
        "train_loss": sum(block.train_loss[arm] * block.steps for block in blocks) / steps,
        "heldout_loss": evaluation.mean_loss[arm],
        "seconds": seconds,
        "tokens_per_second": sum(block.tokens for block in blocks) / seconds if seconds > 0 else None,
    }


def _comparison(found: Found, facts: Sequence[ArmFacts], pair: PairOutcome, settings: Settings) -> dict[str, Any]:
    record = found.pairs[0].record
    baseline, optimized = record.arms
    loss = dataclasses.asdict(pair.heldout_loss)
    compile_seconds = {fact.name: sum(fact.compile_seconds.values()) for fact in facts}
    saved = pair.seconds_per_step.estimate
    loss_unit, losses = outcomes.final_losses(found.pairs)
    margins = {"margin": settings.loss_margin, "tight_margin": settings.tight_loss_margin}
    return {
        "baseline": baseline,
        "optimized": optimized,
        "unit": pair.unit,
        "step_time_speedup": {
            **dataclasses.asdict(pair.speedup),
            "blocks": [
                {
                    "index": block.index,
                    "epoch": block.epoch,
                    "steps": block.steps,
                    "order": block.order,
                    "seconds": block.seconds,
                    "ratio": _ratio(block.seconds[baseline], block.seconds[optimized]),
                }
                for block in record.blocks
            ],
        },
        "seconds_per_step_difference": dataclasses.asdict(pair.seconds_per_step),
        "heldout_loss_difference": {
            "estimate": loss["estimate"],
            "ci95": loss["ci95"],
            "unit": loss_unit,
            "pairs": loss["pairs"],
            "correlation": loss["correlation"],
        },
        "loss_tests": {
            **margins,
            **dataclasses.asdict(loss_tests(losses[baseline], losses[optimized], **margins)),
            "unit": loss_unit,
        },
        "training_pairs": [_training_pair(i, one) for i, one in enumerate(found.pairs)],
        "seed_noise_measured": len(found.pairs) > 1,
        "processes": [
            {
                "index": i + 1,
                "block_pairs": len(process.seconds_per_step[baseline]),
                "speedup": speed_up(process.seconds_per_step[baseline], process.seconds_per_step[optimized]).estimate,
                "compile_seconds": dict(process.compile_seconds),
            }
            for i, process in enumerate(found.processes)
        ],
        "time_to_target": outcomes.time_to_target(record, compile_seconds),
        "break_even_steps": outcomes.break_even_steps(
            compile_seconds[optimized] - compile_seconds[baseline], None if saved is None else -saved
        ),
    }


def _on_decoding(found: Mapping[str, Any] | None) -> list[criteria.Criterion]:
    """The reference engine promises the same tokens but for its rounding, so there it is no criterion."""
    if found is None or found["engine"] != "cpu" or found["identical"] is None:
        return []
    return [criteria.same_tokens(found["identical_prompts"], found["prompts"])]


def _training_pair(index: int, pair: TrainingPair) -> dict[str, Any]:
    outcome, (baseline, optimized) = outcomes.pair_outcome([pair]), pair.record.arms
    losses = {name: outcomes.final_loss(pair.record, name) for name in pair.record.arms}
    return {
        "index": index,
        "seed": pair.seed,
        "block_pairs": outcome.speedup.pairs,
        "speedup": outcome.speedup.estimate,
        "baseline_loss": losses[baseline],
        "optimized_loss": losses[optimized],
        "loss_difference": losses[optimized] - losses[baseline],
    }


def _controls(controls: Controls) -> dict[str, Any]:
    return {
        "seconds": controls.seconds,
        "noise_floor": controls.noise_floor,
        "confidence": controls.confidence,
        "items": [dataclasses.asdict(control) for control in controls.items],
    }


def _control_warnings(controls: Controls | None) -> list[str]:
    if controls is None:
        return []
    return [
        f"The control {control.name.replace('_', ' ')} did not pass ({control.actual}): what this run measured "
        "proves nothing, whatever its criteria say."
        for control in controls.failed()
    ]


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None
