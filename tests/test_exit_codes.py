"""Every exit code that the design promises, from whole commands; in processes of their own where signals matter."""

import json
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ryot_jax.training.checkpoints import Checkpoints
from tests.command_lines import REPOSITORY, program
from tests.test_main import BLOCK, EPOCHS, PROGRAM, STEPS, TINY, _only_run, _process, _words, text

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")

__all__ = ["text"]  # the fixture

ALONE = "--config.comparison.arms=('optimized',)"


def _started(words, text, workdir) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *_words(words, text, workdir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=REPOSITORY,
    )


def _wait_for(process: subprocess.Popen[str], workdir: Path, pattern: str) -> None:
    deadline = time.monotonic() + 240
    while not list(workdir.glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.005)


def test_0_an_arm_that_meets_all_criteria(text, tmp_path):
    done = program(_words([*TINY, ALONE], text, tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_1_a_crash(text, tmp_path):
    """No file may grow beyond one byte: what no check foresees."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))

    done = _process(_words([*TINY, ALONE], text, tmp_path), preexec_fn=limit)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "File too large" in done.stderr


def test_2_a_field_that_does_not_exist(text, tmp_path):
    done = _process(_words([*TINY, "--config.training.lr=1"], text, tmp_path))
    assert done.returncode == 2 and "training.lr" in done.stderr


def test_3_an_arm_that_learns_nothing(text, tmp_path):
    done = program(_words([*TINY, ALONE, "--config.training.learning_rate=1e-9"], text, tmp_path))
    assert done.returncode == 3, done.stdout + done.stderr
    assert "FAIL" in done.stdout and "loss falls" in done.stdout


def test_4_one_block_of_each_arm_says_nothing(text, tmp_path):
    words = [*TINY, "--config.training.epochs=1", "--config.training.steps_per_epoch=60"]
    words += ["--config.comparison.block_steps=60", "--config.comparison.controls=false"]
    done = program(_words(words, text, tmp_path))
    assert done.returncode == 4, done.stdout + done.stderr
    assert "INCONCLUSIVE" in done.stdout and "no interval" in done.stdout


def test_5_text_that_is_not_there(tmp_path):
    done = program(_words(TINY, tmp_path / "none", tmp_path / "runs"))
    assert done.returncode == 5 and str(tmp_path / "none") in done.stderr


def test_6_a_damaged_record(text, tmp_path):
    assert program(_words([*TINY, ALONE], text, tmp_path)).returncode == 0
    run = _only_run(tmp_path)
    (run / "record.json").write_text("{", encoding="utf-8")
    done = program([f"--resume={run}"])
    assert done.returncode == 6 and "record.json is damaged" in done.stderr


def test_7_a_loss_that_is_not_finite(text, tmp_path):
    done = program(_words([*TINY, ALONE, "--config.training.learning_rate=1e30"], text, tmp_path))
    assert done.returncode == 7, done.stdout + done.stderr


# Long enough to be still training when the signal comes.
LONG = [*TINY, "--config.training.epochs=200"]


def test_75_a_run_that_is_preempted_is_saved_and_goes_on(text, tmp_path):
    process = _started(LONG, text, tmp_path)
    _wait_for(process, tmp_path, f"*/checkpoints/optimized/{2 * STEPS}")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 75, output
    run = _only_run(tmp_path)
    assert not (run / "results.json").exists()
    saved = {}
    for arm in ("baseline", "optimized"):
        checkpoints = Checkpoints(run / "checkpoints" / arm, read_only=True)
        saved[arm] = checkpoints.latest_step()
        checkpoints.close()
    assert saved["baseline"] == saved["optimized"] >= 2 * STEPS
    assert f"stopped and saved after step {saved['optimized']}" in output
    resumed = _started([f"--resume={run}"], text, tmp_path)  # a run's own config names its data
    _wait_for(resumed, tmp_path, f"*/checkpoints/optimized/{(saved['optimized'] // STEPS + 2) * STEPS}")
    resumed.kill()
    resumed.communicate()


def test_130_a_run_that_is_interrupted(text, tmp_path):
    process = _started(LONG, text, tmp_path)
    _wait_for(process, tmp_path, f"*/checkpoints/optimized/{STEPS}")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert "interrupted" in output and "Traceback" not in output


@pytest.mark.parametrize("pairs", [2])
def test_a_study_goes_on_pair_by_pair(text, tmp_path, pairs):
    words = [*TINY, f"--config.comparison.pairs={pairs}", "--config.comparison.processes=2"]
    words += ["--config.comparison.control_blocks=2", "--config.comparison.control_steps=2"]
    process = _started(words, text, tmp_path)
    _wait_for(process, tmp_path, "*/pairs/001/checkpoints/optimized/*")  # the first pair is done, the second is not
    process.kill()
    process.communicate()
    run = _only_run(tmp_path)
    first = (run / "record.json").read_bytes()
    before = (run / "metrics.jsonl").read_bytes()

    done = program([f"--resume={run}"])
    assert done.returncode in (0, 3, 4), done.stdout + done.stderr
    assert "training pair 1 of" not in done.stdout and "training pair 2 of 2, seed 1" in done.stdout
    assert ((run / "record.json").read_bytes(), (run / "metrics.jsonl").read_bytes()) == (first, before)
    comparison = json.loads((run / "results.json").read_text(encoding="utf-8"))["comparison"]
    assert [pair["seed"] for pair in comparison["training_pairs"]] == list(range(pairs))
    losses = {pair["optimized_loss"] for pair in comparison["training_pairs"]}
    assert len(losses) == pairs, "two seeds gave the same run"
    assert comparison["seed_noise_measured"] and comparison["heldout_loss_difference"]["unit"] == "training pair"
    assert comparison["unit"] == "process" and comparison["step_time_speedup"]["pairs"] == 2
    assert [process["block_pairs"] for process in comparison["processes"]] == [EPOCHS * STEPS // BLOCK]
    assert not (run / "pairs" / "001" / "checkpoints").exists(), "checkpoints that nobody can use any more"


def test_what_is_judged_is_stated_before_and_cannot_change(text, tmp_path):
    assert program(_words([*TINY, ALONE], text, tmp_path)).returncode == 0
    run = _only_run(tmp_path)
    stated = json.loads((run / "estimands.json").read_text(encoding="utf-8"))
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert results["estimands"]["sha256"] == stated["sha256"] and results["estimands"]["items"] == stated["items"]
    stated["sha256"] = "0" * 64
    (run / "estimands.json").write_text(json.dumps(stated), encoding="utf-8")
    done = program([f"--resume={run}"])
    assert done.returncode == 6 and "states other estimands" in done.stderr
