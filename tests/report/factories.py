"""Results of a run that passed, made up by a seeded rule, and ways to change them."""

import dataclasses

import msgspec
import numpy as np

from ryot_jax.comparison.protocol import BlockSchedule
from ryot_jax.comparison.results import settled
from ryot_jax.comparison.schema import (
    ArmResult,
    ArmUnderRoof,
    BlockTimes,
    ComparisonResult,
    ConfigDifference,
    Control,
    Controls,
    Criterion,
    Epoch,
    Estimand,
    LossDifference,
    LossTestsOfMargins,
    MeasuredPeaks,
    OptimizationState,
    ReachedTarget,
    Results,
    Roofline,
    Settings,
    Statement,
    StepTimeSpeedup,
    TimeToTarget,
    TrainingPairResult,
)
from ryot_jax.comparison.statistics import Difference
from ryot_jax.comparison.verdict import rules
from ryot_jax.comparison.verdict.declaration import Terms, resolve

BASELINE_MS, SPEEDUP, FLOOR = 161.0, 1.251, 0.012
NOT_REACHED = ReachedTarget(step=None, seconds=None, seconds_with_compile=None)


def edit(record, path="", **changes):
    """The record with changes at a path such as `comparison.training_pairs.0`; of a mapping, its items."""
    head, _, rest = path.partition(".")
    if not head:
        if isinstance(record, dict):
            return {**record, **changes}
        return (dataclasses if dataclasses.is_dataclass(record) else msgspec.structs).replace(record, **changes)
    if isinstance(record, tuple):
        changed = edit(record[int(head)], rest, **changes)
        return (*record[: int(head)], changed, *record[int(head) + 1 :])
    inner = record[head] if isinstance(record, dict) else getattr(record, head)
    return edit(record, **{head: edit(inner, rest, **changes)})


def criterion(name, verdict="PASS", target="", actual="", *, supplied=False):
    """A criterion as it is declared, with its advice."""
    terms = [Terms(Settings(0.1, 0.02, "bigram"), statistical) for statistical in (False, True)]
    (rule,) = (rule for rule in rules.RULES if name in [resolve(rule.name, term) for term in terms])
    advice = rule.advice.get(verdict)
    return Criterion(name, target, actual, verdict, advice=advice and (advice.supplied if supplied else advice.ours))


def _arm(step_ms: float, offset: float, compile_seconds: float):
    steps = np.arange(1, 9) * 100
    losses = 3.47 + offset + 4.17 * np.exp(-steps / 110.0)
    seconds = step_ms / 10
    return ArmResult(
        parameters=1_071_872,
        steps=800,
        tokens=3_276_800,
        initial_heldout_loss=7.643,
        first_train_loss=7.641,
        final_train_loss=3.551 + offset,
        final_heldout_loss=float(losses[-1]),
        best_heldout_loss=float(losses[-1]),
        best_step=800,
        train_seconds=8 * seconds,
        tokens_per_second=409_600 / seconds,
        step_ms_median=step_ms,
        compile_seconds=compile_seconds,
        compile_parts={"trace": 0.9, "lower": 0.4, "compile": compile_seconds - 1.3},
        compile_warm_seconds=0.3 + 0.1 * compile_seconds,
        compiled_from_cache=False,
        memory_bytes=392 * 2**20,
        program_check=None,
        plan={"dense": "reference"},
        epochs=[
            Epoch(
                epoch=i + 1,
                step=int(step),
                train_loss=float(loss) + 0.1,
                heldout_loss=float(loss),
                seconds=seconds,
                tokens_per_second=409_600 / seconds,
            )
            for i, (step, loss) in enumerate(zip(steps, losses, strict=True))
        ],
    )


def _blocks(n: int, rng: np.random.Generator):
    """Blocks of 50 steps on a machine that slows down, in random order."""
    drift_n = np.exp(0.02 * np.cumsum(rng.normal(size=n)))
    blocks = []
    for index in range(n):
        baseline = 50 * BASELINE_MS / 1e3 * drift_n[index]
        optimized = baseline / (SPEEDUP + 0.02 * rng.normal())
        first = ["baseline", "optimized"] if rng.random() < 0.5 else ["optimized", "baseline"]
        blocks.append(
            BlockTimes(
                index=index,
                epoch=index * 8 // n + 1,
                steps=50,
                order=first,
                seconds={"baseline": float(baseline), "optimized": float(optimized)},
                ratio=float(baseline / optimized),
            )
        )
    return blocks


def training_pair(index: int, speedup: float, loss: float, difference: float):
    return TrainingPairResult(
        index=index,
        seed=index,
        block_pairs=16,
        speedup=speedup,
        baseline_loss=loss,
        optimized_loss=loss + difference,
        loss_difference=difference,
    )


def _comparison(rng: np.random.Generator):
    return ComparisonResult(
        baseline="baseline",
        optimized="optimized",
        unit="block pair",
        step_time_speedup=StepTimeSpeedup(
            estimate=SPEEDUP,
            ci95=[1.240, 1.262],
            pairs=16,
            median=1.25,
            p_sign_flip=3.1e-5,
            log_ratio_sd=0.016,
            blocks=_blocks(16, rng),
        ),
        seconds_per_step_difference=Difference(-0.0323, (-0.0335, -0.0311), 16, None),
        heldout_loss_difference=LossDifference(
            estimate=0.0041,
            ci95=[0.0012, 0.0070],
            unit="held-out sequence",
            pairs=512,
            correlation=0.998,
        ),
        loss_tests=LossTestsOfMargins(
            margin=0.1,
            tight_margin=0.02,
            p_tost=1e-90,
            p_tost_tight=3e-24,
            p_no_worse=3e-24,
            unit="held-out sequence",
        ),
        training_pairs=[training_pair(0, SPEEDUP, 3.4729, 0.0041)],
        seed_noise_measured=False,
        processes=[],
        time_to_target=TimeToTarget(
            target_loss=3.4729,
            arms={
                "baseline": ReachedTarget(step=800.0, seconds=128.8, seconds_with_compile=136.4),
                "optimized": ReachedTarget(step=790.2, seconds=101.7, seconds_with_compile=115.5),
            },
            speedup=1.266,
            speedup_with_compile=1.181,
        ),
        break_even_steps=192.0,
    )


def _control(name: str, verdict: str, injected: float | None, ratios: list[float], actual: str):
    mean = float(np.exp(np.mean(np.log(ratios)))) if ratios else None
    return Control(
        name=name,
        description=f"what the {name.replace('_', ' ')} control does, in a sentence",
        target="99% interval of the ratio of times holds what is true",
        actual=actual,
        verdict=verdict,
        injected=injected,
        estimate=mean,
        ci=None if mean is None else [mean - 0.013, mean + 0.013],
        ratios=ratios,
        seconds=14.2,
    )


def _controls(rng: np.random.Generator):
    return Controls(
        seconds=42.6,
        noise_floor=FLOOR,
        confidence=0.99,
        items=[
            _control("placebo", "PASS", 1.0, list(1.001 + 0.012 * rng.normal(size=8)), "1.0010 (0.988 to 1.014)"),
            _control("known_delay", "PASS", 1.06, list(1.058 + 0.012 * rng.normal(size=8)), "1.0580 (1.045 to 1.071)"),
            _control("shuffled_targets", "PASS", None, [], "held-out loss 6.31: fails beats_bigram_entropy"),
        ],
    )


def _roofline():
    step = {"flops": 26_000_000_000, "bytes": 1_112_000_000, "cached_bytes": 12_000_000}
    return Roofline(
        peaks=MeasuredPeaks(
            matmul_flops={"float32": 2.6e11, "bfloat16": 9.4e11},
            copy_bytes=2.1e10,
            sources={"float32": "numpy", "bfloat16": "the package's kernel", "memory": "a copy in two threads"},
            cache_bytes=6_000_000,
        ),
        arms={
            "baseline": ArmUnderRoof(
                **step,
                dtype="float32",
                seconds=0.161,
                flops_per_second=1.61e11,
                roof=2.6e11,
                share=0.62,
                bound="compute",
                above_roof=False,
            ),
            "optimized": ArmUnderRoof(
                **step,
                dtype="bfloat16",
                seconds=0.1287,
                flops_per_second=2.02e11,
                roof=4.96e11,
                share=0.41,
                bound="memory",
                above_roof=False,
            ),
        },
    )


def passed():
    """Both arms with controls and roofline: every criterion passes."""
    rng = np.random.default_rng(0)
    return settled(
        Results(
            name="scaled",
            verdict="PASS",
            estimands=Statement(
                sha256="ef" * 32,
                stated_at="2026-11-24T20:58:07Z",
                items=[
                    Estimand(
                        name="step-time speed-up",
                        unit="block pair",
                        statistic="geometric mean of baseline / optimized seconds per step, t interval on logs",
                        criterion="95 % interval above 1 and above the placebo's noise floor",
                    ),
                    Estimand(
                        name="held-out loss difference",
                        unit="held-out sequence",
                        statistic="mean of optimized - baseline after the last step, t interval",
                        criterion="95 % interval within 0.1 nats, and at most 0.02 nats higher",
                    ),
                ],
            ),
            controls=_controls(rng),
            criteria=[
                criterion(
                    "loss_falls",
                    target="held-out loss falls by more than 5%",
                    actual="baseline +54.5%, optimized +54.7%",
                ),
                criterion(
                    "speedup_above_zero",
                    target="step-time speed-up above 1, 95 % interval above the noise floor 1.0120",
                    actual="1.251 times as fast (1.240 to 1.262), 16 block pairs",
                ),
                criterion(
                    "loss_no_worse_by_0.02",
                    target="optimized final held-out loss at most 0.02 nats higher, 95 % interval too",
                    actual="+0.0041 (+0.0012 to +0.0070), 512 held-out sequences",
                ),
            ],
            arms={
                "baseline": _arm(BASELINE_MS, 0.0, 7.6),
                "optimized": _arm(BASELINE_MS / SPEEDUP, 0.004, 13.8),
            },
            comparison=_comparison(rng),
            optimizations=[
                OptimizationState(
                    name="dense",
                    arm="optimized",
                    switch="optimizations.dense",
                    implementation="xla",
                    equivalence="statistical",
                    active=True,
                    evidence="24 bf16 x bf16 products with an MLP weight, 0 in the baseline",
                ),
                OptimizationState(
                    name="dropout",
                    arm="optimized",
                    switch="optimizations.dropout",
                    implementation="off",
                    equivalence="bitwise",
                    reason="not hash: the model has no dropout",
                    active=False,
                    evidence="",
                ),
            ],
            config_differences=[ConfigDifference(field="optimizations.dense", baseline="off", optimized="xla")],
            schedule=BlockSchedule(epochs=8, steps_per_epoch=100, block_steps=50, tokens_per_step=4096, seed=0),
            settings=Settings(0.1, 0.02, "bigram", controls=True),
            data={
                "source": "stdlib",
                "train": {"documents": 592, "tokens": 3_146_997},
                "entropies": {"unigram": 6.294, "bigram": 3.847, "counted_tokens": 3_146_997},
            },
            roofline=_roofline(),
            attribution=None,
            compression=None,
            decoding=None,
            time_to_loss=None,
            initial_params_hash="ab" * 32,
            batches_hash="cd" * 32,
            warnings=[],
            artifacts={"results": "results.json", "best checkpoint": "checkpoints/baseline"},
            manifest={
                "started_utc": "2026-11-24T20:58:07Z",
                "versions": {"python": "3.11.7", "jax": "0.10.2"},
                "processor": {"model": "AMD EPYC", "usable_cores": 2, "vector_flags": ["avx2", "avx512_bf16"]},
                "system": {"load_1min": 0.37},
                "environment": {},
                "seconds_in_all": 297.4,
                "peak_memory_bytes": 826_888_192,
            },
        )
    )
