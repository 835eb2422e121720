"""A compressed checkpoint: sentences for summary and section, the section's tables, and advice.

Functions of a `CompressionResult` apply to runs that compressed a checkpoint.
"""

import math
from collections.abc import Sequence

from ryot_jax.comparison.schema import CompressedGroup, CompressionResult, Results
from ryot_jax.report.parts import Command, Paragraph, Part, Pictures, Table
from ryot_jax.report.words import NOTHING, counted, duration, interval, number, percent, pick

_WRITE = (
    Paragraph("This writes text with the compressed file, where RUN is the run directory:"),
    Command("ryot generate --run=RUN --compressed"),
)


def section(results: Results) -> list[Part | None]:
    """Size, quality, and cost of other files of the checkpoint; empty if nothing was compressed."""
    compression = results.compression
    if compression is None:
        return []
    parts: list[Part | None] = [
        Paragraph(size_and_cost(compression)),
        Paragraph(caution(compression)),
        sizes(compression),
        Paragraph(coding(compression)),
        quality(compression),
        arrays(compression),
    ]
    if compression.pareto:
        parts += [Paragraph(how_to_read_trade_off(compression)), Pictures(("compression",)), trade_off(compression)]
    return parts


def sentence(results: Results) -> str | None:
    """One sentence with size, cost and name of the compressed file; None if nothing was compressed."""
    return None if results.compression is None else in_a_line(results.compression)


def advice(results: Results) -> list[str]:
    """Advice about a budget that was missed."""
    if results.compression is None or results.compression.kept:
        return []
    on = pick(results, "text", "data")
    return [f"Compress again with more room in the budget: on held-out {on} it is missed."]


def next_command(results: Results) -> tuple[Part, ...]:
    """The command that generates text with the compressed file."""
    return () if results.compression is None else _WRITE


def size_and_cost(compression: CompressionResult) -> str:
    """Size of the file, its cost and whether the budget is kept, in one sentence."""
    return (
        f"The best checkpoint of arm {compression.arm} (step {compression.step:,}) takes {compression.bytes:,} bytes, "
        f"{compression.ratio:.1f} times less than its parameters in float32, "
        f"{compression.bits_per_parameter:.2f} bits a parameter in all; {_cost(compression)}: "
        f"the budget {compression.budget} is {_outcome(compression)}."
    )


def in_a_line(compression: CompressionResult) -> str:
    """Size, cost, budget and name of the file as one line of a summary."""
    change = compression.perplexity_change
    cost = (
        "a cost that was not measured"
        if change.estimate is None
        else f"{percent(change.estimate, '+.2f')} perplexity (95 % interval {_percents(change.ci95, '+.2f')})"
    )
    return (
        f"Compressed: {compression.ratio:.1f} times smaller than float32 at {cost}; budget {compression.budget} "
        f"{'kept' if compression.kept else 'missed'}; {compression.file}."
    )


def caution(compression: CompressionResult) -> str:
    """Caution that the compression ratio does not carry over to other models (arXiv:2411.17691)."""
    return (
        f"Caution: this model was trained on {compression.training_tokens / compression.parameters:,.1f} tokens for "
        "each parameter. Models trained on few tokens per parameter compress more easily than well-trained ones "
        "(arXiv:2411.17691), so this ratio does not carry over to them."
    )


def coding(compression: CompressionResult) -> str:
    """Size of the codes over their entropy, gain over the best lossless coder, and seconds of compressing."""
    smaller, coder = compression.lossless_bytes / compression.bytes, compression.lossless_coder
    sentences = [
        f"The file is {smaller:.1f} times smaller than what the best lossless coder that was tried ({coder}) makes of "
        "the same parameters.",
        f"Compressing took {duration(compression.seconds)} s.",
    ]
    if compression.overhead is not None:
        sentences.insert(0, f"The codes take {compression.overhead:.4f} times their entropy given their classes.")
    return " ".join(sentences)


def how_to_read_trade_off(compression: CompressionResult) -> str:
    """Caption of the plot of bytes against perplexity: its axes, bars and number of sequences."""
    return (
        "What other files of the same checkpoint take and cost; lower and further to the left is better. Bars are "
        f"95 % intervals over held-out sequences: {compression.sequences:,} for the chosen file, and for the others as "
        "many as their table says."
    )


def sizes(compression: CompressionResult) -> Table:
    """Table of the bytes of the file and of its parts, beside the original parameters."""
    rows = (
        ("parameters in float32", compression.float_bytes),
        (f"the same, lossless ({compression.lossless_coder})", compression.lossless_bytes),
        ("the file", compression.bytes),
        ("in it: codes", compression.codes_bytes),
        ("in it: side information", compression.side_bytes),
        ("in it: arrays as they were", compression.plain_bytes),
        ("in it: header", compression.header_bytes),
        ("entropy of the codes, given their classes", compression.entropy_bytes),
        ("entropy of the codes, without classes", compression.order0_entropy_bytes),
    )
    words = tuple(
        (title, f"{n:,.0f}", f"{8 * n / compression.parameters:.3f}", f"{n / compression.bytes:.3f}")
        for title, n in rows
    )
    return Table("Where the bytes are", ("", "bytes", "bits a parameter", "times the file"), words, numeric=True)


def quality(compression: CompressionResult) -> Table:
    """Table of the compressed model beside the original on held-out text."""
    perplexity, agreement, speed = compression.perplexity_change, compression.agreement, compression.speed
    kl = compression.kl
    rows = (
        (
            "held-out loss (nats/token)",
            number(compression.float_loss, ".4f"),
            number(compression.loss, ".4f"),
            number(compression.loss_change.estimate, "+.4f"),
            interval(compression.loss_change.ci95, "+.4f"),
        ),
        (
            "perplexity",
            _perplexity(compression.float_loss),
            _perplexity(compression.loss),
            percent(perplexity.estimate, "+.2f"),
            _percents(perplexity.ci95, "+.2f"),
        ),
        ("KL divergence (nats/token)", "", "", number(kl.estimate, ".4f"), interval(kl.ci95, ".4f")),
        ("same likeliest token", "", "", percent(agreement.estimate, ".2f"), _percents(agreement.ci95)),
        (
            "tokens/s, one text at a time",
            number(compression.float_tokens_per_second, ",.0f"),
            number(compression.tokens_per_second, ",.0f"),
            NOTHING if speed is None else number(speed.estimate, ".3f", " x"),
            interval(None if speed is None else speed.ci95),
        ),
    )
    caption = f"Original and compressed model on {counted(compression.sequences, 'held-out sequence')}"
    return Table(caption, ("", "float32", "compressed", "change", "95 % interval"), rows, numeric=True)


def arrays(compression: CompressionResult) -> Table | None:
    """Table of the bits per parameter of each group of arrays and its rise of the loss; None without groups."""
    groups = compression.arrays
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


def trade_off(compression: CompressionResult) -> Table:
    """Table of the other files made of the same checkpoint, by method."""
    rows = tuple(
        (
            point.method,
            point.setting,
            f"{point.bytes:,}",
            percent(point.perplexity_change.estimate, "+.3f"),
            _percents(point.perplexity_change.ci95, "+.3f"),
            f"{point.sequences:,}",
        )
        for point in compression.pareto
    )
    header = ("method", "setting", "bytes", "rise of perplexity", "95 % interval", "sequences")
    return Table("Bytes and rise of perplexity by method", header, rows, numeric=True)


def _cost(compression: CompressionResult) -> str:
    change, where = compression.perplexity_change, counted(compression.sequences, "held-out sequence")
    if change.estimate is None:
        return f"perplexity on {where} was not measured"
    verb, sign = ("falls", -1) if change.estimate < 0 else ("rises", 1)
    ends = None if change.ci95 is None else sorted(sign * end for end in change.ci95)
    by = percent(sign * change.estimate, ".2f")
    return f"perplexity on {where} {verb} by {by} (95 % interval {_percents(ends)})"


def _outcome(compression: CompressionResult) -> str:
    """Whether the budget is kept, and for a budget on the loss, by which number it is judged."""
    outcome = "kept" if compression.kept else "missed"
    of_loss = compression.budget.startswith(("loss", "perplexity"))
    return f"{outcome} (the upper end of the interval counts)" if of_loss else outcome


def _percents(ci: Sequence[float] | None, form: str = ".2f") -> str:
    return interval(None if ci is None else [100 * end for end in ci], form) + ("" if ci is None else " %")


def _perplexity(loss: float | None) -> str:
    return NOTHING if loss is None else f"{math.exp(min(loss, 700.0)):.4g}"  # exp(710) overflows a float


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or whole is None or whole <= 0 else part / whole
