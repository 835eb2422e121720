"""A results dict such as a scaled run leaves, made up by a seeded rule."""

import numpy as np
import pytest


def _arm(name: str, step_ms: float, offset: float) -> dict:
    steps = np.arange(1, 9) * 100
    losses = 3.3 + offset + 4.3 * np.exp(-steps / 120.0)
    seconds = step_ms / 10
    return {
        "parameters": 1_054_464,
        "steps": 800,
        "tokens": 3_276_800,
        "initial_heldout_loss": 7.62,
        "first_train_loss": 7.63,
        "final_train_loss": 3.21 + offset,
        "final_heldout_loss": float(losses[-1]),
        "best_heldout_loss": float(losses[-1]),
        "best_step": 800,
        "train_seconds": 8 * seconds,
        "tokens_per_second": 409_600 / seconds,
        "step_ms_median": step_ms,
        "compile_seconds": 6.5,
        "compile_parts": {"trace": 1.0, "lower": 0.5, "compile": 5.0},
        "memory_bytes": 402 * 2**20,
        "program_check": None,
        "plan": {"dense": "reference"},
        "epochs": [
            {
                "epoch": i + 1,
                "step": int(step),
                "train_loss": float(loss),
                "heldout_loss": float(loss),
                "seconds": seconds,
                "tokens_per_second": 409_600 / seconds,
            }
            for i, (step, loss) in enumerate(zip(steps, losses, strict=True))
        ],
    }


@pytest.fixture
def results():
    rng = np.random.default_rng(0)
    speed_n = np.exp(0.1 * np.cumsum(rng.normal(size=16)))
    blocks = []
    for index in range(16):
        baseline = 50 * 0.25 * speed_n[index]
        optimized = baseline / (1.25 + 0.03 * rng.normal())
        blocks.append(
            {
                "index": index,
                "epoch": index // 2 + 1,
                "steps": 50,
                "order": ["baseline", "optimized"],
                "seconds": {"baseline": baseline, "optimized": optimized},
                "ratio": baseline / optimized,
            }
        )
    return {
        "schema_version": 1,
        "name": "scaled",
        "verdict": "PASS",
        "criteria": [
            {"name": "loss_falls", "target": "more than 5%", "actual": "baseline 56.4%", "verdict": "PASS"},
            {
                "name": "speedup_above_zero",
                "target": "step-time speed-up above 1, 95 % interval too",
                "actual": "1.251 times as fast (1.240 to 1.262), 16 block pairs",
                "verdict": "PASS",
            },
        ],
        "arms": {"baseline": _arm("baseline", 250.0, 0.0), "optimized": _arm("optimized", 200.0, 0.004)},
        "comparison": {
            "baseline": "baseline",
            "optimized": "optimized",
            "step_time_speedup": {
                "estimate": 1.251,
                "ci95": [1.240, 1.262],
                "pairs": 16,
                "median": 1.25,
                "p_sign_flip": 3.1e-5,
                "log_ratio_sd": 0.02,
                "blocks": blocks,
            },
            "heldout_loss_difference": {
                "estimate": 0.0041,
                "ci95": [0.0012, 0.0070],
                "sequences": 512,
                "correlation": 0.998,
            },
        },
        "optimizations": [
            {
                "name": "dense",
                "arm": "optimized",
                "implementation": "xla",
                "equivalence": "statistical",
                "active": True,
                "evidence": "24 bf16 x bf16 products with an MLP weight, 0 in the baseline",
            }
        ],
        "schedule": {
            "epochs": 8,
            "steps_per_epoch": 100,
            "block_steps": 50,
            "tokens_per_step": 4096,
            "seed": 0,
        },
        "settings": {"loss_margin": 0.1, "tight_loss_margin": 0.02, "beat": "bigram"},
        "data": {
            "source": "stdlib",
            "tokens": 3_400_000,
            "entropies": {"unigram": 6.32, "bigram": 3.99, "counted_tokens": 3_400_000},
        },
        "initial_params_hash": "ab" * 32,
        "batches_hash": "cd" * 32,
        "warnings": [],
        "artifacts": {"results": "results.json", "best checkpoint": "checkpoints/baseline"},
        "manifest": {"versions": {"jax": "0.10.2"}, "device": "cpu"},
    }
