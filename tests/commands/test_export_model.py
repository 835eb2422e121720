"""`ryot export`: what it writes, from which checkpoint, and that it writes all or nothing."""

import errno
import io
import json
import os

import numpy as np
import pytest
import tokenizers
from safetensors import safe_open
from safetensors.numpy import load_file

from ryot_jax.model import gpt2_layout
from ryot_jax.model.config import from_config
from ryot_jax.runs import gpt2_export
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import ConfigError
from tests import command_lines

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")


def export(run, to, *words):
    """Runs the command, and returns what it printed."""
    printed = io.StringIO()
    assert command_lines.run(["export", f"--run={run.directory.path}", f"--to={to}", *words], Console(printed)) == 0
    return printed.getvalue()


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("words", "arm", "step"),
    [([], "optimized", 5), (["--checkpoint=latest", "--arm=baseline"], "baseline", 9)],
)
@pytest.mark.parametrize("layout", [{}, {"model.scan_layers": True, "model.tie_embeddings": False}])
def test_the_parameters_are_those_of_the_checkpoint(make_run, tmp_path, words, arm, step, layout):
    run = make_run(**layout)
    printed = export(run, tmp_path / "a" / "gpt2", *words)
    assert f"({arm}, step {step})" in printed
    with safe_open(tmp_path / "a" / "gpt2" / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
    written = load_file(tmp_path / "a" / "gpt2" / "model.safetensors")
    wanted = gpt2_layout.to_gpt2(from_config(run.config.model, "cpu"), run.states[arm, step].params)
    assert written.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(written[name], tensor)
    assert ("lm_head.weight" in written) is bool(layout)


def test_the_files_are_those_that_transformers_reads(make_run, tmp_path):
    run = make_run(**{"model.dropout": 0.25})
    folder = tmp_path / "gpt2"
    printed = export(run, folder)
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in folder.iterdir()} == names
    assert all(name in printed for name in names) and "from_pretrained(" in printed
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644}
    config = read(folder / "config.json")
    assert config["architectures"] == ["GPT2LMHeadModel"] and config["model_type"] == "gpt2"
    sizes = {"vocab_size": 300, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24, "n_positions": 32}
    assert sizes.items() <= config.items()
    computed = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}
    assert computed.items() <= config.items()
    assert [config[f"{part}_pdrop"] for part in ("embd", "resid", "attn")] == [0.25, 0.25, 0.0]
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    assert ends.items() <= config.items() and read(folder / "generation_config.json") == ends
    written = read(folder / "tokenizer_config.json")
    assert (written["bos_token"], written["eos_token"], written["model_max_length"]) == (*["<|endoftext|>"] * 2, 32)
    inner = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert inner.token_to_id("<|endoftext|>") == 0 and len(inner.encode("def value").ids) > 1


def test_a_run_without_a_tokenizer_is_exported_without_one(make_run, tmp_path):
    export(make_run(tokenizer=None), tmp_path / "gpt2")
    assert {file.name for file in (tmp_path / "gpt2").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    assert read(tmp_path / "gpt2" / "config.json")["eos_token_id"] is None


@pytest.mark.parametrize(
    ("field", "value"), [("model.positions", "rotary"), ("model.norm", "rms"), ("model.mlp", "swiglu")]
)
def test_a_model_that_is_no_gpt2_is_refused_and_nothing_is_written(make_run, tmp_path, field, value):
    with pytest.raises(ConfigError, match=f"{field} = '{value}': GPT-2 has"):
        export(make_run(**{field: value}), tmp_path / "gpt2")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_folder_with_something_in_it_and_a_file_are_refused(make_run, tmp_path):
    run = make_run()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "file").touch()
    for to in ("full", "file"):
        with pytest.raises(ConfigError, match=rf"--to=.*{to} is there already, and is no empty folder"):
            export(run, tmp_path / to)
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    export(run, tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").is_file()


def test_an_export_that_fails_midway_leaves_nothing(make_run, tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    run = make_run()
    monkeypatch.setattr(gpt2_export, "write_json", full)
    with pytest.raises(ConfigError, match=r"--to=.*gpt2 cannot be written: .*No space left"):
        export(run, tmp_path / "gpt2")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_place_that_cannot_be_written_is_named(make_run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--to=.*gpt2 cannot be written"):
        export(make_run(), tmp_path / "file" / "gpt2")
