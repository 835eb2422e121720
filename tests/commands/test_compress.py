"""`ryot compress` on a run with a text of its own, and `ryot generate` from the file that it made."""

import json

import numpy as np
import pytest

from ryot_jax.compression import Quantized, load
from ryot_jax.compression.compressed import named_leaves
from ryot_jax.main import main
from ryot_jax.report.topics import compression as report
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")


def _said(capsys) -> str:
    return capsys.readouterr().out


def test_the_file_is_as_small_as_asked_and_writes_text(trained, capsys):
    run = trained.directory
    words = [f"--run={run.path}", "--arm=optimized"]
    assert main(["compress", *words, "--budget=ratio>=6"], Console()) == 0
    said = _said(capsys)
    path = run.compressed("optimized", "best")
    params, metadata = load(path)
    n = sum(int(np.prod(leaf.shape)) for leaf in named_leaves(params).values())
    assert path.stat().st_size <= 4 * n / 6
    assert f"{path.stat().st_size:,} bytes" in said and "ratio>=6" in said and "kept" in said
    assert all(isinstance(leaf, Quantized) for leaf in named_leaves(params).values())
    assert metadata["arm"] == "optimized" and metadata["model"]["vocab_size"] == 300
    assert main(["generate", *words, "--compressed", "--prompt=def ", "--max_new_tokens=4"], Console()) == 0
    assert "compressed" in _said(capsys)


def test_the_files_text_is_that_of_its_decoded_weights(trained, capsys):
    """Few bits change what is written; what is written from the file is what its decoded weights write."""
    from ryot_jax.compression import decode
    from ryot_jax.decoding import generate, prepare
    from ryot_jax.model.config import from_config

    run = trained.directory
    assert main(["compress", f"--run={run.path}", "--budget=ratio>=14"], Console()) == 0
    params, _ = load(run.compressed("optimized", "best"))
    model = from_config(trained.config.model, "cpu")
    of_file, of_decoded, of_float = (
        generate(prepare(weights, model), np.arange(8)[None], max_new_tokens=8).ids_BN
        for weights in (params, decode(params), trained.states["optimized", 5].params)
    )
    np.testing.assert_array_equal(of_file, of_decoded)
    assert (np.asarray(of_file) != np.asarray(of_float)).any()


@pytest.mark.parametrize("budget", ["ratio>=6", "loss<=1"])
def test_what_is_found_has_the_shape_that_reports_read(trained, budget, capsys):
    from ryot_jax.comparison.results import convert, settled, to_text
    from ryot_jax.comparison.schema import CompressionResult
    from ryot_jax.data.pipeline import prepare
    from ryot_jax.runs import checkpoint_of_run
    from ryot_jax.runs.chosen_checkpoint import best_of
    from ryot_jax.runs.compression import compress_checkpoint, parse_budget
    from ryot_jax.runs.session import open_session

    chosen = best_of(trained.directory, "optimized")
    config = trained.config
    config.compression.pareto = True
    checkpoint = checkpoint_of_run.restore(open_session(config, print, cached_programs=False), chosen)
    corpus = prepare(config.data, config.tokenizer, config.model.vocab_size, print)
    found = compress_checkpoint(checkpoint, chosen, corpus, parse_budget(budget), Console())
    assert settled(found) == convert(json.loads(to_text(found)), CompressionResult)
    assert found.kept is (budget == "ratio>=6" or found.loss_change.ci95[1] <= 1)
    assert found.bytes == (trained.directory.path / found.file).stat().st_size
    assert found.codes_bytes + found.side_bytes + found.plain_bytes + found.header_bytes == found.bytes
    assert sum(row.parameters for row in found.arrays) == found.parameters
    assert {point.method for point in found.pareto} == {
        "ours", "GPTQ, equal bits", "rounding to nearest", "lossless",
    }  # fmt: skip
    assert "smaller" in report.in_a_line(settled(found))


def test_mistakes_are_named(trained, capsys):
    run = trained.directory
    with pytest.raises(ConfigError, match=r"compression.budget: budget 'ratio<=8'.*ratio>=8"):
        main(["compress", f"--run={run.path}", "--budget=ratio<=8"], Console())
    with pytest.raises(ConfigError, match=r"compression.budget: .*cannot be kept"):
        main(["compress", f"--run={run.path}", "--budget=bytes<=10"], Console())
    with pytest.raises(CheckpointError, match=r"optimized-best.ryot is not there; make it with: ryot compress"):
        main(["generate", f"--run={run.path}", "--compressed", "--prompt=def "], Console())
    run.compressed("optimized", "best").parent.mkdir()
    run.compressed("optimized", "best").write_bytes(b"RYOTCMP1 and no more")
    with pytest.raises(CheckpointError, match="damaged"):
        main(["generate", f"--run={run.path}", "--compressed", "--prompt=def "], Console())


def test_another_text_is_refused(trained, tmp_path, capsys):
    (tmp_path / "text" / "module_0.py").write_text("import this\n" * 4000, encoding="utf-8")
    with pytest.raises(CheckpointError, match="another tokenizer"):
        main(["compress", f"--run={trained.directory.path}", "--budget=ratio>=6"], Console())
