"""Plots of what stands beside the effect: controls, compilation, attribution, roofline."""

import itertools
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ryot_jax.report.plots import style
from ryot_jax.report.words import Results, duration, interval, number, ordered_arms, percent, spaced, traffic_bytes


def controls(results: Results) -> Figure | None:
    """Ratio of times of each timing control: block pairs, interval, and the ratio that is true."""
    timed = _timed_controls(results)
    if not timed:
        return None
    made, (axis,) = style.figure(height=1.7 + 0.5 * len(timed))
    for row, control in enumerate(timed):
        ratios = control["ratios"]
        spread = np.linspace(-0.22, 0.22, len(ratios)) if len(ratios) > 1 else np.zeros(len(ratios))
        axis.plot(ratios, row + spread, ".", color=style.GREY, alpha=0.6, label="block pair")
        if control["ci"] is not None:
            axis.plot(control["ci"], [row, row], color=style.BLUE, linewidth=2.5, label="interval")
        axis.plot(control["estimate"], row, "o", color=style.BLUE, label="measured")
        if control["injected"] is not None:
            axis.plot([control["injected"]] * 2, [row - 0.3, row + 0.3], color=style.VERMILLION, label="true")
    axis.axvline(1.0, color=style.INK, linestyle=":", linewidth=1.2)
    axis.set_yticks(range(len(timed)), [style.plain(spaced(c["name"]), 20) for c in timed])
    axis.set_ylim(len(timed) - 0.45, -0.55)
    axis.set(xlabel="ratio of times, control / reference")
    style.legend(made, [axis], 4)
    return made


def compilation(results: Results) -> Figure | None:
    """Seconds of each part of compilation as stacked bars, and again from the cache."""
    arms = ordered_arms(results)
    parts = list(dict.fromkeys(part for arm in arms.values() for part in arm["compile_parts"]))
    if not parts:
        return None
    colours = (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.SKY, style.VERMILLION)
    made, (axis,) = style.figure(height=1.9 + 0.5 * len(arms))
    labels: list[str] = []
    for name, arm in arms.items():
        row, left = len(labels), 0.0
        labels.append(style.plain(name, 18))
        for part, colour, hatch in zip(parts, itertools.cycle(colours), itertools.cycle(style.HATCHES), strict=False):
            seconds = arm["compile_parts"].get(part) or 0.0
            look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            axis.barh(row, seconds, left=left, height=0.6, label=style.plain(part), **look)
            left += seconds
        axis.annotate(f" {duration(left)} s", (left, row), va="center")
        if arm["compile_warm_seconds"] is not None:
            warm = arm["compile_warm_seconds"]
            labels.append("from the cache")
            axis.barh(row + 1, warm, height=0.6, color="white", edgecolor=style.INK, label="from the cache")
            axis.annotate(f" {duration(warm)} s", (warm, row + 1), va="center")
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.set(xlabel="seconds")
    style.legend(made, [axis], 4)
    return made


def attribution(results: Results) -> Figure | None:
    """Waterfall from the baseline's time per step to that with everything on, one step an optimization."""
    found = results["attribution"]
    steps = _waterfall(found) if found is not None else []
    if not steps:
        return None
    made, (axis,) = style.figure(height=1.9 + 0.32 * (len(steps) + 2))
    now = found["baseline_ms"]
    axis.barh(0, now, height=0.6, color="#8c8c8c", label="whole step")
    for row, (_, factor, ci) in enumerate(steps, start=1):
        after = now / factor
        colour, label = (style.SKY, "saves") if after <= now else (style.ORANGE, "costs")
        hatch = "" if after <= now else "///"
        axis.barh(row, after - now, left=now, height=0.6, color=colour, hatch=hatch, edgecolor="white", label=label)
        ends = [after] if ci is None else [now / ci[1], now / ci[0]]
        if ci is not None:
            axis.plot(ends, [row, row], color=style.INK, marker="|", linewidth=1.6, label="95 % interval")
        axis.annotate(f"{factor:.3f} x  ", (min(now, *ends), row), ha="right", va="center", fontsize=9)
        now = after
    axis.barh(len(steps) + 1, now, height=0.6, color="#8c8c8c", label="whole step")
    axis.set_yticks(range(len(steps) + 2), ["nothing on", *(style.plain(n, 22) for n, _, _ in steps), "all on"])
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set(xlabel="ms per step")
    style.legend(made, [axis], 4)
    return made


def roofline(results: Results) -> Figure | None:
    """FLOP/s of each arm over its arithmetic intensity, under the roofs that were measured."""
    points = _roofline_points(results)
    roofs = _roofs(results, {arm["dtype"] for _, arm, _ in points})
    if not points:
        return None
    bandwidth = results["roofline"]["peaks"]["copy_bytes"]
    marks = [x for _, _, x in points] + [peak / bandwidth for _, peak in roofs if bandwidth]
    x_n = np.geomspace(min(marks) / 10, max(marks) * 10, 200)
    made, (axis,) = style.figure(height=3.9)
    looks = itertools.cycle(((style.INK, "-"), (style.PURPLE, "--"), (style.GREEN, ":")))
    for (dtype, peak), (colour, dash) in zip(roofs, looks, strict=False):
        roof_n = np.minimum(peak, x_n * bandwidth) if bandwidth else np.full_like(x_n, peak)
        axis.plot(x_n, roof_n / 1e9, color=colour, linestyle=dash, label=f"roof, {style.plain(dtype, 12)}")
    order = list(ordered_arms(results))
    for name, arm, x in points:
        look = style.arm_style(order.index(name), 1) | {"linestyle": "none", "markersize": 8}
        label = f"{style.plain(name, 18)} ({percent(arm['share'], '.0f')})"
        axis.plot(x, arm["flops_per_second"] / 1e9, label=label, **look)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set(xlabel="FLOP per byte of least traffic", ylabel="GFLOP/s")
    style.legend(made, [axis])
    return made


def describe_controls(results: Results) -> str:
    """The controls in words."""
    words = (
        f"{spaced(c['name'])} {number(c['estimate'], '.4f')} (interval {interval(c['ci'], '.4f')}), true ratio "
        f"{number(c['injected'], '.4g')}"
        for c in _timed_controls(results)
    )
    return f"Ratio of times, control over reference: {'; '.join(words)}."


def describe_compilation(results: Results) -> str:
    """The seconds in words."""
    words = (
        f"{name} {duration(arm['compile_seconds'])} s, from the cache {duration(arm['compile_warm_seconds'])} s"
        for name, arm in ordered_arms(results).items()
    )
    return f"Seconds of compilation: {'; '.join(words)}."


def describe_attribution(results: Results) -> str:
    """The steps of the waterfall in words."""
    found = results["attribution"]
    words = (f"{name} {factor:.3f}" for name, factor, _ in _waterfall(found))
    return f"From {duration(found['baseline_ms'])} ms per step, factors by optimization: {', '.join(words)}."


def describe_roofline(results: Results) -> str:
    """Where each arm stands in words."""
    words = (
        f"{name} {arm['flops_per_second'] / 1e9:,.1f} GFLOP/s at {x:,.1f} FLOP per byte, "
        f"{percent(arm['share'], '.0f')} of its roof"
        for name, arm, x in _roofline_points(results)
    )
    return f"{'; '.join(words)}."


def _timed_controls(results: Results) -> list[Any]:
    if results["controls"] is None:
        return []
    return [control for control in results["controls"]["items"] if control["estimate"] is not None]


def _waterfall(found: Any) -> list[tuple[str, float, list[float] | None]]:
    """Name, factor and interval of each step: Shapley factors, else those alone and how they interact."""
    players = found["players"]
    if found["baseline_ms"] is None or not players:
        return []
    by_shapley = all(p["shapley"] is not None and p["shapley"]["estimate"] for p in players)
    steps = [(p["name"], p["shapley" if by_shapley else "alone"]) for p in players]
    if not by_shapley:
        steps.append(("interaction", found["interaction"]))
    if not all(value["estimate"] for _, value in steps):
        return []
    return [(name, value["estimate"], value["ci95"]) for name, value in steps]


def _roofs(results: Results, dtypes: set[str]) -> list[tuple[str, float]]:
    """Peak of each dtype that is used: what its products attain, or those of float32 that it is converted to."""
    if results["roofline"] is None:
        return []
    found = results["roofline"]["peaks"]["matmul_flops"]
    peaks = {dtype: max(found[dtype] or 0.0, found.get("float32") or 0.0) for dtype in found if dtype in dtypes}
    return [(dtype, peak) for dtype, peak in peaks.items() if peak]


def _roofline_points(results: Results) -> list[tuple[str, Any, float]]:
    """Name, arm and FLOP per byte of each arm that was measured."""
    if results["roofline"] is None:
        return []
    arms = results["roofline"]["arms"]
    measured = [(name, arms[name]) for name in ordered_arms(results) if name in arms]
    return [
        (name, arm, arm["flops"] / traffic_bytes(arm))
        for name, arm in measured
        if arm["flops"] and arm["flops_per_second"] and (traffic_bytes(arm) or 0) > 0
    ]
