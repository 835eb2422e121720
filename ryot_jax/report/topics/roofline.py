"""The place of each arm under the roof of the machine, and the memory that it takes."""

from ryot_jax.comparison.schema import ArmUnderRoof, Results
from ryot_jax.report.parts import Paragraph, Part, Pictures, Table
from ryot_jax.report.words import duration, mebibytes, number, ordered_arms, percent, scaled


def sentence(results: Results) -> str | None:
    """One sentence on the share of its roof that each arm attains; None if it was not measured."""
    if results.roofline is None:
        return None
    arms = results.roofline.arms
    known = [name for name in ordered_arms(results) if name in arms]
    words = "; ".join(f"{name} {_describe_arm(arms[name])}" for name in known)
    return f"Roofline: {words}."


def table(results: Results) -> Table | None:
    """Table of the arms under their roofs; None if the roofline was not measured."""
    if results.roofline is None:
        return None
    header = (
        *("", "dtype", "GFLOP a step", "MB a step", "beyond caches (MB)", "FLOP/byte"),
        *("step (ms)", "GFLOP/s", "roof (GFLOP/s)", "of the roof", "bound by"),
    )
    known = results.roofline.arms
    rows = tuple((name, *_cells(known[name])) for name in ordered_arms(results) if name in known)
    return Table("Arms under their roofs", header, rows, numeric=True)


def peaks(results: Results) -> Table | None:
    """Table of the measured peaks of the machine; None if they were not measured."""
    if results.roofline is None:
        return None
    measured = results.roofline.peaks
    sources = measured.sources
    rows = [
        (f"matrix product, {dtype}", f"{scaled(rate, 1e9)} GFLOP/s", sources.get(dtype, ""))
        for dtype, rate in measured.matmul_flops.items()
    ]
    rows.append(("memory traffic", f"{scaled(measured.copy_bytes, 1e9)} GB/s", sources.get("memory", "")))
    return Table("Peaks of this machine, as measured", ("", "rate", "by"), tuple(rows), numeric=True)


def memory(results: Results) -> Table:
    """Table of the memory of each arm's step and of the whole process."""
    rows = [
        (f"{name}: arguments and temporaries of the compiled step", mebibytes(arm.memory_bytes))
        for name, arm in ordered_arms(results).items()
    ]
    rows.append(("the whole process at its peak, set-up included", mebibytes(_peak(results))))
    return Table("Memory", ("", "MiB"), tuple(rows), numeric=True)


def section(results: Results) -> list[Part | None]:
    """The section on the roofline: arms, peaks and memory."""
    parts: list[Part | None] = [
        Paragraph(sentence(results) or "The roofline was not measured in this run."),
        Pictures(("roofline",)),
        table(results),
        peaks(results),
        memory(results),
    ]
    return parts


def _describe_arm(arm: ArmUnderRoof) -> str:
    if arm.flops_per_second is None:
        return "was not measured"
    share = percent(arm.share, ".0f")
    if arm.above_roof:
        return f"is at {share} of its {arm.dtype} roof: above it, which is a bug of the measurement"
    return f"runs at {arm.flops_per_second / 1e9:,.1f} GFLOP/s, {share} of its {arm.dtype} roof"


def _cells(arm: ArmUnderRoof) -> tuple[str, ...]:
    traffic = arm.traffic_bytes
    intensity = arm.flops / traffic if arm.flops is not None and traffic else None
    return (
        arm.dtype,
        scaled(arm.flops, 1e9),
        scaled(arm.bytes, 1e6),
        scaled(traffic, 1e6),
        number(intensity, ",.1f"),
        duration(arm.seconds, 1e-3),
        scaled(arm.flops_per_second, 1e9),
        scaled(arm.roof, 1e9),
        percent(arm.share, ".0f") + (" (above: a bug)" if arm.above_roof else ""),
        arm.bound,
    )


def _peak(results: Results) -> int | None:
    return results.manifest.get("peak_memory_bytes")


def limits(results: Results) -> list[str]:
    """Limits of the roofline, one sentence each."""
    if results.roofline is None:
        return ["How near the arms come to what this machine can do was not measured."]
    return [
        "The roofline counts the least traffic that a step needs; what really moved between memory and processor "
        "was not measured."
    ]


def advice(results: Results) -> list[str]:
    """Advice about an arm above its roof."""
    if results.roofline is None or not any(arm.above_roof for arm in results.roofline.arms.values()):
        return []
    return ["Do not trust these times: an arm is above its roof, so a peak, a count or a clock is wrong."]
