import json
from pathlib import Path

import pytest

import ryot_jax.commands
from ryot_jax import cli
from ryot_jax.cli.command import options
from ryot_jax.commands.generate import Generate
from ryot_jax.config import get_default, to_json
from ryot_jax.runs.chosen_checkpoint import ChosenCheckpoint
from ryot_jax.runtime.errors import ConfigError
from tests.command_lines import parse

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
        command = parse(words)
        assert command.name == "train"
        assert command.config.name == "smoke"
        assert (command.workdir, command.dry_run, command.resumed) == (Path("runs"), False, None)


def test_train_options_and_overrides_in_any_order():
    words = ["--workdir=out", "--config.seed=3", SMOKE, "--dry_run", "--config.training.epochs", "3"]
    command = parse(words)
    assert (command.config.seed, command.config.training.epochs) == (3, 3)
    assert (command.workdir, command.dry_run, command.resumed) == (Path("out"), True, None)


def test_tune_takes_a_config_and_overrides():
    command = parse(["tune", SMOKE, "--config.model.d_ff=128"])
    assert command.name == "tune"
    assert (command.config.name, command.config.model.d_ff) == ("smoke", 128)


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
    assert parse([SMOKE, word, "--dry_run"]).config.runtime.allocator is value


def test_later_override_wins():
    assert parse([SMOKE, "--config.seed=1", "--config.seed=2"]).config.seed == 2


def test_negative_number_as_a_word_of_its_own_is_the_value():
    with pytest.raises(ConfigError, match="seed = -1 must be at least 0"):
        parse([SMOKE, "--config.seed", "-1"])


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
        parse(words)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_help_and_version_win_over_everything_else():
    for words in (["--help"], ["train", "-h"], ["--config=nowhere.py", "--help"], ["help"]):
        assert parse(words).name == "help"
    assert parse(["--version"]).name == "version"


def test_help_says_that_a_python_config_is_executed_and_fits_a_terminal():
    commands = cli.discover(ryot_jax.commands)
    text = cli.help_text(commands)
    assert "it is executed" in " ".join(text.split())
    for shown in (text, *(cli.help_text(commands, name) for name in commands)):
        assert shown.isascii()
        assert max(map(len, shown.splitlines())) <= 100


def test_resume_takes_the_config_of_the_run(runs):
    latest = parse([f"--workdir={runs}", "--resume=latest"])
    assert latest.config.seed == 1
    assert latest.resumed.path == runs / "20260102T000000Z-scaled"
    older = parse([f"--resume={runs / '20260101T000000Z-scaled'}"])
    assert older.config.seed == 0
    assert older.resumed.path.parent == runs
    assert parse([f"--workdir={runs}", "--resume=20260101T000000Z-scaled"]).config.seed == 0


def test_resume_refuses_another_config_and_names_what_differs(runs):
    words = [f"--workdir={runs}", "--resume=latest"]
    with pytest.raises(ConfigError, match=r"training\.epochs: the run has 8, asked for is 9"):
        parse([*words, "--config.training.epochs=9"])
    with pytest.raises(ConfigError, match="name: the run has 'scaled', asked for is 'smoke'"):
        parse([*words, SMOKE])
    assert parse([*words, "--config.metrics.every_steps=1"]).config.metrics.every_steps == 1


def test_a_run_with_a_damaged_config_is_named(runs):
    path = runs / "20260102T000000Z-scaled" / "config.json"
    path.write_text(json.dumps({"model": {"n_heds": 4}}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"20260102T000000Z-scaled.*model\.n_heds; did you mean model\.n_heads\?"):
        parse([f"--workdir={runs}", "--resume=latest"])


def test_generate_options(runs):
    command = parse(
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
    assert (command.name, command.config.seed) == ("generate", 1)
    assert command.chosen == ChosenCheckpoint(runs / "20260102T000000Z-scaled", "optimized", "best")
    assert command == Generate(
        workdir=runs,
        prompt=("def ",),
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
    command = parse(["generate", f"--workdir={runs}", "--prompt=x"])
    assert command.chosen == ChosenCheckpoint(runs / "20260102T000000Z-scaled", "optimized", "best")
    assert command == Generate(
        workdir=runs,
        prompt=("x",),
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
    assert parse(["generate", f"--workdir={runs}", *words]).prompt == ("b, c", "a", "", "b, c")


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
        parse(["generate", f"--workdir={runs}", "--prompt=x", *words])


def test_generate_needs_a_prompt(runs):
    with pytest.raises(ConfigError, match="--prompt is missing"):
        parse(["generate", f"--workdir={runs}"])


def test_export_takes_the_checkpoint_that_generate_takes(runs):
    run, to = runs / "20260102T000000Z-scaled", runs / "out"
    command = parse(["export", f"--workdir={runs}", f"--to={to}"])
    assert (command.name, command.config.seed, command.to) == ("export", 1, str(to))
    assert command.chosen == ChosenCheckpoint(run, "optimized", "best")
    words = ["--arm=baseline", "--checkpoint=latest"]
    command = parse(["export", f"--workdir={runs}", f"--to={to}", *words])
    assert command.chosen == ChosenCheckpoint(run, "baseline", "latest") and command.to == str(to)
    (run / "imported.json").touch()
    command = parse(["export", f"--workdir={runs}", f"--to={to}"])
    assert command.chosen == ChosenCheckpoint(run, "optimized", "latest") and command.to == str(to)


def test_import_names_the_run_after_the_folder(tmp_path, monkeypatch):
    (tmp_path / "gpt2").mkdir()
    command = parse(["import", f"--from={tmp_path / 'gpt2'}"])
    assert (command.name, command.config) == ("import", None)
    assert (command.folder, command.workdir, command.run_name) == (tmp_path / "gpt2", Path("runs"), "gpt2")
    monkeypatch.chdir(tmp_path / "gpt2")
    assert parse(["import", "--from=."]).run_name == "gpt2"
    assert parse(["import", "--from=.", "--name=mine"]).run_name == "mine"
    (tmp_path / "my model").mkdir()
    with pytest.raises(ConfigError, match="--name=my model: must be 1 to 64 letters"):
        parse(["import", f"--from={tmp_path / 'my model'}"])


def test_export_needs_a_folder_that_is_not_there(runs):
    with pytest.raises(ConfigError, match="--to is missing"):
        parse(["export", f"--workdir={runs}"])
    with pytest.raises(ConfigError, match=r"--to=.* is there already, and is no empty folder; name another one"):
        parse(["export", f"--workdir={runs}", f"--to={runs}"])


def test_report_takes_the_latest_run_or_the_one_that_is_named(runs):
    older, latest = runs / "20260101T000000Z-scaled", runs / "20260102T000000Z-scaled"
    for words, run in (([], latest), (["--run=latest"], latest), ([f"--run={older.name}"], older)):
        command = parse(["report", f"--workdir={runs}", *words])
        assert (command.name, command.config) == ("report", None)
        assert (command.run_path, command.ablated_path) == (run, None)
    command = parse(["report", f"--run={older}"])
    assert (command.run_path, command.ablated_path) == (older, None)


def test_every_command_of_the_help_text_has_its_options_with_their_help():
    commands = cli.discover(ryot_jax.commands)
    text = cli.help_text(commands)
    for command in ("train", "generate", "compress", "export", "import", "tune", "ablate", "report", "doctor"):
        assert command in commands
        assert f"ryot {command}" in text or f"ryot [{command}]" in text
        own = cli.help_text(commands, command)
        for one in options(commands[command]).values():
            assert f"--{one.flag}" in own and f"--{one.flag}" in text and one.help
            assert " ".join(one.help.split()) in " ".join(own.split())


def test_help_behind_a_command_is_that_of_the_command():
    assert parse(["generate", "--help"]).topic == "generate"
    assert parse(["--help"]).topic == parse(["help"]).topic == ""


@pytest.mark.parametrize("words", [["--dry_run"], ["--dry_run=true"], ["--nodry_run", "--dry_run"], ["-dry_run"]])
def test_a_switch_is_turned_on_in_every_way_that_absl_knows(words):
    assert parse([SMOKE, *words]).dry_run is True
    assert parse([SMOKE, *words, "--nodry_run"]).dry_run is False


def test_nothing_that_a_command_line_needs_imports_jax(run_python):
    run_python(
        "import sys; from tests.command_lines import parse; from ryot_jax import main\n"
        "from ryot_jax.runtime.console import Console\n"
        f"parse([{SMOKE!r}, '--config.seed=3']); main.main(['--help'], Console())\n"
        "assert 'jax' not in sys.modules, 'parsing a command line imports JAX'"
    )
