"""Generating text: sentences for summary and section, and the section's table.

Those that take the record `decoding` are for runs that generated something.
"""

from ryot_jax.comparison.schema import NOT_MEASURED as NO_NUMBER
from ryot_jax.comparison.schema import DecodingResult, Results
from ryot_jax.report.parts import Paragraph, Part, Table
from ryot_jax.report.words import counted, duration, interval, number, percent

Found = DecodingResult
NOT_MEASURED = "not measured, as the model has no position for a new token behind a prompt."
_REPEATS = "greedy text of a small model repeats itself, which is where a lookup draft is good"


def section(results: Results) -> list[Part | None]:
    """Speeds and what the draft did; nothing where nothing was generated."""
    found = results.decoding
    if found is None:
        return []
    if not was_measured(found):
        return [Paragraph(f"Generating text was {NOT_MEASURED}")]
    return [Paragraph(what_was_done(found)), speeds(found), Paragraph(drafts(found)), Paragraph(caution(found))]


def sentence(results: Results) -> str | None:
    """How fast the best checkpoint generates; None where nothing was generated."""
    return None if results.decoding is None else in_a_line(results.decoding)


def was_measured(found: Found) -> bool:
    """Whether anything could be generated."""
    return found.tokens_per_second is not None


def in_a_line(found: Found) -> str:
    """Speed alone, with a draft and of many texts, and whether the draft changed anything."""
    if not was_measured(found):
        return f"Decoding: {NOT_MEASURED}"
    speed = found.speed or NO_NUMBER
    return (
        f"Decoding: {number(found.tokens_per_second, ',.0f')} tokens/s at batch 1, "
        f"{number(found.speculative_tokens_per_second, ',.0f')} with a {found.draft} draft, "
        f"{number(speed.estimate, '.2f')} times as many (95 % interval {interval(speed.ci95, '.2f')}), "
        f"{percent(found.acceptance, '.0f')} of drafted tokens right, {number(found.tokens_per_step, '.2f')} "
        f"tokens a step, {_sameness(found)}; {number(found.batch32_tokens_per_second, ',.0f')} tokens/s at batch "
        f"32. Caution: {_REPEATS}."
    )


def what_was_done(found: Found) -> str:
    """The checkpoint, the prompts and the engine, in one sentence."""
    return (
        f"The best checkpoint of arm {found.arm} (step {found.step:,}) continued "
        f"{counted(found.prompts, 'held-out prompt')} of {counted(found.prompt_tokens, 'token')} by "
        f"{counted(found.new_tokens, 'token')} each, always with the likeliest one, with the {found.engine} "
        f"engine in {found.dtype}; measuring took {duration(found.seconds)} s."
    )


def drafts(found: Found) -> str:
    """Acceptance of the draft, and whether it changed a token."""
    rounding = (
        " This engine's rounding may depend on how many tokens a step takes, so that this is no criterion."
        if found.engine == "reference"
        else ""
    )
    return (
        f"A step of the model checks several tokens of a {found.draft} draft at once: "
        f"{percent(found.acceptance)} of the drafted tokens were right, which gave "
        f"{number(found.tokens_per_step, '.2f')} tokens a step. With and without the draft, the text is "
        f"{_sameness(found)}.{rounding}"
    )


def caution(found: Found) -> str:
    """Why the gain of the draft does not hold for other text."""
    return (
        f"Caution: {_REPEATS}. Text that repeats itself less, such as that of a larger model "
        f"or of sampling, gains less from it. The interval is taken over {counted(found.prompts, 'prompt')}."
    )


def speeds(found: Found) -> Table:
    """Tokens per second of each way to generate."""
    speed = found.speed or NO_NUMBER
    rows = (
        ("one text at a time", number(found.tokens_per_second, ",.0f"), "", ""),
        (
            f"one text at a time, {found.draft} draft",
            number(found.speculative_tokens_per_second, ",.0f"),
            number(speed.estimate, ".3f", " x"),
            interval(speed.ci95),
        ),
        ("32 texts at once", number(found.batch32_tokens_per_second, ",.0f"), "", ""),
    )
    return Table(
        "Tokens per second of generating", ("", "tokens/s", "to no draft", "95 % interval"), rows, numeric=True
    )


def _sameness(found: Found) -> str:
    same = number(found.identical_prompts, ",.0f")
    return f"identical for {same} of {counted(found.prompts, 'prompt')}"
