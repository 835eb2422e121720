"""Generating text: sentences for summary and section, and the section's table.

Functions of a `DecodingResult` apply to runs that generated text.
"""

from ryot_jax.comparison.schema import NOT_MEASURED as NO_NUMBER
from ryot_jax.comparison.schema import DecodingResult, Results
from ryot_jax.report.parts import Paragraph, Part, Table
from ryot_jax.report.words import counted, duration, interval, number, percent

NOT_MEASURED = "not measured, as the model has no position for a new token behind a prompt."
_REPEATS = "greedy text of a small model repeats itself, which is where a lookup draft is good"


def section(results: Results) -> list[Part | None]:
    """Tokens per second and the gain of the draft; empty if no text was generated."""
    decoding = results.decoding
    if decoding is None:
        return []
    if not was_measured(decoding):
        return [Paragraph(f"Generating text was {NOT_MEASURED}")]
    return [
        Paragraph(what_was_done(decoding)),
        speeds(decoding),
        Paragraph(drafts(decoding)),
        Paragraph(caution(decoding)),
    ]


def sentence(results: Results) -> str | None:
    """Tokens per second of the best checkpoint in one sentence; None if no text was generated."""
    return None if results.decoding is None else in_a_line(results.decoding)


def was_measured(decoding: DecodingResult) -> bool:
    """Whether anything could be generated."""
    return decoding.tokens_per_second is not None


def in_a_line(decoding: DecodingResult) -> str:
    """Tokens per second without a draft, with one and for 32 texts at once, and whether the draft changed a token."""
    if not was_measured(decoding):
        return f"Decoding: {NOT_MEASURED}"
    speed = decoding.speed or NO_NUMBER
    return (
        f"Decoding: {number(decoding.tokens_per_second, ',.0f')} tokens/s at batch 1, "
        f"{number(decoding.speculative_tokens_per_second, ',.0f')} with a {decoding.draft} draft, "
        f"{number(speed.estimate, '.2f')} times as many (95 % interval {interval(speed.ci95, '.2f')}), "
        f"{percent(decoding.acceptance, '.0f')} of drafted tokens right, {number(decoding.tokens_per_step, '.2f')} "
        f"tokens a step, {_sameness(decoding)}; {number(decoding.batch32_tokens_per_second, ',.0f')} tokens/s at batch "
        f"32. Caution: {_REPEATS}."
    )


def what_was_done(decoding: DecodingResult) -> str:
    """Checkpoint, prompts and engine of the measurement in one sentence."""
    return (
        f"The best checkpoint of arm {decoding.arm} (step {decoding.step:,}) continued "
        f"{counted(decoding.prompts, 'held-out prompt')} of {counted(decoding.prompt_tokens, 'token')} by "
        f"{counted(decoding.new_tokens, 'token')} each, always with the likeliest one, with the {decoding.engine} "
        f"engine in {decoding.dtype}; measuring took {duration(decoding.seconds)} s."
    )


def drafts(decoding: DecodingResult) -> str:
    """Acceptance of the draft, and whether it changed a token."""
    rounding = (
        " This engine's rounding may depend on how many tokens a step takes, so that this is no criterion."
        if decoding.engine == "reference"
        else ""
    )
    return (
        f"A step of the model checks several tokens of a {decoding.draft} draft at once: "
        f"{percent(decoding.acceptance)} of the drafted tokens were right, which gave "
        f"{number(decoding.tokens_per_step, '.2f')} tokens a step. With and without the draft, the text is "
        f"{_sameness(decoding)}.{rounding}"
    )


def caution(decoding: DecodingResult) -> str:
    """Caution that the gain of the draft does not carry over to other text."""
    return (
        f"Caution: {_REPEATS}. Text that repeats itself less, such as that of a larger model "
        f"or of sampling, gains less from it. The interval is taken over {counted(decoding.prompts, 'prompt')}."
    )


def speeds(decoding: DecodingResult) -> Table:
    """Table of the tokens per second of each way to generate."""
    speed = decoding.speed or NO_NUMBER
    rows = (
        ("one text at a time", number(decoding.tokens_per_second, ",.0f"), "", ""),
        (
            f"one text at a time, {decoding.draft} draft",
            number(decoding.speculative_tokens_per_second, ",.0f"),
            number(speed.estimate, ".3f", " x"),
            interval(speed.ci95),
        ),
        ("32 texts at once", number(decoding.batch32_tokens_per_second, ",.0f"), "", ""),
    )
    return Table(
        "Tokens per second of generating", ("", "tokens/s", "to no draft", "95 % interval"), rows, numeric=True
    )


def _sameness(decoding: DecodingResult) -> str:
    same = number(decoding.identical_prompts, ",.0f")
    return f"identical for {same} of {counted(decoding.prompts, 'prompt')}"
