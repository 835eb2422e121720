"""Run directories as training leaves them, made without training: a small model and two checkpoints an arm."""

import contextlib
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.config import get_default, to_json, total_steps
from ryot_jax.data.pipeline import prepare
from ryot_jax.data.tokenizer import train_bpe
from ryot_jax.model import functional
from ryot_jax.model.config import from_config
from ryot_jax.runtime.run_directory import RunDirectory
from ryot_jax.training.checkpoints import Checkpoints
from ryot_jax.training.optimizer import make_optimizer
from ryot_jax.training.state import State, new_state

TOKENIZER = train_bpe(["def value(self):\n    return self.value\n" * 20], 280)
MODEL = {"vocab_size": 300, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 24, "max_len": 32}
BEST, LATEST = 5, 9  # steps


class Run:
    """A run directory, and the states that were put into its checkpoints, by arm and step."""

    def __init__(self, path, config):
        self.directory, self.config = RunDirectory(path), config
        self.states: dict[tuple[str, int], State] = {}

    def save(self, arm: str, step: int, heldout_loss: float) -> None:
        model, training = from_config(self.config.model, "cpu"), self.config.training
        optimizer = make_optimizer(training, total_steps(self.config))
        fresh = new_state(functional.init(model, 0)[1], optimizer, self.config.seed)
        rng = np.random.default_rng(step)
        params, opt_state = (jax.tree.map(lambda x: _moved(rng, x), part) for part in (fresh.params, fresh.opt_state))
        state = State(params, opt_state, jnp.asarray(step, jnp.int32), fresh.key)
        self.states[arm, step] = state
        with contextlib.closing(Checkpoints(self.directory.checkpoints / arm, 2, 1)) as checkpoints:
            checkpoints.save(step, state, {}, heldout_loss, to_json(self.config), arm=arm)


def _moved(rng: np.random.Generator, x: jax.Array) -> jax.Array:
    """Numbers far from the initial ones, of biases, scales and moments too, so that none can stand for another."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return jnp.asarray(x + 0.3 * rng.normal(size=x.shape), x.dtype)


@pytest.fixture
def make_run(tmp_path):
    """`make_run(name, tokenizer=..., **fields of the config)`: a run of the arms baseline and optimized."""

    def make(name="20260101T000000Z-small", *, tokenizer=TOKENIZER, **fields) -> Run:
        config = get_default()
        config.update_from_flattened_dict({f"model.{field}": value for field, value in MODEL.items()})
        config.update_from_flattened_dict({"training.seq_len": 16} | fields)
        run = Run(tmp_path / "runs" / name, config)
        run.directory.path.mkdir(parents=True)
        run.directory.config.write_text(to_json(config), encoding="utf-8")
        known = {"end_of_document": -1, "tokenizer_hash": "none"}
        if tokenizer is not None:
            run.directory.tokenizer.write_text(tokenizer.to_json(), encoding="utf-8")
            known = {"end_of_document": tokenizer.eod, "tokenizer_hash": tokenizer.hash}
        run.directory.manifest.write_text(json.dumps(known), encoding="utf-8")
        for arm in ("baseline", "optimized"):
            run.save(arm, BEST, 1.0)
            run.save(arm, LATEST, math.inf)
        return run

    return make


@pytest.fixture
def trained(make_run, tmp_path):
    """A run whose text is in a folder of its own, so that its tokenizer is that of the text."""
    text = tmp_path / "text"
    text.mkdir()
    for i in range(40):
        lines = (f"def function_{j % 7}(x):\n    return x + {i * 100 + j}\n" for j in range(60))
        (text / f"module_{i}.py").write_text("\n".join(lines), encoding="utf-8")
    fields = {
        "data.source": "text",
        "data.path": str(text),
        "data.cache_dir": str(tmp_path / "cache"),
        "evaluation.batch_size": 8,
        "compression.calibration_sequences": 64,
        "compression.pareto": False,
    }
    config = get_default()
    config.update_from_flattened_dict(fields)
    corpus = prepare(config.data, config.tokenizer, 300, print)
    return make_run(tokenizer=corpus.tokenizer, **fields)
