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

from ryot_jax.comparison import criteria
from ryot_jax.comparison.criteria import ArmOutcome, PairOutcome
from ryot_jax.comparison.probes import Evidence
from ryot_jax.comparison.protocol import Schedule
from ryot_jax.comparison.record import Record
from ryot_jax.comparison.schema import SCHEMA_VERSION
from ryot_jax.comparison.statistics import paired_difference, speed_up
from ryot_jax.comparison.variants import OPTIMIZATIONS, Variant
from ryot_jax.runtime.files import write_text


@dataclasses.dataclass(frozen=True)
class ArmFacts:
    """What is known of an arm beside its record.

    Attributes:
      variant: its name and kernel plan.
      parameters: number of model parameters.
      compile_seconds: seconds of `trace`, `lower` and `compile`.
      memory_bytes: arguments and temporaries of the compiled step; None where XLA does not tell.
      program_check: outcome of the start-up check of each program, plain JSON values by its name; None if not run.
      evidence: what the active probes found, by optimization; empty for the baseline.
      reasons: why each implementation was chosen, by optimization.
    """

    variant: Variant
    parameters: int
    compile_seconds: Mapping[str, float]
    memory_bytes: int | None
    program_check: Mapping[str, Any] | None
    evidence: Mapping[str, Evidence]
    reasons: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is judged by, stated before it: margins in nats, `beat` as in `criteria.judge`."""

    loss_margin: float
    tight_loss_margin: float
    beat: str


def assemble(
    record: Record,
    facts: Sequence[ArmFacts],
    schedule: Schedule,
    settings: Settings,
    *,
    name: str,
    data: Mapping[str, Any],
    entropies: Mapping[str, float],
    manifest: Mapping[str, Any],
    artifacts: Mapping[str, str],
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """The results of a run as plain JSON values.

    Args:
      record: what the paired protocol left.
      facts: one per arm, the baseline first.
      schedule: what the run was to do.
      settings: margins and targets.
      name: name of the run.
      data: description of the text: counts, source, hashes.
      entropies: nats/token of the held-out targets under `unigram` and `bigram` counts; others are kept.
      manifest: versions, device, flags, hashes, git revision.
      artifacts: what the run left, name -> path within the run directory.
      warnings: sentences for the reader.
    """
    outcomes = {fact.variant.name: _outcome(record, fact.variant.name, schedule) for fact in facts}
    pair = _pair(record) if len(record.arms) == 2 else None
    judged = criteria.judge(
        outcomes,
        pair,
        entropies=entropies,
        beat=settings.beat,
        margin=settings.loss_margin,
        tight_margin=settings.tight_loss_margin,
        statistical=any(o.promise(facts[-1].variant.plan) == "statistical" for o in OPTIMIZATIONS),
    )
    return plain(
        {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "verdict": criteria.overall(judged),
            "criteria": [dataclasses.asdict(criterion) for criterion in judged],
            "arms": {fact.variant.name: _arm(record, fact, outcomes[fact.variant.name], schedule) for fact in facts},
            "comparison": None if pair is None else _comparison(record, pair),
            "optimizations": _optimizations(facts),
            "schedule": dataclasses.asdict(schedule),
            "settings": dataclasses.asdict(settings),
            "data": {**data, "entropies": dict(entropies)},
            "initial_params_hash": record.initial_params_hash,
            "batches_hash": record.blocks[-1].batches_hash if record.blocks else None,
            "warnings": list(warnings),
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


def _outcome(record: Record, arm: str, schedule: Schedule) -> ArmOutcome:
    blocks, trained = record.blocks, [e.mean_loss[arm] for e in record.heldout if e.step > 0]
    finite = [loss for loss in trained if math.isfinite(loss)]
    seconds = sum(block.seconds[arm] for block in blocks)
    return ArmOutcome(
        steps=record.step,
        planned_steps=schedule.total_steps,
        first_train_loss=blocks[0].first_loss[arm] if blocks else math.nan,
        final_train_loss=blocks[-1].train_loss[arm] if blocks else math.nan,
        initial_heldout_loss=record.heldout[0].mean_loss[arm] if record.heldout else math.nan,
        final_heldout_loss=trained[-1] if trained else math.nan,
        best_heldout_loss=min(finite) if finite else math.nan,
        tokens_per_second=sum(block.tokens for block in blocks) / seconds if seconds > 0 else math.nan,
    )


def _pair(record: Record) -> PairOutcome:
    baseline, optimized = record.arms
    seconds = {name: [block.seconds[name] for block in record.blocks] for name in record.arms}
    steps_n = np.asarray([block.steps for block in record.blocks], np.float64)
    # The untrained weights are the same in both arms: only an evaluation after training says anything.
    trained = bool(record.heldout) and record.heldout[-1].step > 0
    losses = {name: record.sequence_losses[name] if trained else () for name in record.arms}
    return PairOutcome(
        speedup=speed_up(seconds[baseline], seconds[optimized]),
        seconds_per_step=paired_difference(
            np.asarray(seconds[baseline]) / steps_n, np.asarray(seconds[optimized]) / steps_n
        ),
        heldout_loss=paired_difference(losses[baseline], losses[optimized]),
    )


def _arm(record: Record, fact: ArmFacts, outcome: ArmOutcome, schedule: Schedule) -> dict[str, Any]:
    name, blocks = fact.variant.name, record.blocks
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
        "memory_bytes": fact.memory_bytes,
        "program_check": None if fact.program_check is None else dict(fact.program_check),
        "plan": dataclasses.asdict(fact.variant.plan),
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


def _comparison(record: Record, pair: PairOutcome) -> dict[str, Any]:
    baseline, optimized = record.arms
    loss, per_step = dataclasses.asdict(pair.heldout_loss), dataclasses.asdict(pair.seconds_per_step)
    return {
        "baseline": baseline,
        "optimized": optimized,
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
        "seconds_per_step_difference": per_step,
        "heldout_loss_difference": {
            "estimate": loss["estimate"],
            "ci95": loss["ci95"],
            "sequences": loss["pairs"],
            "correlation": loss["correlation"],
        },
    }


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None


def _optimizations(facts: Sequence[ArmFacts]) -> list[dict[str, Any]]:
    """One entry per optimization and arm, those that are off in every arm too."""
    return [
        {
            "name": optimization.name,
            "arm": fact.variant.name,
            "switch": optimization.switch,
            "implementation": optimization.implementation(fact.variant.plan),
            "equivalence": optimization.promise(fact.variant.plan),
            "description": optimization.description,
            "reason": fact.reasons.get(optimization.name, ""),
            "active": optimization.name in fact.evidence and fact.evidence[optimization.name].active,
            "evidence": fact.evidence[optimization.name].text if optimization.name in fact.evidence else "",
        }
        for fact in facts[-1:]
        for optimization in OPTIMIZATIONS
    ]
