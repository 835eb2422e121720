"""Plot of the arms under their roofs."""

import itertools
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ryot_jax.comparison.schema import ArmUnderRoof, Results
from ryot_jax.report.plots import style
from ryot_jax.report.words import ordered_arms, percent


def roofline(results: Results) -> Figure | None:
    """Draws the FLOP/s of each arm over its arithmetic intensity, under the measured roofs."""
    points = _roofline_points(results)
    roofs = _roofs(results, {point.arm.dtype for point in points})
    if not points:
        return None
    bandwidth = None if results.roofline is None else results.roofline.peaks.copy_bytes
    marks = [point.x for point in points] + [peak / bandwidth for _, peak in roofs if bandwidth]
    x_n = np.geomspace(min(marks) / 10, max(marks) * 10, 200)
    made, (axis,) = style.figure(height=3.9)
    looks = itertools.cycle(((style.INK, "-"), (style.PURPLE, "--"), (style.GREEN, ":")))
    for (dtype, peak), (colour, dash) in zip(roofs, looks, strict=False):
        roof_n = np.minimum(peak, x_n * bandwidth) if bandwidth else np.full_like(x_n, peak)
        axis.plot(x_n, roof_n / 1e9, color=colour, linestyle=dash, label=f"roof, {style.plain(dtype, 12)}")
    order = list(ordered_arms(results))
    for point in points:
        look = style.arm_style(order.index(point.name), 1) | {"linestyle": "none", "markersize": 8}
        label = f"{style.plain(point.name, 18)} ({percent(point.arm.share, '.0f')})"
        axis.plot(point.x, point.y, label=label, **look)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set(xlabel="FLOP per byte of least traffic", ylabel="GFLOP/s")
    style.legend(made, [axis])
    return made


def describe_roofline(results: Results) -> str:
    """Describes the place of each arm under its roof in words."""
    words = (
        f"{point.name} {point.y:,.1f} GFLOP/s at {point.x:,.1f} FLOP per byte, "
        f"{percent(point.arm.share, '.0f')} of its roof"
        for point in _roofline_points(results)
    )
    return f"{'; '.join(words)}."


def _roofs(results: Results, dtypes: set[str]) -> list[tuple[str, float]]:
    """Peak FLOP/s of each used dtype: that of its products, or of float32 products after conversion if higher."""
    if results.roofline is None:
        return []
    rates = results.roofline.peaks.matmul_flops
    peaks = {dtype: max(rates[dtype] or 0.0, rates.get("float32") or 0.0) for dtype in rates if dtype in dtypes}
    return [(dtype, peak) for dtype, peak in peaks.items() if peak]


class _Point(NamedTuple):
    """An arm at `x` FLOP per byte and `y` GFLOP/s."""

    name: str
    arm: ArmUnderRoof
    x: float
    y: float


def _roofline_points(results: Results) -> list[_Point]:
    """The measured arms as points."""
    if results.roofline is None:
        return []
    arms = results.roofline.arms
    points = []
    for name in ordered_arms(results):
        arm = arms.get(name)
        if arm is not None and arm.flops and arm.flops_per_second and (traffic := arm.traffic_bytes or 0) > 0:
            points.append(_Point(name, arm, arm.flops / traffic, arm.flops_per_second / 1e9))
    return points
