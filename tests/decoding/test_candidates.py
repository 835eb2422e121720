"""Candidates are the same ones in whatever rounds they come, and no more are generated than it takes."""

import jax
import numpy as np
import pytest

from ryot_jax.decoding import (
    Sampling,
    Speculation,
    best_of,
    bigrams,
    compiles,
    generate,
    growing_budget,
    lookup_draft,
    majority,
)
from ryot_jax.runtime.errors import ConfigError

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")

PROMPT = [3, 1, 4]
STOP = 7
TOTAL = 8
SETTINGS = {"max_new_tokens": 12, "sampling": Sampling(1.0), "stop_tokens": [STOP], "key": jax.random.key(2)}


def all_candidates(decoder):
    """What TOTAL sequences generated at once are, each up to its end."""
    found = generate(decoder, [PROMPT] * TOTAL, **SETTINGS)
    candidates = [ids[:length].tolist() for ids, length in zip(*map(np.asarray, found[:2]), strict=True)]
    assert len({tuple(ids) for ids in candidates}) == TOTAL, "else one could stand for another"
    assert len(set(map(len, candidates))) > 1, "some end with the stop token"
    return candidates


def test_a_candidate_is_the_same_one_whatever_the_rounds_are(make_model, engine):
    decoder = make_model().decoder(engine)
    candidates = all_candidates(decoder)
    for budget in ((TOTAL,), (3, 5), (1, 1, 2, 4)):
        checked = []
        best_of(decoder, PROMPT, lambda ids, seen=checked: bool(seen.append(ids)), budget=budget, **SETTINGS)
        assert checked == candidates, budget


def test_a_draft_changes_no_candidate(make_model, kernel):
    decoder = make_model().decoder(kernel)
    speculation = Speculation(lookup_draft(31, length=3, successor_V=bigrams(decoder)))
    checked = []
    best_of(decoder, PROMPT, lambda ids: bool(checked.append(ids)), budget=(3, 5), speculation=speculation, **SETTINGS)
    assert checked == all_candidates(decoder)


@pytest.mark.parametrize(
    ("right", "budget", "n_tried"),
    [
        ([0], (1, 1, 2, 4), 1),
        ([1], (1, 1, 2, 4), 2),
        ([2], (1, 1, 2, 4), 4),
        ([3, 5], (1, 1, 2, 4), 4),
        ([5, 7], (2, 6), TOTAL),
        ([5], (TOTAL,), TOTAL),
    ],
)
def test_rounds_end_with_the_first_candidate_that_passes(make_model, right, budget, n_tried):
    decoder = make_model().decoder()
    candidates = all_candidates(decoder)
    passing, checked = [candidates[i] for i in right], []

    def check(ids):
        checked.append(ids)
        return ids in passing

    found = best_of(decoder, PROMPT, check, budget=budget, **SETTINGS)
    assert found.passed and found.ids == candidates[right[0]]
    assert checked == candidates[: right[0] + 1]
    assert found.n_tried == n_tried
    assert found.n_tokens == sum(map(len, candidates[:n_tried]))


def test_where_none_passes_the_answer_is_the_first(make_model):
    decoder = make_model().decoder()
    candidates = all_candidates(decoder)
    found = best_of(decoder, PROMPT, lambda ids: False, budget=(1, 1, 2, 4), **SETTINGS)
    assert not found.passed and found.ids == candidates[0]
    assert (found.n_tried, found.n_tokens) == (TOTAL, sum(map(len, candidates)))


def test_one_candidate_may_be_greedy(make_model):
    decoder = make_model().decoder()
    found = best_of(
        decoder, PROMPT, lambda ids: True, budget=(1,), **SETTINGS | {"sampling": Sampling(), "stop_tokens": ()}
    )
    np.testing.assert_array_equal(found.ids, generate(decoder, [PROMPT], max_new_tokens=12).ids_BN[0])
    assert (found.n_tried, found.n_tokens) == (1, 12)


@pytest.mark.parametrize(
    ("budget", "sampling", "message"),
    [
        ((), Sampling(1.0), r"budget = \(\): needs at least one round"),
        ((0,), Sampling(1.0), r"budget = \(0,\)"),
        ((2, 0), Sampling(1.0), r"budget = \(2, 0\): .* each of at least one candidate"),
        ((2,), Sampling(), "greedy candidates are all the same"),
        ((1, 1), Sampling(), "greedy candidates are all the same"),
    ],
)
def test_what_cannot_be_tried_is_named(make_model, budget, sampling, message):
    with pytest.raises(ConfigError, match=message):
        best_of(make_model().decoder(), PROMPT, lambda ids: True, budget=budget, **SETTINGS | {"sampling": sampling})


@pytest.mark.parametrize("total", range(1, 21))
def test_rounds_grow_as_all_before_and_make_up_the_total(total):
    rounds = growing_budget(total)
    assert rounds[0] == 1 and sum(rounds) == total
    for i, n in enumerate(rounds[1:], start=1):
        assert 1 <= n <= sum(rounds[:i])
    assert len(rounds) <= total.bit_length() + 1


def test_rounds_are_as_few_as_that_allows():
    assert growing_budget(8) == (1, 1, 2, 4)
    assert growing_budget(10) == (1, 1, 2, 4, 2)
    with pytest.raises(ConfigError, match="candidates = 0"):
        growing_budget(0)


def test_the_majority_is_the_most_frequent_answer_and_of_equals_the_first():
    assert majority([1, 2, 2]) == 2
    assert majority(["b", "a", "a", "b"]) == "b"
    assert majority(["c", "a", "b", "b", "a"]) == "a"
    assert majority(letter for letter in "x") == "x"
    with pytest.raises(ValueError, match="no answers"):
        majority([])


@pytest.mark.parametrize(
    "source",
    [
        "x = 1",
        "x = 1\n",
        "x = 1\ny = (",  # the last line may be incomplete
        "def f():\n    return 1\n\n@",
        "# why\nx = 1\n",
        '"""What it is for."""\n',
        "x = '\u00e9'\n",
    ],
)
def test_a_text_compiles_as_far_as_its_last_complete_line(source):
    assert compiles(source)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "\n",
        "x =",
        "x = (\ny",  # a line before the last one is incomplete
        "def f():\n    re",
        "    x = 1\ny",
        "# a comment",
        "# a comment\n\n# another\nx",
        "x = 1\0\n",
        "x = '\ud800'\n",  # what no encoding knows
        "(" * 100_000 + ")" * 100_000,
        "-" * 100_000 + "1",
        "x = " + "[" * 5_000 + "]" * 5_000 + "\n",
    ],
    ids=lambda source: repr(source[:20]),
)
def test_what_does_not_parse_or_is_only_a_comment_does_not_compile(source):
    assert not compiles(source)
