"""Configs of the data, each with a cache of its own."""

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from ml_collections import ConfigDict

from ryot_jax import config
from ryot_jax.data import pipeline
from ryot_jax.data.pipeline import Corpus

# No wall-clock limits and no example database: a test gives the same result wherever it runs.
hypothesis.settings.register_profile("ryot", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("ryot")


@pytest.fixture
def data_config(tmp_path: Path) -> Callable[..., ConfigDict]:
    """`config.data` with the given fields; the cache is a folder of the test."""

    def make(**fields) -> ConfigDict:
        data = config.get_default().data
        data.update({"source": "text", "cache_dir": str(tmp_path / "cache")} | fields)
        return data

    return make


@pytest.fixture
def prepare(data_config: Callable[..., ConfigDict]) -> Callable[..., Corpus]:
    """`pipeline.prepare` on `config.data` with the given fields; log lines go to the list `log`."""

    def run(
        *,
        kind: str = "bpe",
        tokenizer_path: str = "",
        vocab_size: int = 300,
        log: list[str] | None = None,
        **fields,
    ) -> Corpus:
        lines = [] if log is None else log
        tokenizer = ConfigDict({"kind": kind, "path": tokenizer_path})
        return pipeline.prepare(data_config(**fields), tokenizer, vocab_size, lines.append)

    return run


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of 40 small texts of several lines."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(40):
        lines = [f"def function_{n}_{m}(value):\n    return value + {n * m}\n" for m in range(6)]
        (folder / f"file_{n:02d}.txt").write_text("".join(lines), "utf-8")
    return folder
