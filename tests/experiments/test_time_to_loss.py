"""Every plan of the study, and of the configs, is one that can be trained."""

import re

import pytest

from experiments.time_to_loss import STUDY
from ryot_jax.config import load
from ryot_jax.optimizations.dispatch import STEPS_PER_CALL
from ryot_jax.runs.planned_training import planned_trainings, schedule_of
from ryot_jax.scaling import check
from ryot_jax.training.recipe import with_recipe


@pytest.mark.parametrize("name", ["scaled", "wide", "smoke"])
def test_the_plans_can_be_trained(name):
    config = load(f"configs/{name}.py")
    for plan in [*planned_trainings(config), *STUDY.get(name, {}).values()]:
        with_recipe(config, plan.parts, plan.learning_rate)
        schedule = schedule_of(plan, config, steps_per_call=STEPS_PER_CALL)
        model = config.model
        check(schedule, max_len=model.max_len, n_layers=model.n_layers, steps_per_call=STEPS_PER_CALL)


def test_a_share_in_a_name_is_that_of_its_phases():
    config = load("configs/scaled.py")
    tokens = 800 * 32 * 128
    for name, plan in STUDY["scaled"].items():
        for share in re.findall(r"(\d+) %", name):
            assert round(100 * schedule_of(plan, config).total_tokens / tokens) == int(share), name
