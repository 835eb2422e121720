import pytest

from ryot_jax.runtime.suggestions import closest, did_you_mean

PATHS = [
    "training.learning_rate",
    "training.batch_size",
    "evaluation.batch_size",
    "training.b1",
    "model.d_model",
    "seed",
]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("training.lr", "training.learning_rate"),
        ("training.learning_rat", "training.learning_rate"),
        ("lr", "training.learning_rate"),
        ("eval.batch_size", "evaluation.batch_size"),
        ("train.batch", "training.batch_size"),
        ("model.dmodel", "model.d_model"),
        ("sede", "seed"),
        ("training.zzz", None),
        ("", None),
    ],
)
def test_the_nearest_name_is_the_one_that_was_meant(given, expected):
    assert closest(given, PATHS) == expected


def test_no_guess_is_no_clause():
    assert did_you_mean("zzz", PATHS) == ""
    assert did_you_mean("sed", PATHS) == "; did you mean seed?"
    assert did_you_mean("a", []) == ""
