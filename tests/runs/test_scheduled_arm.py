"""Trainings by a plan: the config's own is the plain arm's to the bit, and others are what their plan says."""

import dataclasses

import numpy as np
import pytest

from ryot_jax.comparison.arms import Arm
from ryot_jax.comparison.variants import Variant
from ryot_jax.config import get_default
from ryot_jax.data.pipeline import Corpus
from ryot_jax.data.tokenizer import NoTokenizer
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import KernelPlan
from ryot_jax.runs import scheduled_arm
from ryot_jax.runs.planned_training import PlannedTraining, ProgramTiming, planned_trainings, saved_seconds
from ryot_jax.runs.scheduled_arm import step_times, train_by
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.scaling import ProgramKey
from ryot_jax.training.setup import build_setup

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")

IDS = np.random.default_rng(0).integers(0, 60, size=5000).astype(np.uint16)
CORPUS = Corpus(IDS, IDS[:1000], NoTokenizer(60), "", {})


@pytest.fixture(scope="module")
def setup():
    """Of a training of 20 steps that take a millisecond each."""
    config = get_default()
    config.model.update({"vocab_size": 60, "d_model": 16, "d_ff": 32, "n_layers": 2, "n_heads": 2, "max_len": 8})
    config.training.update({"batch_size": 8, "seq_len": 8, "epochs": 2, "steps_per_epoch": 10, "warmup_steps": 4})
    config.evaluation.update({"sequences": 20, "batch_size": 8})
    config.optimizations.update(dict.fromkeys(config.optimizations, "off"))
    return build_setup(config, from_config(config.model, "cpu"), CORPUS)


@pytest.mark.parametrize("dispatch", ["step", "scan"])
def test_the_configs_own_plan_is_the_plain_arm_to_the_bit(setup, dispatch):
    kernels = KernelPlan(dispatch=dispatch)
    arm = Arm(setup, Variant("plain", kernels))
    arm.run_block(20)
    trained = train_by(PlannedTraining("the config's"), setup, kernels, CORPUS, seed=setup.config.seed)
    np.testing.assert_array_equal(trained.heldout.sequence_losses, arm.evaluate().sequence_losses)
    assert trained.schedule.programs() == (ProgramKey(8, 8),) and trained.schedule.total_steps == 20
    assert trained.unplanned == 0 and trained.config.training.learning_rate == setup.config.training.learning_rate
    assert [check.ok for check in trained.checks.values()] == [True]
    assert trained.seconds > 0 and trained.compile_seconds > 0
    other = train_by(PlannedTraining("the config's"), setup, kernels, CORPUS, seed=setup.config.seed + 1)
    assert other.heldout.mean_loss != trained.heldout.mean_loss, "a seed changes it"


def test_a_plan_is_followed_with_sizes_depth_and_recipe(setup):
    plan = PlannedTraining("both", "50% of B/2 x T/2 depth L/2 rate 0.5, 25% of B x T", ("muon", "rotary"), 0.02)
    trained = train_by(plan, setup, KernelPlan(dispatch="scan"), CORPUS, seed=1)
    # The recipe's kernels are chosen anew, and the config turns all of them off: one step a call.
    assert [(s.first, s.end, s.static) for s in trained.schedule.segments] == [
        (0, 40, ProgramKey(4, 4, 1)),
        (40, 45, ProgramKey(8, 8)),
    ]
    assert trained.config.training.learning_rate == 0.02 and trained.unplanned == 0
    assert len(trained.heldout.sequence_losses) == 20 and np.isfinite(trained.heldout.mean_loss)
    assert setup.config.training.optimizer == "adamw" and setup.config.training.learning_rate != 0.02


def test_another_rate_alone_keeps_model_and_kernels(setup, monkeypatch):
    monkeypatch.setattr(scheduled_arm, "build_setup", None)
    plain, faster = (
        train_by(PlannedTraining("", learning_rate=rate), setup, KernelPlan(), CORPUS, seed=0) for rate in (None, 0.01)
    )
    assert faster.config.training.learning_rate == 0.01 and faster.heldout.mean_loss != plain.heldout.mean_loss


def test_unchecked_programs_where_the_config_says_so(setup):
    config = setup.config.copy_and_resolve_references()
    config.runtime.check_programs = False
    own = dataclasses.replace(setup, config=config)
    assert train_by(PlannedTraining("", "30% of B x T"), own, KernelPlan(), CORPUS, seed=0).checks == {}


def test_a_plan_that_does_not_fit_is_refused_before_anything_compiles(setup, monkeypatch):
    monkeypatch.setattr(scheduled_arm, "compile_programs", None)
    lines = (
        ", ".join(f"10% of B x T/{n}" for n in (1, 2, 4, 8)) + ", " + ", ".join(f"10% of B/{n} x T" for n in (2, 4, 8))
    )
    with pytest.raises(ConfigError, match="at most 6 may be compiled"):
        train_by(PlannedTraining("", lines), setup, KernelPlan(), CORPUS, seed=0)


def test_the_plans_of_a_config():
    config = get_default()
    schedule, recipe, both = planned_trainings(config)
    assert (schedule.name, schedule.phases, schedule.parts) == ("schedule", config.scaling.schedule, ())
    assert schedule.learning_rate is None and recipe.learning_rate == config.scaling.recipe_learning_rate
    assert recipe.parts == both.parts == ("muon", "rotary") and both.phases == config.scaling.both_schedule
    config.scaling.recipe = ""
    assert [plan.name for plan in planned_trainings(config)] == ["schedule"]
    config.scaling.update(recipe="muon", schedule="", both_schedule="")
    assert [plan.name for plan in planned_trainings(config)] == ["recipe"]


def test_what_a_kind_of_steps_saves_is_against_its_tokens_in_the_largest_ones():
    short, shallow, whole = (
        ProgramTiming(ProgramKey(8, 4), 10, 2.0, 1.0),
        ProgramTiming(ProgramKey(8, 8, 1), 5, 1.0, 2.0),
        ProgramTiming(ProgramKey(8, 8), 20, 16.0, 3.0),
    )
    kinds = [short, shallow, whole]
    # 0.8 s for 64 tokens: 4 s for the 320 tokens of the short steps, and as much for the shallow ones.
    assert [saved_seconds(kind, kinds) for kind in kinds] == [pytest.approx(2.0), pytest.approx(3.0), None]
    assert saved_seconds(shallow, [shallow]) is None


def test_the_kinds_of_a_training_take_all_its_time(setup):
    plan = PlannedTraining("", "50% of B/2 x T/2 depth L/2, 25% of B x T, 25% of B/2 x T/2 depth L/2")
    trained = train_by(plan, setup, KernelPlan(), CORPUS, seed=0)
    assert [(kind.static, kind.steps) for kind in trained.timings] == [(ProgramKey(4, 4, 1), 60), (ProgramKey(8, 8), 5)]
    assert sum(kind.seconds for kind in trained.timings) == pytest.approx(trained.seconds)
    assert sum(kind.compile_seconds for kind in trained.timings) == pytest.approx(trained.compile_seconds)


def test_step_times_are_measured_without_training(setup):
    kinds = step_times(
        PlannedTraining("", "50% of B/2 x T/2, 25% of B x T", ("muon",), 0.02), setup.config, KernelPlan(), seconds=0.1
    )
    assert [(kind.static, kind.steps) for kind in kinds] == [(ProgramKey(4, 4), 40), (ProgramKey(8, 8), 5)]
    assert all(kind.seconds > 0 and kind.compile_seconds > 0 for kind in kinds)
