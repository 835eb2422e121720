"""A recipe changes the fields that its parts name, and no others; what is no part is refused."""

import pytest

from ryot_jax.config import differences, get_default, validate
from ryot_jax.config.rules import CHOICES
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.training.recipe import PARTS, parse, with_recipe


def test_the_parts_of_a_line():
    assert parse("muon, rotary") == ("muon", "rotary") and parse("muon") == ("muon",) and parse("  ") == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("moun", "no part 'moun' of a recipe; did you mean muon"),
        ("muon,", "no part ''"),
        ("relu2, swiglu", "relu2 and swiglu both set model.mlp"),
        ("muon, muon", "muon and muon both set training.optimizer"),
    ],
)
def test_what_is_no_recipe_is_refused(line, message):
    with pytest.raises(ConfigError, match=message):
        parse(line)


@pytest.mark.parametrize("name", PARTS)
def test_each_part_changes_the_default_and_nothing_else(name):
    config = get_default()
    changed = with_recipe(config, (name,), None)
    validate(changed)
    assert set(differences(config, changed)) == set(PARTS[name].fields)
    assert all(value in CHOICES[field] for field, value in PARTS[name].fields.items())
    assert differences(get_default(), config) == {}, "the config itself stays"


def test_the_rate_and_the_kernel_of_the_optimizer():
    config = get_default()
    config.optimizations.optimizer = "cpu"
    changed = with_recipe(config, ("muon",), 0.02)
    assert changed.training.learning_rate == 0.02 and changed.optimizations.optimizer == "auto"
    config.optimizations.optimizer = "off"
    assert with_recipe(config, ("muon",), 0.02).optimizations.optimizer == "off"
