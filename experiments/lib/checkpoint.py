"""The model of a run directory with its text, for experiments that start from a trained model."""

from pathlib import Path

from ryot_jax.config import from_json
from ryot_jax.data.pipeline import Corpus, prepare
from ryot_jax.runs.checkpoint_of_run import CheckpointOfRun, restore
from ryot_jax.runs.chosen_checkpoint import best_of
from ryot_jax.runs.session import open_session
from ryot_jax.runtime.run_directory import find_run


def best_of_run(workdir: Path, name: str, arm: str) -> tuple[CheckpointOfRun, Corpus]:
    """Load the best checkpoint of an arm, and the text that the run was trained on.

    Raises:
      RyotError: there is no such run or checkpoint, or its text cannot be read.
    """
    run = find_run(workdir, name, trained=True)
    config = from_json(run.config.read_text(encoding="utf-8"), str(run.config))
    trained = restore(open_session(config, _no_log, cached_programs=False), best_of(run, arm))
    return trained, prepare(config.data, config.tokenizer, config.model.vocab_size, _no_log)


def _no_log(line: str) -> None:
    """Discard a log line: experiments print only tables."""
