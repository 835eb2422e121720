"""What is said of generating text: how fast, what the draft did, and why its gain is no other text's."""

import pytest
from msgspec.structs import replace

from ryot_jax.comparison.schema import NOT_MEASURED
from ryot_jax.report import document
from ryot_jax.report.parts import Paragraph
from ryot_jax.report.topics import decoding


@pytest.fixture
def found(situation):
    """The field of the results."""
    return situation("decoded").decoding


def test_the_summary_has_it_in_a_line(situation):
    line = (
        "Decoding: 29,876 tokens/s at batch 1, 55,432 with a lookup draft, 1.84 times as many (95 % interval 1.71 to "
        "1.98), 60 % of drafted tokens right, 2.84 tokens a step, identical for 32 of 32 prompts; 91,234 tokens/s at "
        "batch 32. Caution: greedy text of a small model repeats itself, which is where a lookup draft is good."
    )
    assert document.findings(situation("decoded"))[-2] == line
    assert decoding.sentence(situation("passed")) is None


def test_checkpoint_prompts_and_engine_are_said_in_one_sentence(found):
    assert decoding.what_was_done(found) == (
        "The best checkpoint of arm optimized (step 800) continued 32 held-out prompts of 32 tokens by 96 tokens each, "
        "always with the likeliest one, with the cpu engine in bfloat16; measuring took 4.23 s."
    )


def test_the_speeds_stand_in_a_table(found):
    assert decoding.speeds(found).rows == (
        ("one text at a time", "29,876", "", ""),
        ("one text at a time, lookup draft", "55,432", "1.843 x", "1.712 to 1.984"),
        ("32 texts at once", "91,234", "", ""),
    )


def test_what_the_draft_did_is_said_and_that_it_changed_nothing(found):
    assert decoding.drafts(found) == (
        "A step of the model checks several tokens of a lookup draft at once: 60.4 % of the drafted tokens were right, "
        "which gave 2.84 tokens a step. With and without the draft, the text is identical for 32 of 32 prompts."
    )


def test_tokens_that_the_reference_engine_changed_are_explained(found):
    found = replace(found, engine="reference", identical=False, identical_prompts=31)
    said = decoding.drafts(found)
    assert "identical for 31 of 32 prompts" in said and "rounding may depend" in said and "no criterion" in said


def test_the_caution_says_where_such_a_draft_is_good(found):
    said = decoding.caution(found)
    assert "greedy text of a small model repeats itself" in said and "over 32 prompts" in said


def test_a_model_without_room_is_said_to_have_none(situation, edit):
    results = situation("decoded")
    measured = ("tokens_per_second", "speculative_tokens_per_second", "speed", "acceptance", "tokens_per_step")
    rest = ("identical", "identical_prompts", "batch32_tokens_per_second")
    results = edit(results, "decoding", **dict.fromkeys((*measured, *rest)), prompt_tokens=1, new_tokens=0)
    (section,) = (section for section in document.sections(results) if section.id == "decoding")
    why = "not measured, as the model has no position for a new token behind a prompt."
    assert section.parts == (Paragraph(f"Generating text was {why}"),)
    assert decoding.sentence(results) == f"Decoding: {why}"


def test_a_draft_that_never_guessed_has_no_acceptance(found):
    found = replace(found, acceptance=None, speed=NOT_MEASURED, tokens_per_step=1.0)
    assert "n/a of drafted tokens right, 1.00 tokens a step" in decoding.in_a_line(found)
    assert decoding.speeds(found).rows[1][2:] == ("n/a", "no interval")
