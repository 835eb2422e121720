"""`ryot import`: a run directory that generate and export take, of all that a GPT-2's folder may hold, or nothing."""

import contextlib
import io
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

from ryot_jax.data.tokenizer import train_bpe
from ryot_jax.runs.checkpoint_of_run import restore
from ryot_jax.runs.session import open_session
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import CheckpointError, ConfigError
from ryot_jax.training.checkpoints import Checkpoints
from tests import command_lines

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")


@pytest.fixture
def gpt2(make_run, tmp_path):
    """A folder with a GPT-2, and the parameters in it."""
    run = make_run()
    command_lines.run(["export", f"--run={run.directory.path}", f"--to={tmp_path / 'gpt2'}"], Console(io.StringIO()))
    return tmp_path / "gpt2", run.states["optimized", 5].params


def import_(folder, *words):
    """Runs the command with a workdir beside the folder; returns the run directory and what was printed."""
    workdir = folder.parent / "imported"
    printed = io.StringIO()
    assert command_lines.run(["import", f"--from={folder}", f"--workdir={workdir}", *words], Console(printed)) == 0
    (run,) = workdir.iterdir()
    return run, printed.getvalue()


def restored(run, *words):
    command = command_lines.parse(["generate", f"--run={run}", "--prompt=x", *words])
    return restore(open_session(command.config, print, cached_programs=False), command.chosen)


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


def test_a_run_of_the_same_parameters_and_tokenizer(gpt2):
    folder, params = gpt2
    run, printed = import_(folder)
    assert run.name.endswith("Z-gpt2")
    assert str(run) in printed and "a tokenizer of 278 ids" in printed and "ryot generate --run=" in printed
    found = restored(run)
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert (found.step, found.tokenizer.eod) == (0, 0)
    assert found.tokenizer.to_json() == (folder / "tokenizer.json").read_text(encoding="utf-8")
    assert found.config.comparison.arms == ("baseline",)
    assert found.config.tokenizer.path == str(run / "tokenizer.json")
    origin = json.loads((run / "imported.json").read_text(encoding="utf-8"))
    assert origin["sha256"].keys() == {"config.json", "model.safetensors", "tokenizer.json"}


def test_the_run_writes_text_and_has_no_best_checkpoint(gpt2):
    run, _ = import_(gpt2[0], "--name=mine")
    assert run.name.endswith("Z-mine")
    printed = io.StringIO()
    words = ["generate", f"--run={run}", "--prompt=def v", "--max_new_tokens=4"]
    assert command_lines.run(words, Console(printed)) == 0
    assert printed.getvalue().startswith("def v")
    assert "(baseline, latest checkpoint of step 0;" in printed.getvalue()
    with pytest.raises(CheckpointError, match="no checkpoint 'best'"):
        restored(run, "--checkpoint=best")


def test_export_of_an_import_is_the_same_files(gpt2, tmp_path):
    run, _ = import_(gpt2[0])
    command_lines.run(["export", f"--run={run}", f"--to={tmp_path / 'again'}"], Console(io.StringIO()))
    for file in gpt2[0].iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_an_imported_run_cannot_be_resumed_or_reported_on(gpt2):
    run, _ = import_(gpt2[0])
    for words in ([f"--resume={run}"], ["report", f"--run={run}"]):
        with pytest.raises(ConfigError, match="is an imported checkpoint: it holds no training"):
            command_lines.parse(words)
    for words in (["--resume=latest"], ["report"]):
        with pytest.raises(ConfigError, match="no run directory in"):
            command_lines.parse([*words, f"--workdir={run.parent}"])
    assert command_lines.parse(["generate", f"--workdir={run.parent}", "--prompt=x"]).chosen.run == run


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_bare_names_masks_and_half_precision(gpt2, dtype):
    folder, params = gpt2
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor.astype(dtype) for name, tensor in tensors.items()}
    bare["h.0.attn.bias"] = np.tril(np.ones((1, 1, 32, 32), np.uint8))
    save_file(bare, folder / "model.safetensors")
    found = restored(import_(folder)[0])
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, np.asarray(y).astype(dtype)), found.params, params)


def test_the_tokenizer_may_be_vocab_json_and_merges_txt(gpt2):
    folder, _ = gpt2
    inner = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    inner.model.save(str(folder))
    wanted = inner.encode("def value(self): \u00e9", add_special_tokens=False).ids
    (folder / "tokenizer.json").unlink()
    found = restored(import_(folder)[0]).tokenizer
    assert found.encode("def value(self): \u00e9") == wanted
    assert found.decode([*wanted, found.eod]) == "def value(self): \u00e9"
    assert (found.eod, found.vocab_size) == (0, 278)


@pytest.mark.parametrize(("configured", "eod"), [(65, 65), (50_256, 0), (None, 0), ([65], 0), (-1, 0)])
def test_the_end_of_a_document_is_that_of_the_config_if_the_tokenizer_has_it(gpt2, configured, eod):
    folder, _ = gpt2
    edit(folder / "config.json", eos_token_id=configured)
    assert restored(import_(folder)[0]).tokenizer.eod == eod


def test_without_a_tokenizer_there_is_a_run_that_cannot_write(gpt2):
    folder, _ = gpt2
    (folder / "tokenizer.json").unlink()
    run, printed = import_(folder)
    assert "no tokenizer" in printed and "ryot generate" not in printed
    assert restored(run).tokenizer is None


def _truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _write(name, text):
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def _without(name):
    return lambda folder: (folder / name).unlink()


def _configured(**values):
    return lambda folder: edit(folder / "config.json", **values)


def _as_float8(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.wpe.weight"] = tensors["transformer.wpe.weight"].astype(ml_dtypes.float8_e4m3fn)
    save_file(tensors, folder / "model.safetensors")


def _larger_tokenizer(folder):
    texts = ["import json, sys; print(sorted(json.loads(sys.argv[1]).items()), file=sys.stderr)\n" * 9]
    (folder / "tokenizer.json").write_text(train_bpe(texts, 310).to_json(), encoding="utf-8")


def _vocabulary_alone(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text('{"<|endoftext|>": 0}', encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("config.json"), r"config\.json cannot be read: No such file"),
        (_write("config.json", "{"), r"config\.json is not JSON"),
        (_write("config.json", "[]"), r"config\.json holds list, not an object"),
        (_without("model.safetensors"), r"model\.safetensors is not there; .*save_pretrained"),
        (_truncate, r"model\.safetensors cannot be read: .*; fetch it again"),
        (_as_float8, r"arrays of a dtype that is not read \(.*float8_e4m3fn.*\); save it as float32"),
        (_configured(model_type="llama"), "model_type = 'llama'"),
        (_configured(n_positions=31), r"of wrong shape: transformer\.wpe\.weight of shape \[32, 16\], not \[31, 16\]"),
        (_configured(n_layer=3), r"missing: transformer\.h\.2\."),
        (_configured(n_layer=1), r"superfluous: transformer\.h\.1\."),
        (_configured(n_head=3), r"ours cannot be: model\.n_heads = 3 must divide model\.d_model = 16"),
        (_configured(vocab_size=70_000), r"ours cannot be: model\.vocab_size = 70000 must be .* below 65537"),
        (_configured(n_embd=0), r"ours cannot be: model\.d_model = 0"),
        (_write("tokenizer.json", "{}"), r"tokenizer\.json: not a tokenizer\.json that .* reads"),
        (_larger_tokenizer, r"the tokenizer has 302 ids, the model 300 \(vocab_size in config\.json\)"),
        (_vocabulary_alone, r"vocab\.json and merges\.txt cannot be read"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named_and_no_run_is_left(gpt2, damage, message):
    folder, _ = gpt2
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        import_(folder)
    assert caught.value.exit_code == 6
    assert not (folder.parent / "imported").exists()


def test_an_import_that_fails_midway_leaves_nothing(gpt2, monkeypatch):
    def full(*arguments, **options):
        raise CheckpointError("no space left")

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(CheckpointError, match="no space left"):
        import_(gpt2[0])
    assert list((gpt2[0].parent / "imported").iterdir()) == []


def test_export_and_import_as_a_person_meets_them(make_run, tmp_path):
    run = make_run()
    for words in (
        ["export", f"--run={run.directory.path}", f"--to={tmp_path / 'a'}"],
        ["import", f"--from={tmp_path / 'a'}", f"--workdir={tmp_path / 'b'}"],
    ):
        done = command_lines.program(words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.isascii() and "next: " in done.stdout
    (imported,) = (tmp_path / "b").iterdir()
    with contextlib.closing(Checkpoints(imported / "checkpoints" / "baseline", read_only=True)) as checkpoints:
        metadata = checkpoints.metadata()
    assert (metadata["step"], metadata["arm"], metadata["heldout_loss"]) == (0, "baseline", "inf")
