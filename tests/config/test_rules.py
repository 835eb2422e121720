import math

import numpy as np
import pytest

from ryot_jax.config import fields, get_default, validate
from ryot_jax.config import rules as config_rules
from ryot_jax.data import rules as data_rules
from ryot_jax.optimizations import OPTIMIZATIONS
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.training.steps import rounded_steps


def changed(**values):
    config = get_default()
    config.update_from_flattened_dict({path.replace("__", "."): value for path, value in values.items()})
    return config


def test_defaults_are_valid():
    validate(get_default())


def test_the_largest_vocabulary_is_the_one_whose_ids_are_all_stored():
    largest = 1 + np.iinfo(data_rules.ID_TYPE).max
    validate(changed(model__vocab_size=largest))
    assert np.asarray([largest - 1]).astype(data_rules.ID_TYPE)[0] == largest - 1
    with pytest.raises(ConfigError, match="vocab_size"):
        validate(changed(model__vocab_size=largest + 1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model__n_heads": 3}, "model.n_heads = 3 must divide model.d_model = 128"),
        (
            {"model__d_model": 132, "model__positions": "rotary"},
            "model.n_heads = 4 gives heads of 33 numbers",
        ),
        (
            {"model__d_model": 33, "model__n_heads": 1, "model__positions": "sinusoidal"},
            "model.d_model = 33 must be even",
        ),
        ({"model__vocab_size": 65_537}, "model.vocab_size = 65537 must be at least 2 and below 65537"),
        ({"model__vocab_size": 256}, "model.vocab_size = 256 must be at least 257"),
        ({"model__dropout": 1.0}, "model.dropout = 1.0 must be at least 0.0 and below 1.0"),
        ({"model__dropout": -0.1}, "model.dropout = -0.1"),
        ({"model__mlp": "gleu"}, "model.mlp = 'gleu' must be one of gelu, swiglu, relu2; did you mean gelu?"),
        ({"training__epochs": 0}, "training.epochs = 0 must be at least 1"),
        ({"training__steps_per_epoch": -100}, "training.steps_per_epoch = -100 must be at least 1"),
        ({"training__seq_len": 129}, "training.seq_len = 129 must not exceed model.max_len = 128"),
        ({"training__accumulation": 5}, "training.accumulation = 5 must divide training.batch_size = 32"),
        ({"training__warmup_steps": 800}, "training.warmup_steps = 800 must be below the 800 steps"),
        ({"training__learning_rate": 0.0}, "training.learning_rate = 0.0 must be above 0"),
        ({"training__learning_rate": math.nan}, "training.learning_rate = nan"),
        ({"training__weight_decay": math.inf}, "training.weight_decay = inf"),
        ({"training__b2": 1.0}, "training.b2 = 1.0 must be at least 0.0 and below 1.0"),
        ({"training__optimizer": "adam"}, "did you mean adamw?"),
        (
            {"data__source": "stdlb"},
            "data.source = 'stdlb' must be one of stdlib, text, tokens, hf:NAME; did you",
        ),
        ({"data__source": "hf:"}, "data.source = 'hf:'"),
        ({"data__source": "text"}, "data.path = '' must name the input of data.source = 'text'"),
        ({"checkpoint__keep_latest": 1}, "checkpoint.keep_latest = 1 must be at least 2 with two arms"),
        ({"training__optimizer": "schedule_free"}, "training.schedule = 'cosine' must be constant"),
        (
            {"training__optimizer": "schedule_free", "training__schedule": "constant", "training__b1": 0.0},
            "training.b1 = 0.0 must be above 0 for training.optimizer = 'schedule_free'",
        ),
        ({"training__clip_norm": -1.0}, "training.clip_norm = -1.0 must be at least 0"),
        ({"data__heldout_fraction": 0.0}, "data.heldout_fraction = 0.0 must be between 0 and 1"),
        ({"tokenizer__kind": "file"}, "tokenizer.path = '' must name the file"),
        (
            {"comparison__block_steps": 30},
            "comparison.block_steps = 30 must divide training.steps_per_epoch = 100",
        ),
        ({"comparison__arms": ("baseline", "optimised")}, "not 'optimised'; did you mean optimized?"),
        ({"comparison__arms": ("baseline", "baseline")}, "must name at least one arm, and each once"),
        ({"comparison__arms": ()}, "must name at least one arm"),
        ({"comparison__tight_loss_margin": 0.2}, "must not exceed comparison.loss_margin = 0.1"),
        (
            {"optimizations__attention": "flash"},
            "optimizations.attention = 'flash' must be one of off, auto, cpu, mosaic, cudnn, xla",
        ),
        (
            {"optimizations__dispatch": "step"},
            "optimizations.dispatch = 'step' must be one of off, auto, scan",
        ),
        (
            {"optimizations__qat": "int4"},
            "optimizations.qat = 'int4' must be one of off, auto, round",
        ),
        ({"scaling__schedule": "half of B x T"}, "scaling.schedule = 'half of B x T': 'half of B x T' is no phase"),
        (
            {"scaling__both_schedule": "5% of B x T rate 0"},
            "scaling.both_schedule = '5% of B x T rate 0': '5% of B x T",
        ),
        (
            {"scaling__recipe": "moun"},
            "scaling.recipe = 'moun': there is no part 'moun' of a recipe; did you mean muon",
        ),
        ({"scaling__recipe_learning_rate": 0.0}, "scaling.recipe_learning_rate = 0.0 must be above 0"),
        ({"compression__qat_bits": 1}, "compression.qat_bits = 1 must be at least 2 and below 9"),
        ({"compression__qat_bits": 9}, "compression.qat_bits = 9 must be at least 2 and below 9"),
        ({"compression__qat_fraction": 0.0}, "compression.qat_fraction = 0.0 must be above 0 and at most 1"),
        ({"compression__qat_fraction": 1.01}, "compression.qat_fraction = 1.01 must be above 0 and at most 1"),
        ({"compression__qat_fraction": math.nan}, "compression.qat_fraction = nan must be above 0"),
        (
            {"optimizations__qat": "round", "compression__qat_fraction": 0.001},
            "compression.qat_fraction = 0.001 leaves none of the 800 steps to optimizations.qat = 'round'",
        ),
        ({"name": "../x"}, "name = '../x' must be 1 to 64 letters"),
        ({"name": ".."}, "name = '..' must be 1 to 64 letters"),
        ({"seed": -1}, "seed = -1 must be at least 0"),
        ({"metrics__every_steps": 0}, "metrics.every_steps = 0"),
    ],
)
def test_a_broken_rule_names_field_value_and_rule(values, message):
    with pytest.raises(ConfigError) as caught:
        validate(changed(**values))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fraction", "epochs", "steps_per_epoch", "rounded"),
    [(0.12, 8, 100, 96), (1.0, 8, 100, 800), (0.7, 1, 10, 7), (1 / 3, 3, 100, 100), (0.29, 1, 100, 29)],
)
def test_the_share_of_the_steps_that_see_rounded_weights_is_never_exceeded(fraction, epochs, steps_per_epoch, rounded):
    """The first of them is the step ceil((1 - fraction) * steps), counted from 0."""
    config = changed(
        compression__qat_fraction=fraction, training__epochs=epochs, training__steps_per_epoch=steps_per_epoch
    )
    assert rounded_steps(config) == rounded
    validate(changed(optimizations__qat="round", compression__qat_fraction=1 / 800))


def test_all_broken_rules_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        validate(changed(model__n_heads=3, training__epochs=-1, seed=-5))
    assert len(str(caught.value).splitlines()) == 3


def test_zero_everywhere_is_an_error_and_no_crash():
    config = get_default()
    config.update_from_flattened_dict({path: 0 for path, value in fields(config) if type(value) is int})
    with pytest.raises(ConfigError, match=r"model\.n_heads = 0"):
        validate(config)


def test_the_batch_divides_over_known_devices():
    config = changed(training__batch_size=32, training__accumulation=2)
    validate(config, device_count=8)
    with pytest.raises(ConfigError, match=r"training\.batch_size = 32 cannot be divided over 3 devices"):
        validate(config, device_count=3)


def test_ranges_and_choices_name_fields_that_exist():
    known = dict(fields(get_default()))
    assert {*config_rules.CHOICES, *config_rules.RANGES, *config_rules.POSITIVE} <= set(known)


def test_optimization_choices_are_those_of_the_kernels():
    for optimization in OPTIMIZATIONS:
        implementations = [name for name in optimization.implementations if name != optimization.reference]
        assert config_rules.CHOICES[f"optimizations.{optimization.name}"] == ("off", "auto", *implementations)
