"""A candidate that ends its process, or hangs, is a failure with a reason, and the others are timed."""

import pytest

from ryot_jax.kernels import Spec, trial_process, tuning
from ryot_jax.kernels.trial_process import failure_of

SPEC = Spec(
    platform="cpu", n_devices=1, compute_dtype="float32", rows=32, d_model=32, d_ff=64, vocab_size=100,
    seq_len=16, n_heads=2,
)  # fmt: skip


def test_what_runs_has_no_failure_and_what_cannot_says_why():
    assert failure_of("norm", SPEC, "xla") == ""
    assert "takes bfloat16 and float16; got float32" in failure_of("attention", SPEC, "cudnn")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "import os, sys; print('LLVM ERROR: Cannot select', file=sys.stderr, flush=True); os.abort()",
            "its process ended with exit code -6: LLVM ERROR: Cannot select",
        ),
        ("import time; time.sleep(60)", "not done after 2 s"),
    ],
)
def test_a_process_that_dies_or_hangs_is_a_failure(monkeypatch, tmp_path, script, reason):
    (tmp_path / "candidate.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(trial_process, "_MODULE", "candidate")
    assert failure_of("norm", SPEC, "xla", limit_seconds=2) == reason


def test_a_candidate_that_fails_apart_is_not_compiled_here(monkeypatch):
    monkeypatch.setattr(trial_process, "failure_of", lambda op, spec, name, seed: "dead" if name == "xla" else "")
    compiled, here = tuning.compiled, []
    monkeypatch.setattr(tuning, "compiled", lambda arrays, name: here.append(name) or compiled(arrays, name))
    winner, trials = tuning.tune("norm", SPEC, seconds=0.0, apart=True)
    assert trials["xla"].failure == "dead" and trials["xla"].milliseconds is None
    assert "xla" not in here and "reference" in here and winner != "xla"


def test_on_a_gpu_candidates_run_apart_first(monkeypatch):
    asked = []
    monkeypatch.setattr(tuning, "supported", lambda op, spec: ["reference"])
    monkeypatch.setattr(trial_process, "failure_of", lambda op, spec, name, seed: asked.append(name) or "not here")
    tuning.tune("norm", Spec(**{**vars(SPEC), "platform": "gpu"}), seconds=0.0)
    assert asked == ["reference"]
