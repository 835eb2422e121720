"""What a person is told of an ablation, from made-up effects."""

import dataclasses
import re

import pytest

from ryot_jax.comparison.attribution import Attribution, Effect, EffectWithP, PlayerEffects
from ryot_jax.report.topics.ablation import lines

NAMES = ("activations", "linear_cross_entropy", "attention")


def _effect(estimate, ci95=(0.9, 1.1), **p):
    return (EffectWithP if p else Effect)(estimate, ci95, **p)


def _player(name, alone, left_out, shapley):
    return PlayerEffects(
        name=name,
        switch=f"optimizations.{name}",
        implementation="bfloat16" if name == "activations" else "cpu",
        alone=_effect(alone, p=0.00003, p_holm=0.00018),
        left_out=_effect(left_out, p=0.2, p_holm=0.4),
        shapley=None if shapley is None else _effect(shapley),
    )


@pytest.fixture
def make_document():
    """`make_document(**changes of the attribution)`: three players, total 2.0, interaction 1.25."""

    def make(warnings=(), **changes):
        attribution = {
            "rounds": 16,
            "baseline_ms": 160.0,
            "full_ms": 80.0,
            "total": _effect(2.0, (1.95, 2.05)),
            "players": [_player(name, 1.0 + i / 10, 1.2 + i / 10, 1.25 ** (1 + i)) for i, name in enumerate(NAMES)],
            "interaction": _effect(1.25, (1.2, 1.3)),
        }
        return Attribution(**(attribution | changes)), warnings

    return make


def _text(document):
    return " ".join("\n".join(lines(*document)).split())


def test_the_table_has_a_row_an_optimization_and_fits_a_terminal(make_document):
    text = lines(*make_document(["a warning " * 30]))
    assert max(map(len, text)) <= 100 and "\n".join(text).isascii()
    start = next(i for i, line in enumerate(text) if line.startswith("optimization "))
    assert [line.split()[0] for line in text[start + 2 : start + 5]] == list(NAMES)
    cells = re.split(r"\s{2,}", text[start + 3])
    assert cells[1:] == ["cpu", "1.100 (0.900 to 1.100)", "0.0002", "1.300 (0.900 to 1.100)", "0.4000"]


def test_the_first_sentence_has_effect_interval_and_number_of_rounds(make_document):
    assert _text(make_document()).startswith(
        "With all 3 optimizations on, a step is 2.000 (1.950 to 2.050) times as fast: 80.00 ms instead of 160.00. "
        "Ranges are 95 % intervals over 16 rounds."
    )


def test_shapley_factors_come_with_their_product(make_document):
    text = _text(make_document())
    assert f"product of all {1.25**6:.3f}" in text
    assert "Shapley factor: what switching it on brings, mean over all orders" in text


def test_without_shapley_factors_it_says_what_they_need(make_document):
    document = make_document(players=[_player(name, 1.1, 1.1, None) for name in NAMES])
    text = _text(document)
    assert "No Shapley factors: they need the times of all 8 subsets" in text and "--only" in text
    assert "product of all" not in text


@pytest.mark.parametrize(
    ("interaction", "words"),
    [
        (_effect(1.25, (1.2, 1.3)), "1.250 (1.200 to 1.300) times that: together they give more than"),
        (_effect(0.8, (0.7, 0.9)), "multiply to 2.500, all together give 2.000, which is 0.800 (0.700 to 0.900) times"),
        (_effect(0.8, (0.7, 0.9)), "together they give less than"),
        (_effect(1.01, (0.9, 1.1)), "times that: this cannot be told from 1, at which the parts multiply."),
        (_effect(1.01, None), "1.010 (no interval) times that: too few rounds to tell it from 1."),
        (_effect(None, None), "Interaction: not known, as not every optimization was timed alone."),
    ],
)
def test_the_interaction_is_shown_as_what_it_is(make_document, interaction, words):
    assert words in _text(make_document(interaction=interaction))


def test_one_optimization_has_nobody_to_interact_with(make_document):
    text = _text(make_document(players=[_player("attention", 2.0, 2.0, 2.0)], interaction=_effect(1.0, None)))
    assert text.startswith("With attention on, a step is 2.000")
    assert "Interaction: none, as there is one optimization." in text


def test_effects_that_were_not_timed_are_not_numbers_and_no_tests(make_document):
    unknown = dataclasses.replace(_player("attention", 1.0, 1.0, None), alone=_effect(None, None, p=None, p_holm=None))
    text = _text(make_document(players=[unknown, _player("norm", 1.1, 1.1, None)]))
    assert "attention cpu n/a n/a 1.000" in text
    assert "corrected for all 3 of these tests" in text


def test_very_small_p_values_and_warnings_are_told(make_document):
    sure = dataclasses.replace(_player("attention", 1.0, 1.0, 1.0), alone=_effect(1.0, p=0.00003, p_holm=0.00002))
    assert "<0.0001" in _text(make_document(players=[sure]))
    assert _text(make_document(["the machine was busy"])).endswith("warning: the machine was busy")
