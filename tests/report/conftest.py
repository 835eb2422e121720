"""Results dicts such as runs leave, made up by a seeded rule: one a situation that a report must hold."""

import functools

import numpy as np
import pytest

from ryot_jax.report import html

BASELINE_MS, SPEEDUP, FLOOR = 161.0, 1.251, 0.012


def _arm(step_ms: float, offset: float, compile_seconds: float) -> dict:
    steps = np.arange(1, 9) * 100
    losses = 3.47 + offset + 4.17 * np.exp(-steps / 110.0)
    seconds = step_ms / 10
    return {
        "parameters": 1_071_872,
        "steps": 800,
        "tokens": 3_276_800,
        "initial_heldout_loss": 7.643,
        "first_train_loss": 7.641,
        "final_train_loss": 3.551 + offset,
        "final_heldout_loss": float(losses[-1]),
        "best_heldout_loss": float(losses[-1]),
        "best_step": 800,
        "train_seconds": 8 * seconds,
        "tokens_per_second": 409_600 / seconds,
        "step_ms_median": step_ms,
        "compile_seconds": compile_seconds,
        "compile_parts": {"trace": 0.9, "lower": 0.4, "compile": compile_seconds - 1.3},
        "compile_warm_seconds": 0.3 + 0.1 * compile_seconds,
        "compiled_from_cache": False,
        "memory_bytes": 392 * 2**20,
        "program_check": None,
        "plan": {"dense": "reference"},
        "epochs": [
            {
                "epoch": i + 1,
                "step": int(step),
                "train_loss": float(loss) + 0.1,
                "heldout_loss": float(loss),
                "seconds": seconds,
                "tokens_per_second": 409_600 / seconds,
            }
            for i, (step, loss) in enumerate(zip(steps, losses, strict=True))
        ],
    }


def _blocks(n: int, rng: np.random.Generator) -> list[dict]:
    """Blocks of 50 steps on a machine that slows down, in random order."""
    drift_n = np.exp(0.02 * np.cumsum(rng.normal(size=n)))
    blocks = []
    for index in range(n):
        baseline = 50 * BASELINE_MS / 1e3 * drift_n[index]
        optimized = baseline / (SPEEDUP + 0.02 * rng.normal())
        first = ["baseline", "optimized"] if rng.random() < 0.5 else ["optimized", "baseline"]
        blocks.append(
            {
                "index": index,
                "epoch": index * 8 // n + 1,
                "steps": 50,
                "order": first,
                "seconds": {"baseline": float(baseline), "optimized": float(optimized)},
                "ratio": float(baseline / optimized),
            }
        )
    return blocks


def _training_pair(index: int, speedup: float, loss: float, difference: float) -> dict:
    return {
        "index": index,
        "seed": index,
        "block_pairs": 16,
        "speedup": speedup,
        "baseline_loss": loss,
        "optimized_loss": loss + difference,
        "loss_difference": difference,
    }


def _comparison(rng: np.random.Generator) -> dict:
    return {
        "baseline": "baseline",
        "optimized": "optimized",
        "unit": "block pair",
        "step_time_speedup": {
            "estimate": SPEEDUP,
            "ci95": [1.240, 1.262],
            "pairs": 16,
            "median": 1.25,
            "p_sign_flip": 3.1e-5,
            "log_ratio_sd": 0.016,
            "blocks": _blocks(16, rng),
        },
        "seconds_per_step_difference": {"estimate": -0.0323, "ci95": [-0.0335, -0.0311], "pairs": 16},
        "heldout_loss_difference": {
            "estimate": 0.0041,
            "ci95": [0.0012, 0.0070],
            "unit": "held-out sequence",
            "pairs": 512,
            "correlation": 0.998,
        },
        "loss_tests": {
            "margin": 0.1,
            "tight_margin": 0.02,
            "p_tost": 1e-90,
            "p_tost_tight": 3e-24,
            "p_no_worse": 3e-24,
            "unit": "held-out sequence",
        },
        "training_pairs": [_training_pair(0, SPEEDUP, 3.4729, 0.0041)],
        "seed_noise_measured": False,
        "processes": [],
        "time_to_target": {
            "target_loss": 3.4729,
            "arms": {
                "baseline": {"step": 800.0, "seconds": 128.8, "seconds_with_compile": 136.4},
                "optimized": {"step": 790.2, "seconds": 101.7, "seconds_with_compile": 115.5},
            },
            "speedup": 1.266,
            "speedup_with_compile": 1.181,
        },
        "break_even_steps": 192.0,
    }


def _control(name: str, verdict: str, injected: float | None, ratios: list[float], actual: str) -> dict:
    mean = float(np.exp(np.mean(np.log(ratios)))) if ratios else None
    return {
        "name": name,
        "description": f"what the {name.replace('_', ' ')} control does, in a sentence",
        "target": "99% interval of the ratio of times holds what is true",
        "actual": actual,
        "verdict": verdict,
        "injected": injected,
        "estimate": mean,
        "ci": None if mean is None else [mean - 0.013, mean + 0.013],
        "ratios": ratios,
        "seconds": 14.2,
    }


def _controls(rng: np.random.Generator) -> dict:
    return {
        "seconds": 42.6,
        "noise_floor": FLOOR,
        "confidence": 0.99,
        "items": [
            _control("placebo", "PASS", 1.0, list(1.001 + 0.012 * rng.normal(size=8)), "1.0010 (0.988 to 1.014)"),
            _control("known_delay", "PASS", 1.06, list(1.058 + 0.012 * rng.normal(size=8)), "1.0580 (1.045 to 1.071)"),
            _control("shuffled_targets", "PASS", None, [], "held-out loss 6.31: fails beats_bigram_entropy"),
        ],
    }


def _roofline() -> dict:
    step = {"flops": 26_000_000_000, "bytes": 1_112_000_000, "cached_bytes": 12_000_000}
    return {
        "peaks": {
            "matmul_flops": {"float32": 2.6e11, "bfloat16": 9.4e11},
            "copy_bytes": 2.1e10,
            "sources": {"float32": "numpy", "bfloat16": "the package's kernel", "memory": "a copy in two threads"},
            "cache_bytes": 6_000_000,
        },
        "arms": {
            "baseline": {
                **step,
                "dtype": "float32",
                "seconds": 0.161,
                "flops_per_second": 1.61e11,
                "roof": 2.6e11,
                "share": 0.62,
                "bound": "compute",
                "above_roof": False,
            },
            "optimized": {
                **step,
                "dtype": "bfloat16",
                "seconds": 0.1287,
                "flops_per_second": 2.02e11,
                "roof": 4.96e11,
                "share": 0.41,
                "bound": "memory",
                "above_roof": False,
            },
        },
    }


def _passed() -> dict:
    """Both arms with controls and roofline: every criterion passes."""
    rng = np.random.default_rng(0)
    return {
        "schema_version": 2,
        "name": "scaled",
        "verdict": "PASS",
        "estimands": {
            "sha256": "ef" * 32,
            "stated_at": "2026-11-24T20:58:07Z",
            "items": [
                {
                    "name": "step-time speed-up",
                    "unit": "block pair",
                    "statistic": "geometric mean of baseline / optimized seconds per step, t interval on logs",
                    "criterion": "95 % interval above 1 and above the placebo's noise floor",
                },
                {
                    "name": "held-out loss difference",
                    "unit": "held-out sequence",
                    "statistic": "mean of optimized - baseline after the last step, t interval",
                    "criterion": "95 % interval within 0.1 nats, and at most 0.02 nats higher",
                },
            ],
        },
        "controls": _controls(rng),
        "criteria": [
            {
                "name": "loss_falls",
                "target": "held-out loss falls by more than 5%",
                "actual": "baseline +54.5%, optimized +54.7%",
                "verdict": "PASS",
            },
            {
                "name": "speedup_above_zero",
                "target": "step-time speed-up above 1, 95 % interval above the noise floor 1.0120",
                "actual": "1.251 times as fast (1.240 to 1.262), 16 block pairs",
                "verdict": "PASS",
            },
            {
                "name": "loss_no_worse_by_0.02",
                "target": "optimized final held-out loss at most 0.02 nats higher, 95 % interval too",
                "actual": "+0.0041 (+0.0012 to +0.0070), 512 held-out sequences",
                "verdict": "PASS",
            },
        ],
        "arms": {
            "baseline": _arm(BASELINE_MS, 0.0, 7.6),
            "optimized": _arm(BASELINE_MS / SPEEDUP, 0.004, 13.8),
        },
        "comparison": _comparison(rng),
        "optimizations": [
            {
                "name": "dense",
                "arm": "optimized",
                "switch": "optimizations.dense",
                "implementation": "xla",
                "equivalence": "statistical",
                "active": True,
                "evidence": "24 bf16 x bf16 products with an MLP weight, 0 in the baseline",
            },
            {
                "name": "dropout",
                "arm": "optimized",
                "switch": "optimizations.dropout",
                "implementation": "off",
                "equivalence": "bitwise",
                "reason": "not hash: the model has no dropout",
                "active": False,
                "evidence": "",
            },
        ],
        "config_differences": [{"field": "optimizations.dense", "baseline": "off", "optimized": "xla"}],
        "schedule": {"epochs": 8, "steps_per_epoch": 100, "block_steps": 50, "tokens_per_step": 4096, "seed": 0},
        "settings": {"loss_margin": 0.1, "tight_loss_margin": 0.02, "beat": "bigram"},
        "data": {
            "source": "stdlib",
            "train": {"documents": 592, "tokens": 3_146_997},
            "entropies": {"unigram": 6.294, "bigram": 3.847, "counted_tokens": 3_146_997},
        },
        "roofline": _roofline(),
        "attribution": None,
        "compression": None,
        "decoding": None,
        "time_to_loss": None,
        "initial_params_hash": "ab" * 32,
        "batches_hash": "cd" * 32,
        "warnings": [],
        "artifacts": {"results": "results.json", "best checkpoint": "checkpoints/baseline"},
        "manifest": {
            "started_utc": "2026-11-24T20:58:07Z",
            "versions": {"python": "3.11.7", "jax": "0.10.2"},
            "processor": {"model": "AMD EPYC", "usable_cores": 2, "vector_flags": ["avx2", "avx512_bf16"]},
            "system": {"load_1min": 0.37},
            "environment": {},
            "seconds_in_all": 297.4,
            "peak_memory_bytes": 826_888_192,
        },
    }


def _failed(results: dict) -> dict:
    """A speed-up that is a slow-down; every number is there."""
    speed = results["comparison"]["step_time_speedup"]
    speed.update(estimate=0.962, ci95=[0.948, 0.977], median=0.963)
    for block in speed["blocks"]:
        block["seconds"]["optimized"] *= 1.3
        block["ratio"] /= 1.3
    results["comparison"]["seconds_per_step_difference"].update(estimate=0.0062, ci95=[0.0041, 0.0083])
    results["comparison"]["break_even_steps"] = None
    results["criteria"][1].update(verdict="FAIL", actual="0.962 times as fast (0.948 to 0.977), 16 block pairs")
    results["verdict"] = "FAIL"
    return results


def _placebo_failed(results: dict) -> dict:
    """Two arms of one program that seem to differ: nothing that was measured counts."""
    placebo = results["controls"]["items"][0]
    placebo.update(verdict="FAIL", estimate=1.062, ci=[1.021, 1.104], actual="1.0620 (1.0210 to 1.1040), 8 block pairs")
    placebo["ratios"] = [1.062 + 0.03 * (i - 3.5) / 3.5 for i in range(8)]
    results["controls"]["noise_floor"] = 0.094
    results["warnings"] = ["The control placebo did not pass: what this run measured proves nothing."]
    results["verdict"] = "INCONCLUSIVE"
    return results


def _single_arm(results: dict) -> dict:
    """One arm alone: nothing is compared and nothing is controlled."""
    del results["arms"]["baseline"]
    results["criteria"] = results["criteria"][:1]
    results.update(comparison=None, controls=None, roofline=None, config_differences=[])
    return results


def _ablated(results: dict) -> dict:
    """With what each of three optimizations brings, the last of which costs."""

    def value(estimate: float, p: float | None = None) -> dict:
        interval = {"estimate": estimate, "ci95": [estimate - 0.012, estimate + 0.012]}
        return interval if p is None else {**interval, "p": p, "p_holm": min(1.0, 3 * p)}

    players = [("dense", 1.18, 1.15, 1.165), ("attention", 1.11, 1.09, 1.101), ("norm", 0.98, 0.97, 0.9753)]
    results["attribution"] = {
        "rounds": 12,
        "baseline_ms": 161.0,
        "full_ms": 128.7,
        "total": value(1.251),
        "players": [
            {
                "name": name,
                "switch": f"optimizations.{name}",
                "implementation": "xla",
                "alone": value(alone, 4e-4),
                "left_out": value(left_out, 6e-4),
                "shapley": value(shapley),
            }
            for name, alone, left_out, shapley in players
        ],
        "interaction": value(0.974),
    }
    return results


def _many_seeds(results: dict) -> dict:
    """Eight training pairs, each of its own seed, and three fresh processes."""
    rng = np.random.default_rng(1)
    comparison = results["comparison"]
    comparison["training_pairs"] = [
        _training_pair(i, float(SPEEDUP + 0.01 * rng.normal()), float(3.47 + 0.01 * rng.normal()), float(d))
        for i, d in enumerate(0.003 + 0.008 * rng.normal(size=8))
    ]
    comparison.update(unit="process", seed_noise_measured=True)
    comparison["step_time_speedup"].update(pairs=4, ci95=[1.221, 1.282])
    comparison["heldout_loss_difference"].update(unit="training pair", pairs=8, estimate=0.003, ci95=[-0.004, 0.010])
    comparison["loss_tests"]["unit"] = "training pair"
    comparison["processes"] = [
        {"index": i + 1, "block_pairs": 8, "speedup": ratio, "compile_seconds": {"baseline": 7.7, "optimized": 13.1}}
        for i, ratio in enumerate((1.244, 1.263, 1.238))
    ]
    return results


def _measured(estimate: float, half: float) -> dict:
    return {"estimate": estimate, "ci95": [estimate - half, estimate + half]}


def _pareto(method: str, sizes: range, factor: float) -> list[dict]:
    """Files of 2, 3, ... bits a parameter, whose rise falls with the square of the step."""
    return [
        {
            "method": method,
            "setting": f"{bits} bits",
            "bytes": 134_000 * bits + 9000,
            "perplexity_change": _measured(factor * 4.0**-bits, 0.12 * factor * 4.0**-bits),
            "sequences": 512,
        }
        for bits in sizes
    ]


def _compressed(results: dict) -> dict:
    """With a compressed checkpoint whose interval reaches over its budget, and files of other methods beside it."""
    sizes = {"embedding": (262_144, 3.25), "mlp": (589_824, 2.25), "small arrays": (219_904, 2.2)}
    results["compression"] = {
        "arm": "optimized",
        "step": 800,
        "budget": "perplexity<=1%",
        "kept": False,
        "file": "compressed/best.ryot",
        "parameters": 1_071_872,
        "training_tokens": 3_276_800,
        "bytes": 349_757,
        "float_bytes": 4_287_488,
        "ratio": 4_287_488 / 349_757,
        "bits_per_parameter": 8 * 349_757 / 1_071_872,
        "lossless_bytes": 3_800_000,
        "lossless_coder": "lzma",
        "entropy_bytes": 336_436.3,
        "order0_entropy_bytes": 359_626.2,
        "codes_bytes": 336_664,
        "side_bytes": 12_237,
        "plain_bytes": 0,
        "header_bytes": 856,
        "overhead": 1.0007,
        "sequences": 2462,
        "float_loss": 3.4555,
        "loss": 3.4652,
        "loss_change": _measured(0.0097, 0.0006),
        "perplexity_change": {"estimate": 0.0097, "ci95": [0.0092, 0.0103]},
        "kl": _measured(0.0051, 0.0002),
        "agreement": _measured(0.934, 0.003),
        "tokens_per_second": 2900.0,
        "float_tokens_per_second": 3000.0,
        "speed": {"estimate": 0.97, "ci95": [0.94, 1.0]},
        "seconds": 55.0,
        "arrays": [
            {"name": name, "parameters": n, "bits_per_parameter": bits, "rise": n * 9e-9, "expected_rise": n * 1e-8}
            for name, (n, bits) in sizes.items()
        ],
        "pareto": [
            *_pareto("ours", range(2, 7), 0.3),
            *_pareto("GPTQ, equal bits", range(2, 7), 0.8),
            *_pareto("rounding to nearest", range(2, 9), 12.0),
            {
                "method": "lossless",
                "setting": "lzma",
                "bytes": 3_800_000,
                "perplexity_change": _measured(0.0, 0.0),
                "sequences": 512,
            },
        ],
    }
    return results


def _compressed_alone(results: dict) -> dict:
    """The compressed checkpoint of a single arm, with no other files and without what may be left out."""
    compression = _compressed(_single_arm(results))["compression"]
    compression.update(budget="ratio>=12", kept=True, pareto=[], arrays=[])
    compression.update(speed=None, tokens_per_second=None, float_tokens_per_second=None)
    return results


def _decoded(results: dict) -> dict:
    """With what generating with the best checkpoint came to."""
    results["decoding"] = {
        "arm": "optimized",
        "step": 800,
        "engine": "cpu",
        "dtype": "bfloat16",
        "prompts": 32,
        "prompt_tokens": 32,
        "new_tokens": 96,
        "draft": "lookup",
        "tokens_per_second": 29_876.5,
        "speculative_tokens_per_second": 55_432.1,
        "speed": {"estimate": 1.8432, "ci95": [1.7123, 1.9841]},
        "acceptance": 0.6035,
        "tokens_per_step": 2.8358,
        "identical": True,
        "identical_prompts": 32,
        "batch32_tokens_per_second": 91_234.5,
        "seconds": 4.231,
    }
    return results


def _scheduled(results: dict) -> dict:
    """With trainings by a schedule, a recipe and both; the recipe's ends above the baseline's loss."""

    def training(name: str, recipe: list[str], executed: list[tuple[int, ...]], seconds: float, change: float) -> dict:
        steps = [
            {"first_step": a, "end_step": b, "batch_size": batch, "seq_len": length, "depth": depth, "rate": 1.0}
            for a, b, batch, length, depth in executed
        ]
        return {
            "name": name,
            "recipe": recipe,
            "phases": "50% of B x T/2",
            "learning_rate": 0.02 if recipe else 0.003,
            "steps": executed[-1][1],
            "tokens": 2_000_000,
            "tokens_share": 0.6103,
            "programs": len(executed),
            "unplanned_compilations": 0,
            "checks_failed": 0,
            "seconds": seconds,
            "compile_seconds": 4.5,
            "compiled_from_cache": False,
            "loss": 3.4567 + change,
            "loss_difference": {"estimate": change, "ci95": [change - 0.01, change + 0.01]},
            "reached": None if abs(change) < 0.01 else change < 0,
            "kernels_seconds": 36.0,
            "share_of_kernels": seconds / 36.0,
            "share_of_baseline": seconds / 131.0,
            "share_of_baseline_with_compile": (seconds + 4.5) / 133.0,
            "executed": steps,
            "kinds": [
                {
                    **{key: step[key] for key in ("batch_size", "seq_len", "depth")},
                    "steps": step["end_step"] - step["first_step"],
                    "seconds": seconds / len(steps),
                    "compile_seconds": 4.5 / len(steps),
                    "saved_seconds": 10.0 if step["depth"] else None,
                    "repaid": True if step["depth"] else None,
                }
                for step in steps
            ],
        }

    parts = ["muon", "rotary"]
    results["time_to_loss"] = {
        "target_loss": 3.4567,
        "trainings": [
            training("schedule", [], [(0, 1000, 32, 32, 1), (1000, 1140, 32, 128, 0)], 14.5, -0.052),
            training("recipe", parts, [(0, 185, 32, 128, 0)], 10.5, 0.043),
            training("both", parts, [(0, 200, 32, 64, 1), (200, 260, 32, 128, 0)], 7.0, 0.004),
        ],
        "seconds": 61.2,
    }
    return results


def _nothing_measured(results: dict) -> dict:
    """Null wherever version 2 allows it: a run that ended before it had measured anything."""
    for arm in results["arms"].values():
        for key in ("initial_heldout_loss", "first_train_loss", "final_train_loss", "final_heldout_loss"):
            arm[key] = None
        for key in ("best_heldout_loss", "best_step", "tokens_per_second", "step_ms_median", "memory_bytes"):
            arm[key] = None
        arm.update(compile_warm_seconds=None, compiled_from_cache=None, epochs=[], compile_parts={}, train_seconds=0.0)
    comparison = results["comparison"]
    comparison["step_time_speedup"].update(
        estimate=None, ci95=None, pairs=0, median=None, p_sign_flip=None, log_ratio_sd=None, blocks=[]
    )
    comparison["seconds_per_step_difference"].update(estimate=None, ci95=None)
    comparison["heldout_loss_difference"].update(estimate=None, ci95=None, pairs=0, correlation=None)
    comparison["loss_tests"].update(p_tost=None, p_tost_tight=None, p_no_worse=None)
    comparison["training_pairs"][0].update(
        block_pairs=0, speedup=None, baseline_loss=None, optimized_loss=None, loss_difference=None
    )
    arms = {name: {"step": None, "seconds": None, "seconds_with_compile": None} for name in results["arms"]}
    comparison["time_to_target"] = {"target_loss": None, "arms": arms, "speedup": None, "speedup_with_compile": None}
    comparison["break_even_steps"] = None
    for control in results["controls"]["items"]:
        control.update(verdict="INCONCLUSIVE", estimate=None, ci=None, ratios=[])
    results["controls"]["noise_floor"] = None
    for arm in results["roofline"]["arms"].values():
        arm.update(flops=None, bytes=None, seconds=None, flops_per_second=None, roof=None, share=None)
    results["roofline"]["peaks"] = {"matmul_flops": {}, "copy_bytes": None}
    for criterion in results["criteria"]:
        criterion.update(verdict="INCONCLUSIVE", actual="not measured")
    results["estimands"]["stated_at"] = None
    results.update(verdict="INCONCLUSIVE", batches_hash=None, optimizations=[], config_differences=[], artifacts={})
    return results


def _renamed(results: dict, names: dict[str, str]) -> dict:
    """With arms of other names; `names` gives the new one of each old one."""
    results["arms"] = {names.get(name, name): arm for name, arm in results["arms"].items()}
    comparison, roofline = results["comparison"], results["roofline"]
    for role in ("baseline", "optimized"):
        comparison[role] = names.get(comparison[role], comparison[role])
    for block in comparison["step_time_speedup"]["blocks"]:
        block["order"] = [names.get(name, name) for name in block["order"]]
        block["seconds"] = {names.get(name, name): seconds for name, seconds in block["seconds"].items()}
    for holder in (comparison["time_to_target"], roofline):
        holder["arms"] = {names.get(name, name): arm for name, arm in holder["arms"].items()}
    return results


def _brought(results: dict) -> dict:
    """Two step functions that somebody brought, with nothing held out and names of their own."""
    _renamed(results, {"baseline": "adam", "optimized": "muon"})
    for arm in results["arms"].values():
        arm.update(epochs=[], compile_warm_seconds=None, compiled_from_cache=None, plan={})
    comparison = results["comparison"]
    comparison["heldout_loss_difference"].update(unit="block pair", pairs=8)
    comparison["loss_tests"]["unit"] = "block pair"
    arms = {name: {"step": None, "seconds": None, "seconds_with_compile": None} for name in results["arms"]}
    comparison["time_to_target"] = {"target_loss": None, "arms": arms, "speedup": None, "speedup_with_compile": None}
    results["settings"].update(beat="", held_out=False)
    results["data"] = {"items_per_step": 32, "held_out": False, "entropies": {}}
    results["manifest"] = {"versions": {"jax": "0.10.2"}}
    results.update(name="two optimizers", roofline=None, optimizations=[], config_differences=[], artifacts={})
    return results


SITUATIONS = {
    "passed": lambda results: results,
    "failed": _failed,
    "placebo_failed": _placebo_failed,
    "single_arm": _single_arm,
    "ablated": _ablated,
    "many_seeds": _many_seeds,
    "compressed": _compressed,
    "compressed_alone": _compressed_alone,
    "decoded": _decoded,
    "scheduled": _scheduled,
    "nothing_measured": _nothing_measured,
    "brought": _brought,
}


@pytest.fixture
def results():
    """Both arms with controls and roofline: every criterion passes."""
    return _passed()


@pytest.fixture(params=SITUATIONS)
def any_results(request):
    """Each situation in turn."""
    return SITUATIONS[request.param](_passed())


@pytest.fixture
def situation():
    """Turns the name of a situation into its results."""
    return lambda name: SITUATIONS[name](_passed())


@pytest.fixture
def renamed():
    """Gives the arms of some results other names, in place."""
    return _renamed


@pytest.fixture(scope="session")
def page():
    """Turns the name of a situation into its HTML report, drawn once."""
    return functools.cache(lambda name: html.render(SITUATIONS[name](_passed())))
