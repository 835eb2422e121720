"""The program as a person meets it: whole commands, in processes of their own where a process is what is tested."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ryot_jax.comparison.results import decode
from ryot_jax.kernels import cpu
from ryot_jax.runtime.metrics import read_rows
from ryot_jax.training.checkpoints import Checkpoints
from tests.command_lines import REPOSITORY, program

EPOCHS, STEPS, BLOCK = 4, 24, 12  # a visit is a call of five steps and one of one, a block two visits
VERDICTS = {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}
# A model and a text so small that a run is mostly start-up.
TINY = [
    "--config=configs/smoke.py",
    "--config.data.source=text",
    "--config.model.vocab_size=300",
    "--config.model.d_model=16",
    "--config.model.d_ff=32",
    "--config.model.n_layers=1",
    "--config.model.max_len=16",
    "--config.training.seq_len=16",
    "--config.training.batch_size=8",
    f"--config.training.epochs={EPOCHS}",
    f"--config.training.steps_per_epoch={STEPS}",
    "--config.training.learning_rate=1e-2",
    "--config.training.warmup_steps=5",
    f"--config.comparison.block_steps={BLOCK}",
    "--config.evaluation.sequences=20",
    "--config.evaluation.batch_size=8",
    "--config.runtime.check_programs=False",
    "--config.runtime.tune=off",
    "--config.comparison.control_blocks=2",
    "--config.comparison.control_steps=6",
    "--config.compression.enabled=False",
    "--config.decoding.enabled=False",
    "--config.scaling.enabled=False",
]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for i in range(40):
        lines = (f"def function_{j % 7}(x):\n    return x + {i * 100 + j}\n" for j in range(60))
        (folder / f"module_{i}.py").write_text("\n".join(lines), encoding="utf-8")
    return folder


PROGRAM = (sys.executable, "-m", "ryot_jax.main")


def _words(words: Sequence[str], text: Path, workdir: Path) -> list[str]:
    return [*words, f"--config.data.path={text}", f"--workdir={workdir}"]


def _process(words: Sequence[str], **arguments) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *words], capture_output=True, text=True, cwd=REPOSITORY, timeout=300, **arguments)


def _only_run(workdir: Path) -> Path:
    (run,) = workdir.iterdir()
    return run


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run from start to end, in a process of its own."""
    workdir = tmp_path_factory.mktemp("runs")
    words = ["--config.scaling.enabled=True", "--config.scaling.recipe=muon", "--config.scaling.recipe_schedule="]
    done = _process(_words([*TINY, *words], text, workdir))
    assert done.returncode in VERDICTS.values(), done.stdout + done.stderr
    return _only_run(workdir), done


def test_a_run_leaves_results_that_keep_their_schema(finished):
    run, done = finished
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    decode(results)
    assert VERDICTS[results["verdict"]] == done.returncode
    assert results["comparison"]["step_time_speedup"]["pairs"] == EPOCHS * STEPS // BLOCK
    for arm in results["arms"].values():
        assert (arm["steps"], arm["tokens"]) == (EPOCHS * STEPS, EPOCHS * STEPS * 8 * 16)
        assert len(arm["epochs"]) == EPOCHS
        assert arm["final_heldout_loss"] < arm["initial_heldout_loss"]
    first, second = (arm["final_heldout_loss"] for arm in results["arms"].values())
    assert abs(first - second) < 0.02
    active = {optimization["name"]: optimization["active"] for optimization in results["optimizations"]}
    assert active["dispatch"], "several steps a call, on any CPU"
    if cpu.unavailable_reason() is None:
        ops = ("linear_cross_entropy", "attention", "dense", "norm", "embedding", "optimizer")
        assert {op: results["arms"]["optimized"]["plan"][op] for op in ops} == dict.fromkeys(ops, "cpu")
        assert all(active[op] for op in ops), "the C++ kernels ran, not what takes their place"


def test_a_run_ends_with_schedule_and_recipe_and_going_on_with_it_trains_nothing_twice(finished, tmp_path):
    run, done = finished
    found = json.loads((run / "results.json").read_text(encoding="utf-8"))["time_to_loss"]
    assert [(t["name"], t["recipe"]) for t in found["trainings"]] == [("schedule", []), ("both", ["muon"])]
    assert all(training["unplanned_compilations"] == 0 for training in found["trainings"])
    assert "Share of the baseline's time to its final loss" in done.stdout
    assert "## Schedule and recipe" in (run / "report.md").read_text(encoding="utf-8")

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    again = program([f"--resume={copy}"])
    assert again.returncode in VERDICTS.values(), again.stdout + again.stderr
    assert "schedule: " not in again.stdout and "Share of the baseline's time to its final loss" in again.stdout
    assert json.loads((copy / "results.json").read_text(encoding="utf-8"))["time_to_loss"] == found


def test_a_run_leaves_every_file_that_it_names(finished):
    run, _ = finished
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for name, path in results["artifacts"].items():
        assert (run / path).exists(), name
    assert "Executive summary" in (run / "report.md").read_text(encoding="utf-8")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["config_hash"] == hashlib.sha256((run / "config.json").read_bytes()).hexdigest()
    rows = read_rows(run / "metrics.jsonl")
    heldout = [(row["arm"], row["step"]) for row in rows if row["kind"] == "heldout"]
    assert heldout == [(arm, e * STEPS) for e in range(EPOCHS + 1) for arm in ("baseline", "optimized")]


def test_redirected_output_is_ascii_and_names_both_arms(finished):
    _, done = finished
    assert done.stdout.isascii()
    assert f"epoch {EPOCHS}/{EPOCHS}" in done.stdout
    assert done.stdout.count("held-out loss  baseline") == EPOCHS + 1


def _leaf_hashes(run: Path, arm: str) -> dict[str, str]:
    checkpoints = Checkpoints(run / "checkpoints" / arm, read_only=True)
    metadata = checkpoints.metadata("latest")
    checkpoints.close()
    assert metadata["step"] == EPOCHS * STEPS
    return {name: leaf["sha256"] for name, leaf in metadata["leaves"].items()}


def test_a_run_killed_after_two_epochs_resumes_to_the_same_bits(finished, text, tmp_path):
    whole, _ = finished
    # Many blocks a second would make it hard to hit a moment: the kill comes as soon as both arms have epoch 2.
    process = subprocess.Popen(
        [*PROGRAM, *_words(TINY, text, tmp_path)], cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob(f"*/checkpoints/optimized/{2 * STEPS}")):
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = _only_run(tmp_path)
    assert not (run / "results.json").exists(), "the run was over before the kill: the test shows nothing"

    done = program([f"--resume={run}"])
    assert done.returncode in VERDICTS.values(), done.stdout + done.stderr
    assert "resuming after step" in done.stdout
    for arm in ("baseline", "optimized"):
        assert _leaf_hashes(run, arm) == _leaf_hashes(whole, arm)
    resumed, straight = (json.loads((r / "results.json").read_text(encoding="utf-8")) for r in (run, whole))
    assert resumed["batches_hash"] == straight["batches_hash"]
    for arm in ("baseline", "optimized"):
        assert resumed["arms"][arm]["final_heldout_loss"] == straight["arms"][arm]["final_heldout_loss"]
    steps = [(row["arm"], row["step"]) for row in read_rows(run / "metrics.jsonl") if row["kind"] == "train"]
    assert len(steps) == len(set(steps)), "the resumed run wrote rows twice"


def test_a_run_killed_between_the_first_saves_of_its_arms_begins_again(finished, tmp_path):
    whole, _ = finished
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for path in ("record.json", "results.json"):
        (run / path).unlink()
    shutil.rmtree(run / "checkpoints" / "optimized")
    done = program([f"--resume={run}"])
    assert done.returncode in VERDICTS.values(), done.stdout + done.stderr
    assert "resuming" not in done.stdout
    for arm in ("baseline", "optimized"):
        assert _leaf_hashes(run, arm) == _leaf_hashes(whole, arm)


def test_a_resumed_run_keeps_its_kernels(finished, tmp_path):
    run, _ = finished
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", run, copy], check=True)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["kernels"]["optimized"]["norm"]["implementation"] = "reference"  # what auto takes nowhere by itself
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    done = program([f"--resume={copy}"])
    assert done.returncode in VERDICTS.values(), done.stdout + done.stderr
    assert "norm: reference (as before the interruption)" in done.stdout


def test_a_damaged_manifest_is_named(finished, tmp_path):
    run, _ = finished
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", run, copy], check=True)
    (copy / "manifest.json").write_text("[]", encoding="utf-8")
    done = program([f"--resume={copy}"])
    assert done.returncode == 6 and "manifest.json is damaged" in done.stderr


def test_resuming_with_another_config_is_refused(finished):
    run, _ = finished
    done = program([f"--resume={run}", "--config.training.learning_rate=1e-4"])
    assert done.returncode == 2
    assert "training.learning_rate: the run has 0.01, asked for is 0.0001" in done.stderr


@pytest.mark.parametrize("sampling", [[], ["--temperature=0.9", "--top_k=20", "--seed=3"]])
def test_a_checkpoint_generates_text(finished, sampling):
    run, _ = finished
    command = ["generate", f"--run={run}", "--prompt=def f", *sampling, "--max_new_tokens=8"]
    first, second = program(command), _process(command)  # no process adds something of its own
    assert first.returncode == 0, first.stderr
    written, again = (done.stdout.rsplit("\n\n", 1)[0] for done in (first, second))
    assert written.startswith("def f") and len(written) > len("def f")
    assert written == again


def test_a_prompt_that_does_not_fit_is_refused(finished):
    run, _ = finished
    command = ["generate", f"--run={run}", "--prompt=def f"]
    done = program([*command, "--max_new_tokens=50"])
    assert done.returncode == 2
    assert "model.max_len = 16" in done.stderr


def test_a_dry_run_tells_the_cost_and_leaves_nothing(tmp_path):
    done = program(["--config=configs/scaled.py", "--dry_run", f"--workdir={tmp_path / 'runs'}"])
    assert done.returncode == 0, done.stderr
    (parameters,) = (line.split()[1] for line in done.stdout.splitlines() if line.startswith("parameters"))
    assert 1_000_000 <= int(parameters.replace(",", "")) <= 1_200_000
    assert "GFLOP" in done.stdout and "MiB" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_what_is_tuned_is_used_by_the_next_run(tmp_path):
    ops = ("activations", "linear_cross_entropy", "attention", "dense", "embedding", "dropout")
    words = [*TINY, f"--config.data.cache_dir={tmp_path}", "--config.data.path=none"]
    words += [f"--config.optimizations.{op}=off" for op in ops]
    tuned = program(["tune", *words])
    assert tuned.returncode == 0, tuned.stdout + tuned.stderr
    assert "training step" in tuned.stdout and tuned.stdout.isascii()
    done = program(["train", *words, "--dry_run"])
    assert "optimized: norm:" in done.stdout and "(measured:" in done.stdout, done.stdout + done.stderr


@pytest.fixture(scope="module")
def alone(text, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run of one arm with everything that follows training."""
    workdir = tmp_path_factory.mktemp("alone")
    words = [*TINY, "--config.comparison.arms=('optimized',)", "--config.training.epochs=1"]
    # Its one op that is left to 'auto' is measured first.
    words += [f"--config.optimizations.{op}=off" for op in ("activations", "linear_cross_entropy", "attention")]
    words += [f"--config.optimizations.{op}=off" for op in ("dense", "embedding")]
    words += ["--config.compression.enabled=True", "--config.compression.calibration_sequences=64"]
    words += ["--config.compression.budget=ratio>=6", "--config.compression.pareto=False"]
    words += ["--config.decoding.enabled=True", "--config.runtime.tune=ops"]
    done = program(_words(words, text, workdir))
    assert done.returncode in VERDICTS.values(), done.stdout + done.stderr
    return _only_run(workdir), done


def test_one_arm_alone_is_trained_without_a_comparison(alone):
    run, done = alone
    assert "tuning norm: reference" in done.stdout and "(measured:" in done.stdout
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    decode(results)
    assert list(results["arms"]) == ["optimized"] and results["comparison"] is None
    found = results["compression"]
    assert found["kept"] and found["ratio"] >= 6 and "compressing the best checkpoint" in done.stdout
    small = run / found["file"]
    assert small.stat().st_size == found["bytes"] and results["artifacts"]["compressed"] == found["file"]


def test_a_run_ends_with_decoding_and_going_on_with_it_measures_nothing_twice(alone, tmp_path):
    run, done = alone
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    found = results["decoding"]
    assert (found["arm"], found["prompt_tokens"], found["new_tokens"]) == ("optimized", 4, 12)
    assert "decoding with the best checkpoint" in done.stdout and "Decoding: " in done.stdout
    judged = [c["verdict"] for c in results["criteria"] if c["name"] == "speculation_changes_no_token"]
    assert judged == (["PASS"] if found["engine"] == "cpu" else [])
    assert "## Decoding" in (run / "report.md").read_text(encoding="utf-8")

    again = program([f"--resume={copy}"])
    assert again.returncode == done.returncode, again.stdout + again.stderr
    assert "decoding with the best checkpoint" not in again.stdout and "Decoding: " in again.stdout
    assert json.loads((copy / "results.json").read_text(encoding="utf-8"))["decoding"] == found


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (["--config=configs/smoke.py", "--config.training.lr=1"], 2, "training.learning_rate"),
        (["--config=configs/smoke.py", "--config.model.n_heads=7"], 2, "model.n_heads = 7"),
        (["--config=configs/none.py"], 2, "no such file"),
        (["--config=configs/smoke.py", "--config.data.source=text", "--config.data.path=/no/such"], 5, "/no/such"),
        (["--config=configs/smoke.py", "--config.optimizations.attention=cudnn"], 2, "optimizations.attention"),
        (["generate", "--prompt=x", "--run=/no/such"], 2, "/no/such"),
    ],
)
def test_mistakes_end_with_their_exit_code_and_one_clear_line(words, exit_code, message, tmp_path):
    done = program([*words, f"--workdir={tmp_path}"])
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_checkpoint_ends_with_its_exit_code(finished, tmp_path):
    run, _ = finished
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", run, copy], check=True)
    for file in (copy / "checkpoints" / "optimized").rglob("*"):
        if file.is_file() and "manifest" not in file.name:
            os.truncate(file, file.stat().st_size // 2)
    done = program(["generate", f"--run={copy}", "--prompt=x"])
    assert done.returncode == 6, done.stdout + done.stderr
    assert "checkpoint" in done.stderr


def test_a_loss_that_is_not_finite_ends_with_its_exit_code(text, tmp_path):
    words = [*TINY, "--config.training.learning_rate=1e30", "--config.training.clip_norm=0"]
    done = program(_words(words, text, tmp_path))
    assert done.returncode == 7, done.stdout + done.stderr
    assert "arm '" in done.stderr and "step" in done.stderr
