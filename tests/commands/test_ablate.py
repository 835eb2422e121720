"""`ryot ablate` as a person meets it: its words, what it refuses, and a whole run of two optimizations."""

import hashlib
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ryot_jax.cli import Context
from ryot_jax.comparison.ablation import CompiledArm
from ryot_jax.comparison.attribution import Player, attribute
from ryot_jax.comparison.variants import Variant
from ryot_jax.config import get_default
from ryot_jax.optimizations import KernelPlan
from ryot_jax.runs import ablation
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.json_values import plain
from tests import command_lines

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")

REPOSITORY = Path(__file__).parents[2]
SMOKE = f"--config={REPOSITORY / 'configs/smoke.py'}"
ROUNDS, BLOCK = 3, 5
# A model and a text so small that a run is mostly compilation, and optimizations that every CPU has.
TINY = [
    SMOKE,
    "--config.data.source=text",
    "--config.model.vocab_size=300",
    "--config.model.d_model=16",
    "--config.model.d_ff=32",
    "--config.model.n_layers=1",
    "--config.model.max_len=16",
    "--config.training.seq_len=16",
    "--config.training.batch_size=8",
    "--config.evaluation.sequences=20",
    "--config.evaluation.batch_size=8",
    "--config.runtime.check_programs=False",
    "--config.optimizations.norm=xla",
    f"--rounds={ROUNDS}",
    f"--block_steps={BLOCK}",
]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for i in range(40):
        lines = (f"def function_{j % 7}(x):\n    return x + {i * 100 + j}\n" for j in range(60))
        (folder / f"module_{i}.py").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run of two optimizations: its directory and what it printed."""
    workdir = tmp_path_factory.mktemp("runs")
    words = ["ablate", *TINY, "--only=dispatch,norm", f"--config.data.path={text}", f"--workdir={workdir}"]
    done = command_lines.program(words)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = workdir.iterdir()
    return run, done


def _document(run: Path):
    return json.loads((run / "attribution.json").read_text(encoding="utf-8"))


def test_a_run_leaves_its_config_its_manifest_and_its_log(finished):
    run, done = finished
    assert run.name.endswith("-smoke-ablate")
    assert {path.name for path in run.iterdir()} == {"config.json", "manifest.json", "run.log", "attribution.json"}
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["config_hash"] == hashlib.sha256((run / "config.json").read_bytes()).hexdigest()
    assert _document(run)["manifest"]["config_hash"] == manifest["config_hash"]
    assert (run / "run.log").read_text(encoding="utf-8") == done.stdout


def test_every_subset_is_timed_with_just_its_plan_and_proof(finished):
    document = _document(finished[0])
    assert [arm["name"] for arm in document["arms"]] == ["baseline", "norm", "dispatch", "all"]
    on = {"norm": "xla", "dispatch": "scan"}
    for arm in document["arms"]:
        assert arm["plan"] == dict(KernelPlan(**{name: on[name] for name in arm["on"]}))
        assert set(arm["evidence"]) == set(arm["on"])
        assert len(arm["seconds_per_step"]) == ROUNDS
    assert (document["missing"], document["block_steps"]) == ([], BLOCK)


def test_the_attribution_has_the_fields_that_reports_draw_from_and_is_that_of_the_times(finished):
    document = _document(finished[0])
    found = document["attribution"]
    assert list(found) == ["rounds", "baseline_ms", "full_ms", "total", "players", "interaction"]
    assert found["rounds"] == ROUNDS
    for player, (name, implementation) in zip(found["players"], (("norm", "xla"), ("dispatch", "scan")), strict=True):
        assert list(player) == ["name", "switch", "implementation", "alone", "left_out", "shapley"]
        assert (player["name"], player["switch"]) == (name, f"optimizations.{name}")
        assert player["implementation"] == implementation
        for kind in ("alone", "left_out"):
            assert list(player[kind]) == ["estimate", "ci95", "p", "p_holm"]
            low, high = player[kind]["ci95"]
            assert low < player[kind]["estimate"] < high and 0 < player[kind]["p"] <= player[kind]["p_holm"] <= 1
        assert list(player["shapley"]) == ["estimate", "ci95"]
    seconds = {frozenset(arm["on"]): arm["seconds_per_step"] for arm in document["arms"]}
    players = [Player(p["name"], p["switch"], p["implementation"]) for p in found["players"]]
    assert plain(attribute(seconds, players)) == found


def test_the_output_is_ascii_and_says_what_was_found(finished):
    run, done = finished
    found = _document(run)["attribution"]
    assert done.stdout.isascii()
    lines = done.stdout.splitlines()
    assert f"round {ROUNDS}/{ROUNDS}  0:00 left" in lines
    assert ["norm", "xla"] in [line.split()[:2] for line in lines]
    assert f"With all 2 optimizations on, a step is {found['total']['estimate']:.3f} (" in done.stdout
    assert "Interaction: the effects alone multiply to " in done.stdout
    assert f"warning: {ROUNDS} rounds cannot give a Holm p below 1 for 4 tests" in done.stdout
    assert str(run / "attribution.json") in lines[-1]


def test_times_that_something_else_made_long_are_told(finished):
    document = _document(finished[0])
    built = {
        frozenset(arm["on"]): CompiledArm(Variant(arm["name"], KernelPlan(**arm["plan"])), {}, {}, 1.0, {}, arm["name"])
        for arm in document["arms"]
    }
    seconds = {subset: np.full(8, 0.1) for subset in built}
    assert ablation._outliers(seconds, built) == []
    seconds[frozenset(["norm"])][2] *= 9.0
    (warning,) = ablation._outliers(seconds, built)
    assert warning.startswith("1 of 32 times are more than 1.5 times as long as their arm and round explain")
    assert "(the worst 9.0 times: norm, round 3)" in warning


def test_options_and_their_defaults():
    command = command_lines.parse(["ablate", SMOKE])
    assert (command.name, command.config.name) == ("ablate", "smoke")
    assert (command.workdir, command.only, command.rounds, command.block_steps) == (Path("runs"), None, 16, 10)
    words = ["--only=dense, attention", "--rounds=4", "--block_steps=20", "--workdir=out", "--config.seed=3"]
    command = command_lines.parse(["ablate", SMOKE, *words])
    only = ("dense", "attention")
    assert (command.workdir, command.only, command.rounds, command.block_steps) == (Path("out"), only, 4, 20)
    assert command.config.seed == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--config is missing"),
        ([SMOKE, "--only=dens"], "--only=dens: no such optimization; did you mean dense?"),
        ([SMOKE, "--rounds=1"], "--rounds"),
        ([SMOKE, "--block_steps=0"], "--block_steps"),
        ([SMOKE, "--round=4"], "ablate has no option --round; did you mean rounds?"),
        ([SMOKE, "norm"], "unexpected word 'norm' after ablate"),
    ],
)
def test_usage_errors_name_the_word_and_the_remedy(words, message):
    with pytest.raises(ConfigError) as caught:
        command_lines.parse(["ablate", *words])
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


OFF = [f"--config.optimizations.{name}=off" for name in get_default().optimizations]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (OFF, "no optimization differs between the baseline and the optimized arm"),
        ([*OFF, "--config.optimizations.norm=xla", "--only=dense"], "optimizations.dense is as in the baseline (off)"),
        ([*OFF, "--config.optimizations.dispatch=scan", "--block_steps=7"], "--block_steps=7 must be a multiple of 5"),
        (["--only="], "--only names no optimization"),
    ],
)
def test_what_cannot_be_ablated_is_refused_before_there_is_a_run_directory(tmp_path, words, message):
    command = command_lines.parse(["ablate", SMOKE, f"--workdir={tmp_path / 'runs'}", *words])
    with pytest.raises(ConfigError) as caught:
        command.run(Context(Console(io.StringIO()), command_lines.UNTOUCHED))
    assert message in str(caught.value)
    assert not (tmp_path / "runs").exists()
