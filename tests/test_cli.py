import json
from pathlib import Path

import pytest

from ryot_jax import cli
from ryot_jax.config import get_default, to_json
from ryot_jax.runtime.errors import ConfigError

REPOSITORY = Path(__file__).parents[1]
SMOKE = f"--config={REPOSITORY / 'configs/smoke.py'}"


@pytest.fixture
def runs(tmp_path):
    """A work directory with two runs, the newer one with a seed of its own."""
    for name, seed in (("20260101T000000Z-scaled", 0), ("20260102T000000Z-scaled", 1)):
        config = get_default()
        config.seed = seed
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(to_json(config), encoding="utf-8")
    return tmp_path


def test_train_is_the_default_command():
    for words in (["train", SMOKE], [SMOKE], [SMOKE[:8], SMOKE[9:]]):
        invocation = cli.parse(words)
        assert invocation.command == "train"
        assert invocation.config.name == "smoke"
        assert invocation.options == cli.TrainOptions(workdir=Path("runs"), dry_run=False, resume=None)


def test_train_options_and_overrides_in_any_order():
    words = ["--workdir=out", "--config.seed=3", SMOKE, "--dry_run", "--config.training.epochs", "3"]
    invocation = cli.parse(words)
    assert (invocation.config.seed, invocation.config.training.epochs) == (3, 3)
    assert invocation.options == cli.TrainOptions(workdir=Path("out"), dry_run=True, resume=None)


def test_tune_takes_a_config_and_overrides():
    invocation = cli.parse(["tune", SMOKE, "--config.model.d_ff=128"])
    assert (invocation.command, invocation.options) == ("tune", cli.NoOptions())
    assert (invocation.config.name, invocation.config.model.d_ff) == ("smoke", 128)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("--config.runtime.allocator", True),
        ("--noconfig.runtime.allocator", False),
        ("--config.runtime.allocator=False", False),
        ("-config.runtime.allocator=0", False),
    ],
)
def test_switches_are_written_as_absl_writes_them(word, value):
    assert cli.parse([SMOKE, word, "--dry_run"]).config.runtime.allocator is value


def test_later_override_wins():
    assert cli.parse([SMOKE, "--config.seed=1", "--config.seed=2"]).config.seed == 2


def test_negative_number_as_a_word_of_its_own_is_the_value():
    with pytest.raises(ConfigError, match="seed = -1 must be at least 0"):
        cli.parse([SMOKE, "--config.seed", "-1"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--config is missing"),
        (["trian", SMOKE], "unknown command 'trian'; did you mean train?"),
        (["configs/smoke.py"], "did you mean --config=configs/smoke.py?"),
        (
            ["train", "configs/smoke.py"],
            "unexpected word 'configs/smoke.py' after train; did you mean --config=",
        ),
        ([SMOKE, "--wordkir=x"], "train has no option --wordkir; did you mean workdir?"),
        ([SMOKE, "--dry_run=perhaps"], "dry_run"),
        ([SMOKE, "--config.training.lr=1"], "did you mean training.learning_rate?"),
        ([SMOKE, "--config.seed"], "--config.seed needs a value"),
        ([SMOKE, "--noconfig.seed"], "only a field that is true or false can be negated"),
        ([SMOKE, "--prompt=x"], "train has no option --prompt"),
        (["--config=nowhere/x.py"], "--config=nowhere/x.py: no such file"),
        (["--config=README.rst"], "no such file"),
        (["tune"], "--config is missing"),
        (["tune", SMOKE, "--dry_run"], "tune has no option --dry_run"),
        (["report", "--run=nowhere"], "nowhere is not a run directory"),
        (["report", "--workdir=nowhere"], "no run directory in nowhere/"),
        (["report", "--dry_run"], "report has no option --dry_run"),
        (["reprot"], "unknown command 'reprot'; did you mean report?"),
        (["doctor", "now"], "unexpected word 'now' after doctor"),
        (["doctor", "--dry_run"], "doctor has no option --dry_run"),
        (["generate", "--run=nowhere", "--prompt=x"], "nowhere is not a run directory"),
        (["generate", "--workdir=nowhere", "--prompt=x"], "no run directory in nowhere/"),
        (["export", "--workdir=nowhere", "--to=x"], "no run directory in nowhere/"),
        (["export", "--form=x"], "export has no option --form"),
        (["import"], "--from is missing"),
        (["import", "--from=nowhere"], "--from=nowhere: no such folder"),
        (["import", "--form=x"], "import has no option --form; did you mean from?"),
    ],
)
def test_usage_errors_name_the_word_and_the_remedy(words, message):
    with pytest.raises(ConfigError) as caught:
        cli.parse(words)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_help_and_version_win_over_everything_else():
    for words in (["--help"], ["train", "-h"], ["--config=nowhere.py", "--help"], ["help"]):
        assert cli.parse(words).command == "help"
    assert cli.parse(["--version"]).command == "version"


def test_help_says_that_a_python_config_is_executed_and_fits_a_terminal():
    assert "it is executed" in cli.HELP
    assert cli.HELP.isascii()
    assert max(map(len, cli.HELP.splitlines())) <= 100


def test_resume_takes_the_config_of_the_run(runs):
    latest = cli.parse([f"--workdir={runs}", "--resume=latest"])
    assert latest.config.seed == 1
    assert latest.options.resume == runs / "20260102T000000Z-scaled"
    older = cli.parse([f"--resume={runs / '20260101T000000Z-scaled'}"])
    assert older.config.seed == 0
    assert older.options.workdir == runs
    assert cli.parse([f"--workdir={runs}", "--resume=20260101T000000Z-scaled"]).config.seed == 0


def test_resume_refuses_another_config_and_names_what_differs(runs):
    words = [f"--workdir={runs}", "--resume=latest"]
    with pytest.raises(ConfigError, match=r"training\.epochs: the run has 8, asked for is 9"):
        cli.parse([*words, "--config.training.epochs=9"])
    with pytest.raises(ConfigError, match="name: the run has 'scaled', asked for is 'smoke'"):
        cli.parse([*words, SMOKE])
    assert cli.parse([*words, "--config.metrics.every_steps=1"]).config.metrics.every_steps == 1


def test_a_run_with_a_damaged_config_is_named(runs):
    path = runs / "20260102T000000Z-scaled" / "config.json"
    path.write_text(json.dumps({"model": {"n_heds": 4}}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"20260102T000000Z-scaled.*model\.n_heds; did you mean model\.n_heads\?"):
        cli.parse([f"--workdir={runs}", "--resume=latest"])


def test_generate_options(runs):
    invocation = cli.parse(
        [
            "generate",
            f"--workdir={runs}",
            "--prompt=def ",
            "--max_new_tokens=5",
            "--temperature=0.8",
            "--top_k=40",
            "--top_p=0.9",
            "--min_p=0.05",
            "--seed=3",
            "--draft=bigram",
            "--draft_length=4",
            "--candidates=8",
            "--engine=reference",
            "--compressed",
        ]
    )
    assert (invocation.command, invocation.config.seed) == ("generate", 1)
    assert invocation.options == cli.GenerateOptions(
        run=runs / "20260102T000000Z-scaled",
        arm="optimized",
        checkpoint="best",
        prompts=("def ",),
        max_new_tokens=5,
        temperature=0.8,
        top_k=40,
        top_p=0.9,
        min_p=0.05,
        seed=3,
        draft="bigram",
        draft_length=4,
        candidates=8,
        engine="reference",
        compressed=True,
    )


def test_generate_is_greedy_with_a_draft_unless_told_otherwise(runs):
    assert cli.parse(["generate", f"--workdir={runs}", "--prompt=x"]).options == cli.GenerateOptions(
        run=runs / "20260102T000000Z-scaled",
        arm="optimized",
        checkpoint="best",
        prompts=("x",),
        max_new_tokens=None,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        seed=0,
        draft="lookup",
        draft_length=0,
        candidates=1,
        engine="auto",
        compressed=False,
    )


def test_generate_takes_prompts_in_their_order_and_as_they_are(runs):
    words = ["--prompt=b, c", "--prompt", "a", "--prompt=", "--prompt=b, c"]
    assert cli.parse(["generate", f"--workdir={runs}", *words]).options.prompts == ("b, c", "a", "", "b, c")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperature=-1"], "temperature"),
        (["--top_k=-1"], "top_k"),
        (["--max_new_tokens=0"], "max_new_tokens"),
        (["--checkpoint=newest"], "checkpoint"),
        (["--arm=fast"], "has the arms baseline, optimized"),
        (["--draft=x"], r"--draft=x: .*one of <lookup\|bigram\|none>"),
        (["--draft_length=65"], r"--draft_length=65: .*\[0, 64\]"),
        (["--draft_length=-1"], r"--draft_length=-1: .*\[0, 64\]"),
        (["--candidates=0"], r"--candidates=0: .*\[1, 1024\]"),
        (["--candidates=1025", "--temperature=1"], r"--candidates=1025: .*\[1, 1024\]"),
        (["--engine=gpu"], r"--engine=gpu: .*one of <auto\|cpu\|reference>"),
        (["--candidates=4", "--temperature=0"], "--candidates=4 with --temperature=0: .*give --temperature=0.8"),
        (["--candidates=4"], "--candidates=4 with --temperature=0"),
    ],
)
def test_generate_refuses_values_out_of_range(runs, words, message):
    with pytest.raises(ConfigError, match=message):
        cli.parse(["generate", f"--workdir={runs}", "--prompt=x", *words])


def test_generate_needs_a_prompt(runs):
    with pytest.raises(ConfigError, match="--prompt is missing"):
        cli.parse(["generate", f"--workdir={runs}"])


def test_export_takes_the_checkpoint_that_generate_takes(runs):
    chosen = dict(run=runs / "20260102T000000Z-scaled", to=runs / "out")
    invocation = cli.parse(["export", f"--workdir={runs}", f"--to={runs / 'out'}"])
    assert (invocation.command, invocation.config.seed) == ("export", 1)
    assert invocation.options == cli.ExportOptions(**chosen, arm="optimized", checkpoint="best")
    words = ["--arm=baseline", "--checkpoint=latest"]
    invocation = cli.parse(["export", f"--workdir={runs}", f"--to={runs / 'out'}", *words])
    assert invocation.options == cli.ExportOptions(**chosen, arm="baseline", checkpoint="latest")
    (runs / "20260102T000000Z-scaled" / "imported.json").touch()
    invocation = cli.parse(["export", f"--workdir={runs}", f"--to={runs / 'out'}"])
    assert invocation.options == cli.ExportOptions(**chosen, arm="optimized", checkpoint="latest")


def test_import_names_the_run_after_the_folder(tmp_path, monkeypatch):
    (tmp_path / "gpt2").mkdir()
    wanted = cli.ImportOptions(source=tmp_path / "gpt2", workdir=Path("runs"), name="gpt2")
    assert cli.parse(["import", f"--from={tmp_path / 'gpt2'}"]) == cli.Invocation("import", None, wanted)
    monkeypatch.chdir(tmp_path / "gpt2")
    assert cli.parse(["import", "--from=."]).options.name == "gpt2"
    assert cli.parse(["import", "--from=.", "--name=mine"]).options.name == "mine"
    (tmp_path / "my model").mkdir()
    with pytest.raises(ConfigError, match="--name=my model: must be 1 to 64 letters"):
        cli.parse(["import", f"--from={tmp_path / 'my model'}"])


def test_export_needs_a_folder_that_is_not_there(runs):
    with pytest.raises(ConfigError, match="--to is missing"):
        cli.parse(["export", f"--workdir={runs}"])
    with pytest.raises(ConfigError, match=r"--to=.* is there already, and is no empty folder; name another one"):
        cli.parse(["export", f"--workdir={runs}", f"--to={runs}"])


def test_report_takes_the_latest_run_or_the_one_that_is_named(runs):
    older, latest = runs / "20260101T000000Z-scaled", runs / "20260102T000000Z-scaled"
    for words, run in (([], latest), (["--run=latest"], latest), ([f"--run={older.name}"], older)):
        invocation = cli.parse(["report", f"--workdir={runs}", *words])
        assert invocation == cli.Invocation("report", None, cli.ReportOptions(run))
    assert cli.parse(["report", f"--run={older}"]).options == cli.ReportOptions(older)
