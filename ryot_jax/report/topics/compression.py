"""A compressed checkpoint: sentences for summary and section, the section's tables, and advice.

Those that take the record `compression` are for runs that compressed something.
"""

import math
from collections.abc import Sequence

from ryot_jax.comparison.schema import CompressedGroup, CompressionResult, Results
from ryot_jax.report.parts import Command, Paragraph, Part, Pictures, Table
from ryot_jax.report.words import NOTHING, counted, duration, interval, number, percent, pick

Found = CompressionResult


_WRITE = (
    Paragraph("This writes text with the compressed file, where RUN is the run directory:"),
    Command("ryot generate --run=RUN --compressed"),
)


def section(results: Results) -> list[Part | None]:
    """Size, quality, and what other files of the checkpoint cost; nothing where nothing was compressed."""
    found = results.compression
    if found is None:
        return []
    parts: list[Part | None] = [
        Paragraph(size_and_cost(found)),
        Paragraph(caution(found)),
        sizes(found),
        Paragraph(coding(found)),
        quality(found),
        arrays(found),
    ]
    if found.pareto:
        parts += [Paragraph(how_to_read_trade_off(found)), Pictures(("compression",)), trade_off(found)]
    return parts


def sentence(results: Results) -> str | None:
    """Size, cost and name of the compressed file; None where nothing was compressed."""
    return None if results.compression is None else in_a_line(results.compression)


def advice(results: Results) -> list[str]:
    """Advice about a budget that was missed."""
    if results.compression is None or results.compression.kept:
        return []
    on = pick(results, "text", "data")
    return [f"Compress again with more room in the budget: on held-out {on} it is missed."]


def next_command(results: Results) -> tuple[Part, ...]:
    """How to write text with the file."""
    return () if results.compression is None else _WRITE


def size_and_cost(found: Found) -> str:
    """Size of the file, its cost and whether the budget is kept, in one sentence."""
    return (
        f"The best checkpoint of arm {found.arm} (step {found.step:,}) takes {found.bytes:,} bytes, "
        f"{found.ratio:.1f} times less than its parameters in float32, {found.bits_per_parameter:.2f} bits a "
        f"parameter in all; {_cost(found)}: the budget {found.budget} is {_outcome(found)}."
    )


def in_a_line(found: Found) -> str:
    """The same for a summary, with the name of the file."""
    change = found.perplexity_change
    cost = (
        "a cost that was not measured"
        if change.estimate is None
        else f"{percent(change.estimate, '+.2f')} perplexity (95 % interval {_percents(change.ci95, '+.2f')})"
    )
    return (
        f"Compressed: {found.ratio:.1f} times smaller than float32 at {cost}; budget {found.budget} "
        f"{'kept' if found.kept else 'missed'}; {found.file}."
    )


def caution(found: Found) -> str:
    """Why the ratio does not hold for other models."""
    return (
        f"Caution: this model was trained on {found.training_tokens / found.parameters:,.1f} tokens for each "
        "parameter. Models trained on few tokens per parameter compress more easily than well-trained ones "
        "(arXiv:2411.17691), so this ratio does not carry over to them."
    )


def coding(found: Found) -> str:
    """How near the codes come to their entropy, what a lossless coder does, and how long it all took."""
    smaller, coder = found.lossless_bytes / found.bytes, found.lossless_coder
    sentences = [
        f"The file is {smaller:.1f} times smaller than what the best lossless coder that was tried ({coder}) makes of "
        "the same parameters.",
        f"Compressing took {duration(found.seconds)} s.",
    ]
    if found.overhead is not None:
        sentences.insert(0, f"The codes take {found.overhead:.4f} times their entropy given their classes.")
    return " ".join(sentences)


def how_to_read_trade_off(found: Found) -> str:
    """Explanation of the points of the plot."""
    return (
        "What other files of the same checkpoint take and cost; lower and further to the left is better. Bars are "
        f"95 % intervals over held-out sequences: {found.sequences:,} for the chosen file, and for the others as "
        "many as their table says."
    )


def sizes(found: Found) -> Table:
    """Bytes of the file and of its parts, beside the parameters as they were."""
    rows = (
        ("parameters in float32", found.float_bytes),
        (f"the same, lossless ({found.lossless_coder})", found.lossless_bytes),
        ("the file", found.bytes),
        ("in it: codes", found.codes_bytes),
        ("in it: side information", found.side_bytes),
        ("in it: arrays as they were", found.plain_bytes),
        ("in it: header", found.header_bytes),
        ("entropy of the codes, given their classes", found.entropy_bytes),
        ("entropy of the codes, without classes", found.order0_entropy_bytes),
    )
    words = tuple(
        (title, f"{n:,.0f}", f"{8 * n / found.parameters:.3f}", f"{n / found.bytes:.3f}") for title, n in rows
    )
    return Table("Where the bytes are", ("", "bytes", "bits a parameter", "times the file"), words, numeric=True)


def quality(found: Found) -> Table:
    """The compressed model beside the original on held-out text."""
    perplexity, agreement, speed = found.perplexity_change, found.agreement, found.speed
    kl = found.kl
    rows = (
        (
            "held-out loss (nats/token)",
            number(found.float_loss, ".4f"),
            number(found.loss, ".4f"),
            number(found.loss_change.estimate, "+.4f"),
            interval(found.loss_change.ci95, "+.4f"),
        ),
        (
            "perplexity",
            _perplexity(found.float_loss),
            _perplexity(found.loss),
            percent(perplexity.estimate, "+.2f"),
            _percents(perplexity.ci95, "+.2f"),
        ),
        ("KL divergence (nats/token)", "", "", number(kl.estimate, ".4f"), interval(kl.ci95, ".4f")),
        ("same likeliest token", "", "", percent(agreement.estimate, ".2f"), _percents(agreement.ci95)),
        (
            "tokens/s, one text at a time",
            number(found.float_tokens_per_second, ",.0f"),
            number(found.tokens_per_second, ",.0f"),
            NOTHING if speed is None else number(speed.estimate, ".3f", " x"),
            interval(None if speed is None else speed.ci95),
        ),
    )
    caption = f"Original and compressed model on {counted(found.sequences, 'held-out sequence')}"
    return Table(caption, ("", "float32", "compressed", "change", "95 % interval"), rows, numeric=True)


def arrays(found: Found) -> Table | None:
    """Bits of each group of arrays and what it adds to the loss; None where the results name no groups."""
    groups = found.arrays
    if not groups:
        return None
    rises = [group.rise for group in groups if group.rise is not None]
    whole = None if len(rises) < len(groups) else sum(rises)
    n = sum(group.parameters for group in groups)
    bits = sum(group.parameters * group.bits_per_parameter for group in groups)
    in_all = CompressedGroup(
        name="all",
        parameters=n,
        bits_per_parameter=bits / n,
        rise=whole,
        expected_rise=sum(group.expected_rise for group in groups),
    )
    rows = tuple(
        (
            group.name,
            f"{group.parameters:,}",
            f"{group.bits_per_parameter:.2f}",
            number(group.rise, "+#.2g"),
            f"{group.expected_rise:+#.2g}",
            percent(_share(group.rise, whole)),
        )
        for group in (*groups, in_all)
    )
    header = ("array", "parameters", "bits a parameter", "rise (nats/token)", "expected", "share of the rise")
    return Table("Bits of each array, and by how much it raises the loss", header, rows, numeric=True)


def trade_off(found: Found) -> Table:
    """Every file that was made to compare with, by method."""
    rows = tuple(
        (
            point.method,
            point.setting,
            f"{point.bytes:,}",
            percent(point.perplexity_change.estimate, "+.3f"),
            _percents(point.perplexity_change.ci95, "+.3f"),
            f"{point.sequences:,}",
        )
        for point in found.pareto
    )
    header = ("method", "setting", "bytes", "rise of perplexity", "95 % interval", "sequences")
    return Table("Bytes and rise of perplexity by method", header, rows, numeric=True)


def _cost(found: Found) -> str:
    change, where = found.perplexity_change, counted(found.sequences, "held-out sequence")
    if change.estimate is None:
        return f"perplexity on {where} was not measured"
    verb, sign = ("falls", -1) if change.estimate < 0 else ("rises", 1)
    ends = None if change.ci95 is None else sorted(sign * end for end in change.ci95)
    by = percent(sign * change.estimate, ".2f")
    return f"perplexity on {where} {verb} by {by} (95 % interval {_percents(ends)})"


def _outcome(found: Found) -> str:
    """Whether the budget is kept, and where it is one of the loss, by what."""
    outcome = "kept" if found.kept else "missed"
    of_loss = found.budget.startswith(("loss", "perplexity"))
    return f"{outcome} (the upper end of the interval counts)" if of_loss else outcome


def _percents(ci: Sequence[float] | None, form: str = ".2f") -> str:
    return interval(None if ci is None else [100 * end for end in ci], form) + ("" if ci is None else " %")


def _perplexity(loss: float | None) -> str:
    return NOTHING if loss is None else f"{math.exp(min(loss, 700.0)):.4g}"  # beyond it a float has no room


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or whole is None or whole <= 0 else part / whole
