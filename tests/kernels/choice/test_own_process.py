"""An implementation that ends its process, or hangs, is a failure with a reason, and the others are timed."""

import pytest

from ryot_jax.kernels import Spec
from ryot_jax.kernels.choice import own_process, tuning
from ryot_jax.kernels.choice.own_process import failure_of
from ryot_jax.optimizations import BY_NAME

SPEC = Spec(
    platform="cpu", n_devices=1, compute_dtype="float32", rows=32, d_model=32, d_ff=64, vocab_size=100,
    seq_len=16, n_heads=2,
)  # fmt: skip


def test_what_runs_has_no_failure_and_what_cannot_says_why():
    assert failure_of(BY_NAME["norm"], SPEC, "xla") == ""
    assert "takes bfloat16 and float16; got float32" in failure_of(BY_NAME["attention"], SPEC, "cudnn")


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
    (tmp_path / "implementation.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(own_process, "_MODULE", "implementation")
    assert failure_of(BY_NAME["norm"], SPEC, "xla", limit_seconds=2) == reason


@pytest.mark.parametrize("said", ["", "no JSON", '{"other": 1}'])
def test_a_process_that_does_not_say_what_came_of_it_is_a_failure(monkeypatch, tmp_path, said):
    (tmp_path / "implementation.py").write_text(f"print({said!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(own_process, "_MODULE", "implementation")
    assert "did not say what came of it" in failure_of(BY_NAME["norm"], SPEC, "xla", limit_seconds=20)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_on_a_gpu_kernels_run_apart_first_and_one_that_fails_is_not_compiled_here(monkeypatch, platform):
    asked, here, compiled = [], [], tuning.compiled
    monkeypatch.setattr(tuning, "tunable", lambda op, spec: ["reference", "xla", "triton", "cpu"])
    monkeypatch.setattr(
        own_process, "failure_of", lambda op, spec, name, seed: asked.append(name) or ("dead" * (name == "triton"))
    )
    monkeypatch.setattr(tuning, "compiled", lambda arrays, name: here.append(name) or compiled(arrays, name))
    winner, measured = tuning.tune(BY_NAME["norm"], Spec(**{**vars(SPEC), "platform": platform}), seconds=0.0)
    assert winner != "triton" and measured["reference"].milliseconds is not None
    if platform == "gpu":
        assert asked == ["triton", "cpu"], "XLA's own need no process"
        assert measured["triton"].failure == "dead" and here == ["reference", "xla", "cpu"]
    else:
        assert not asked and "triton" in here
