"""What a run measures of schedule and recipe: shares of a time taken beside it, and failures that leave the rest."""

import dataclasses
import json

import numpy as np
import pytest

from ryot_jax.comparison.arms import Arm
from ryot_jax.comparison.outcomes import TrainingPair
from ryot_jax.comparison.protocol import BlockSchedule
from ryot_jax.comparison.protocol import run as run_pair
from ryot_jax.comparison.results import convert, settled, to_text
from ryot_jax.comparison.schema import TimeToLoss
from ryot_jax.comparison.variants import Variant
from ryot_jax.config import from_json, get_default
from ryot_jax.data.pipeline import Corpus
from ryot_jax.data.tokenizer import NoTokenizer
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import KernelPlan
from ryot_jax.runs import time_to_loss
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import NonFiniteLossError
from ryot_jax.runtime.run_directory import RunDirectory
from ryot_jax.training.setup import build_setup

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")

IDS = np.random.default_rng(0).integers(0, 60, size=5000).astype(np.uint16)
CORPUS = Corpus(IDS, IDS[:1000], NoTokenizer(60), "", {})
STEPS = 20


@pytest.fixture(scope="module")
def compared():
    """`(setup, arms, pair)` after a comparison of two arms of one program."""
    config = get_default()
    config.model.update({"vocab_size": 60, "d_model": 16, "d_ff": 32, "n_layers": 2, "n_heads": 2, "max_len": 8})
    config.training.update({"batch_size": 8, "seq_len": 8, "epochs": 2, "steps_per_epoch": 10, "warmup_steps": 4})
    config.evaluation.update({"sequences": 20, "batch_size": 8})
    config.optimizations.update(dict.fromkeys(config.optimizations, "off"))
    setup = build_setup(config, from_config(config.model, "cpu"), CORPUS)
    arms = tuple(Arm(setup, Variant(name, KernelPlan())) for name in ("baseline", "optimized"))
    schedule = BlockSchedule(epochs=2, steps_per_epoch=10, block_steps=10, tokens_per_step=64, seed=0)
    return setup, arms, TrainingPair(0, run_pair(arms, schedule))


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch):
    monkeypatch.setattr(time_to_loss, "_REFERENCE_SECONDS", 0.0)


def measure(compared, **changes):
    setup, arms, pair = compared
    setup = dataclasses.replace(setup, config=setup.config.copy_and_resolve_references())
    setup.config.scaling.update(changes)
    return time_to_loss.measure(setup, arms, pair, CORPUS, Console())


def test_each_plan_is_trained_and_written_down_as_the_schema_says(compared):
    _, arms, pair = compared
    weights = arms[1].params_hash()
    found, warnings = measure(compared)
    assert settled(found) == convert(json.loads(to_text(found)), TimeToLoss) and not warnings
    assert found.target_loss == pair.record.heldout[-1].mean_loss["baseline"]
    assert [training.name for training in found.trainings] == ["schedule", "recipe", "both"]
    for training in found.trainings:
        assert training.share_of_kernels == training.seconds / training.kernels_seconds
        assert training.executed[-1].end_step == training.steps
        assert training.tokens_share == training.tokens / (STEPS * 64)
        assert training.unplanned_compilations == training.checks_failed == 0
    assert arms[1].params_hash() == weights, "the arm itself trains no further"


def test_the_time_of_the_kernels_is_that_of_the_blocks_around(compared, monkeypatch):
    per_step = iter([2.0, 4.0, 8.0, 16.0])
    monkeypatch.setattr(time_to_loss._Clock, "seconds_per_step", lambda self: next(per_step))
    found, _ = measure(compared)
    assert [training.kernels_seconds for training in found.trainings] == [STEPS * s for s in (3.0, 6.0, 12.0)]


def test_a_training_that_fails_is_told_and_the_others_go_on(compared, monkeypatch, capsys):
    train_by = time_to_loss.train_by

    def fails_with_a_recipe(plan, *arguments, **named):
        if plan.name == "recipe":
            raise NonFiniteLossError("loss = nan")
        return train_by(plan, *arguments, **named)

    monkeypatch.setattr(time_to_loss, "train_by", fails_with_a_recipe)
    found, warnings = measure(compared)
    assert [training.name for training in found.trainings] == ["schedule", "both"]
    assert warnings == ["The training with the recipe did not come to its end: loss = nan."]
    assert "recipe: not trained: loss = nan" in capsys.readouterr().out


def test_a_compilation_from_the_cache_is_not_compared_with_one_anew(compared, monkeypatch):
    monkeypatch.setattr(Arm, "from_cache", property(lambda arm: True))
    train_by = time_to_loss.train_by

    def compiled_anew(*arguments, **named):  # the trainings before this one may have left their programs in the cache
        return dataclasses.replace(train_by(*arguments, **named), from_cache=False)

    monkeypatch.setattr(time_to_loss, "train_by", compiled_anew)
    found, _ = measure(compared)
    assert all(training.share_of_baseline_with_compile is None for training in found.trainings)
    assert all(training.share_of_baseline is not None for training in found.trainings)


@pytest.mark.parametrize(
    ("interval", "reached"),
    [
        ((-0.2, -0.1), True),
        ((-0.1, 0.0), True),
        ((-0.1, 0.1), None),
        ((0.0, 0.1), None),
        ((0.01, 0.1), False),
        (None, None),
    ],
)
def test_a_loss_is_reached_where_the_interval_lies_not_above_zero(interval, reached):
    assert time_to_loss._reached(interval) is reached


def test_the_models_are_kept_with_their_configs_and_a_folder_that_cannot_be_written_is_told(compared, tmp_path):
    setup, arms, pair = compared
    directory = RunDirectory(tmp_path)
    time_to_loss.measure(setup, arms, pair, CORPUS, Console(), directory=directory)
    config = from_json(directory.config_of("both").read_text(encoding="utf-8"))
    assert (config.training.optimizer, config.model.positions) == ("muon", "rotary")
    assert {path.name for path in directory.checkpoints.iterdir()} == {"schedule", "recipe", "both"}
    blocked = RunDirectory(tmp_path / "blocked")
    blocked.path.mkdir()
    blocked.checkpoints.write_text("a file", encoding="utf-8")
    found, warnings = time_to_loss.measure(setup, arms, pair, CORPUS, Console(), directory=blocked)
    assert len(found.trainings) == len(warnings) == 3 and "was not kept" in warnings[0]
