"""The shape of `results.json`, version 2, and a validator for it.

Readers of the file (reports, tests, other people's scripts) rely on this; a field that goes or changes its
meaning raises the version. Fields beyond those listed are allowed. `compression`, `decoding` and `time_to_loss` were
added within the version: they may be absent, which is read as null.
"""

from collections.abc import Mapping
from typing import Any

SCHEMA_VERSION = 2

_NUMBER = (int, float)
_MAYBE_NUMBER = (int, float, type(None))
_VERDICTS = ("PASS", "FAIL", "INCONCLUSIVE")


class _Interval:
    """Null, or two numbers in order."""


_EPOCH = {
    "epoch": int,
    "train_loss": _MAYBE_NUMBER,
    "heldout_loss": _MAYBE_NUMBER,
    "seconds": _NUMBER,
    "tokens_per_second": _MAYBE_NUMBER,
}
_ARM = {
    "parameters": int,
    "steps": int,
    "tokens": int,
    "initial_heldout_loss": _MAYBE_NUMBER,
    "first_train_loss": _MAYBE_NUMBER,
    "final_train_loss": _MAYBE_NUMBER,
    "final_heldout_loss": _MAYBE_NUMBER,
    "best_heldout_loss": _MAYBE_NUMBER,
    "best_step": (int, type(None)),
    "train_seconds": _NUMBER,
    "tokens_per_second": _MAYBE_NUMBER,
    "step_ms_median": _MAYBE_NUMBER,
    "compile_seconds": _NUMBER,
    "compile_parts": dict,
    "compile_warm_seconds": _MAYBE_NUMBER,
    "compiled_from_cache": (bool, type(None)),
    "memory_bytes": (int, type(None)),
    "program_check": (dict, type(None)),
    "plan": dict,
    "epochs": [_EPOCH],
}
_COMPARISON = {
    "baseline": str,
    "optimized": str,
    "step_time_speedup": {
        "estimate": _MAYBE_NUMBER,
        "ci95": _Interval,
        "pairs": int,
        "median": _MAYBE_NUMBER,
        "p_sign_flip": _MAYBE_NUMBER,
        "log_ratio_sd": _MAYBE_NUMBER,
        "blocks": [{"index": int, "epoch": int, "steps": int, "order": list, "seconds": dict, "ratio": _MAYBE_NUMBER}],
    },
    "unit": str,
    "seconds_per_step_difference": {"estimate": _MAYBE_NUMBER, "ci95": _Interval},
    "heldout_loss_difference": {
        "estimate": _MAYBE_NUMBER,
        "ci95": _Interval,
        "unit": str,
        "pairs": int,
        "correlation": _MAYBE_NUMBER,
    },
    "loss_tests": {
        "margin": _NUMBER,
        "tight_margin": _NUMBER,
        "p_tost": _MAYBE_NUMBER,
        "p_tost_tight": _MAYBE_NUMBER,
        "p_no_worse": _MAYBE_NUMBER,
        "unit": str,
    },
    "training_pairs": [
        {
            "index": int,
            "seed": int,
            "block_pairs": int,
            "speedup": _MAYBE_NUMBER,
            "baseline_loss": _MAYBE_NUMBER,
            "optimized_loss": _MAYBE_NUMBER,
            "loss_difference": _MAYBE_NUMBER,
        }
    ],
    "seed_noise_measured": bool,
    "processes": [{"index": int, "block_pairs": int, "speedup": _MAYBE_NUMBER, "compile_seconds": dict}],
    "time_to_target": {
        "target_loss": _MAYBE_NUMBER,
        "arms": dict,
        "speedup": _MAYBE_NUMBER,
        "speedup_with_compile": _MAYBE_NUMBER,
    },
    "break_even_steps": _MAYBE_NUMBER,
}
_CONTROLS = {
    "seconds": _NUMBER,
    "noise_floor": _MAYBE_NUMBER,
    "confidence": _NUMBER,
    "items": [
        {
            "name": str,
            "description": str,
            "target": str,
            "actual": str,
            "verdict": str,
            "injected": _MAYBE_NUMBER,
            "estimate": _MAYBE_NUMBER,
            "ci": _Interval,
            "ratios": list,
            "seconds": _NUMBER,
        }
    ],
}
_MEASURED = {"estimate": _MAYBE_NUMBER, "ci95": _Interval}
_COMPRESSION = {
    **dict.fromkeys(("arm", "budget", "file", "lossless_coder"), str),
    **dict.fromkeys(("step", "parameters", "training_tokens", "sequences"), int),
    "kept": bool,
    **dict.fromkeys(("bytes", "float_bytes", "lossless_bytes"), int),
    **dict.fromkeys(("codes_bytes", "side_bytes", "plain_bytes", "header_bytes"), int),
    **dict.fromkeys(("ratio", "bits_per_parameter", "entropy_bytes", "order0_entropy_bytes", "seconds"), _NUMBER),
    **dict.fromkeys(("overhead", "float_loss", "loss"), _MAYBE_NUMBER),
    **dict.fromkeys(("loss_change", "perplexity_change", "kl", "agreement"), _MEASURED),
    **dict.fromkeys(("tokens_per_second", "float_tokens_per_second"), _MAYBE_NUMBER),
    "speed": (dict, type(None)),
    "arrays": [
        {
            "name": str,
            "parameters": int,
            "bits_per_parameter": _NUMBER,
            "rise": _MAYBE_NUMBER,
            "expected_rise": _NUMBER,
        }
    ],
    "pareto": [{"method": str, "setting": str, "bytes": int, "perplexity_change": _MEASURED, "sequences": int}],
}
_DECODING = {
    **dict.fromkeys(("arm", "engine", "dtype", "draft"), str),
    **dict.fromkeys(("step", "prompts", "prompt_tokens", "new_tokens"), int),
    # At batch 1 but for the last.
    **dict.fromkeys(("tokens_per_second", "speculative_tokens_per_second", "batch32_tokens_per_second"), _MAYBE_NUMBER),
    "speed": (dict, type(None)),  # speculative over plain
    "acceptance": _MAYBE_NUMBER,  # accepted / drafted tokens
    "tokens_per_step": _MAYBE_NUMBER,  # behind the first, which comes with the prompt; 1 without a draft
    "identical": (bool, type(None)),  # the tokens of all prompts, with a draft and without
    "identical_prompts": (int, type(None)),
    "seconds": _NUMBER,
}
_TIME_TO_LOSS = {
    "target_loss": _NUMBER,  # the baseline's final one, nats/token
    "trainings": [
        {
            **dict.fromkeys(("name", "phases"), str),
            "recipe": [str],
            **dict.fromkeys(("steps", "tokens", "programs", "unplanned_compilations", "checks_failed"), int),
            "tokens_share": _NUMBER,  # of the baseline's
            **dict.fromkeys(("learning_rate", "seconds", "compile_seconds", "loss"), _NUMBER),
            "compiled_from_cache": bool,
            "loss_difference": _MEASURED,  # to the baseline's, over held-out sequences
            "reached": (bool, type(None)),  # null: the interval holds 0
            "kernels_seconds": _NUMBER,  # of the optimized arm's training, timed before and after this one
            "share_of_kernels": _NUMBER,
            **dict.fromkeys(("share_of_baseline", "share_of_baseline_with_compile"), _MAYBE_NUMBER),
            "executed": [
                {**dict.fromkeys(("first_step", "end_step", "batch_size", "seq_len", "depth"), int), "rate": _NUMBER}
            ],
            # By program; saved: against its tokens in the largest steps of all layers, null for those themselves.
            "kinds": [
                {
                    **dict.fromkeys(("batch_size", "seq_len", "depth", "steps"), int),
                    **dict.fromkeys(("seconds", "compile_seconds"), _NUMBER),
                    "saved_seconds": _MAYBE_NUMBER,
                    "repaid": (bool, type(None)),
                }
            ],
        }
    ],
    "seconds": _NUMBER,
}
_RESULTS = {
    "schema_version": int,
    "name": str,
    "verdict": str,
    "estimands": {
        "sha256": str,
        "stated_at": (str, type(None)),
        "items": [dict.fromkeys(("name", "unit", "statistic", "criterion"), str)],
    },
    "controls": (dict, type(None)),
    "criteria": [{"name": str, "target": str, "actual": str, "verdict": str}],
    "arms": dict,
    "comparison": (dict, type(None)),
    "optimizations": [
        {"name": str, "arm": str, "implementation": str, "equivalence": str, "active": bool, "evidence": str}
    ],
    "schedule": dict.fromkeys(("epochs", "steps_per_epoch", "block_steps", "tokens_per_step", "seed"), int),
    "settings": {"loss_margin": _NUMBER, "tight_loss_margin": _NUMBER, "beat": str},
    "data": {"entropies": dict},
    "config_differences": [{"field": str, "baseline": str, "optimized": str}],
    "roofline": (dict, type(None)),
    "attribution": (dict, type(None)),
    "initial_params_hash": str,
    "batches_hash": (str, type(None)),
    "warnings": list,
    "artifacts": dict,
    "manifest": dict,
}


def validate_results(results: Mapping[str, Any]) -> None:
    """Check that `results` has every required field with its type.

    Raises:
      ValueError: the message lists every field at fault by its path.
    """
    faults: list[str] = []
    _check(results, _RESULTS, "results", faults)
    if not faults:
        for name, arm in results["arms"].items():
            _check(arm, _ARM, f"arms.{name}", faults)
        if results["comparison"] is not None:
            _check(results["comparison"], _COMPARISON, "comparison", faults)
        if results["controls"] is not None:
            _check(results["controls"], _CONTROLS, "controls", faults)
        if results.get("compression") is not None:
            _check_compression(results["compression"], faults)
        if results.get("time_to_loss") is not None:
            _check(results["time_to_loss"], _TIME_TO_LOSS, "time_to_loss", faults)
        if results.get("decoding") is not None:
            _check_decoding(results["decoding"], faults)
        if results["schema_version"] != SCHEMA_VERSION:
            faults.append(f"schema_version is {results['schema_version']}, not {SCHEMA_VERSION}")
        for verdict in (results["verdict"], *(criterion["verdict"] for criterion in results["criteria"])):
            if verdict not in _VERDICTS:
                faults.append(f"verdict {verdict!r} is none of {', '.join(_VERDICTS)}")
        if (len(results["arms"]) == 2) != (results["comparison"] is not None):
            faults.append(f"comparison is wanted with two arms and null with one, not {results['comparison']}")
    if faults:
        raise ValueError("not a results file of this program: " + "; ".join(faults))


def _check_compression(found: Any, faults: list[str]) -> None:
    _check(found, _COMPRESSION, "compression", faults)
    if not isinstance(found, Mapping):
        return
    if isinstance(found.get("speed"), Mapping):
        _check(found["speed"], _MEASURED, "compression.speed", faults)
    for name in ("bytes", "parameters"):  # what others are divided by
        if _is(found.get(name), int) and found[name] <= 0:
            faults.append(f"compression.{name} is {found[name]}, not above zero")


def _check_decoding(found: Any, faults: list[str]) -> None:
    _check(found, _DECODING, "decoding", faults)
    if isinstance(found, Mapping) and isinstance(found.get("speed"), Mapping):
        _check(found["speed"], _MEASURED, "decoding.speed", faults)


def _check(value: Any, shape: Any, path: str, faults: list[str]) -> None:
    if isinstance(shape, dict):
        if not isinstance(value, Mapping):
            faults.append(f"{path} is {type(value).__name__}, not an object")
            return
        for key, inner in shape.items():
            if key in value:
                _check(value[key], inner, f"{path}.{key}", faults)
            else:
                faults.append(f"{path}.{key} is missing")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            faults.append(f"{path} is {type(value).__name__}, not a list")
            return
        for index, item in enumerate(value):
            _check(item, shape[0], f"{path}[{index}]", faults)
    elif shape is _Interval:
        numbers = isinstance(value, list) and len(value) == 2 and all(_is(v, _NUMBER) for v in value)
        if value is not None and not (numbers and value[0] <= value[1]):
            faults.append(f"{path} is {value!r}, not null or [low, high]")
    elif not _is(value, shape):
        wanted = " or ".join(t.__name__ for t in (shape if isinstance(shape, tuple) else (shape,)))
        faults.append(f"{path} is {type(value).__name__}, not {wanted}")


def _is(value: Any, kind: Any) -> bool:
    """`isinstance`, but a bool is no number."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return bool in kinds if isinstance(value, bool) else isinstance(value, kinds)
