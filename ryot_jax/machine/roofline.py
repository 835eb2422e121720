"""The roofline model: the least time that a machine needs for the work of a training step, against the measured time.

The model is that of Williams, Waterman & Patterson 2009, doi:10.1145/1498765.1498785. `peaks` measures the machine,
`ryot_jax.runs.roofline` counts the work of a run's steps.
"""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp

from ryot_jax.machine.peaks import Peaks
from ryot_jax.machine.roofline_records import ArmUnderRoof, MeasuredPeaks, Roofline


@dataclasses.dataclass(frozen=True)
class StepWork:
    """The least work of a training step, and its measured time.

    Attributes:
      dtype: operand dtype of its products; of several, the fastest one on the machine.
      flops: operations of its products, over all devices.
      state_bytes: bytes of traffic of weights, gradients and optimizer state, over all devices, without caches.
      batch_bytes: bytes of the token ids, which are new in every step.
      seconds: seconds of a compiled step.
    """

    dtype: str
    flops: int
    state_bytes: int
    batch_bytes: int
    seconds: float


def place(steps: Mapping[str, StepWork], peaks: Peaks, *, units: int = 1) -> Roofline:
    """Places arms under the roof: the field `roofline` of `results.json`.

    The least time of a step is max(flops / peak, traffic / bandwidth); the roof is its flops over that time. Traffic is
    that of state and batch less `cached_bytes`, the part of the state that caches can at best keep from one step to the
    next; each of their bytes saves a write and a read. Caches of unknown size save nothing.

    Args:
      steps: the work and time of one training step, by arm.
      peaks: peaks of one device.
      units: number of devices that share the work, each with these peaks.
    """
    arms = {}
    for name, step in steps.items():
        cached = min(2 * units * (peaks.cache_bytes or 0), step.state_bytes)
        in_compute = step.flops / (units * _peak(peaks, step.dtype))
        in_memory = (step.state_bytes + step.batch_bytes - cached) / (units * peaks.copy_bytes)
        least_seconds = max(in_compute, in_memory)
        arms[name] = ArmUnderRoof(
            dtype=step.dtype,
            flops=step.flops,
            bytes=step.state_bytes + step.batch_bytes,
            cached_bytes=cached,
            seconds=step.seconds,
            flops_per_second=step.flops / step.seconds,
            roof=step.flops / least_seconds,
            bound="compute" if in_compute >= in_memory else "memory",
            share=least_seconds / step.seconds,
            above_roof=step.seconds < least_seconds,
        )
    return Roofline(
        peaks=MeasuredPeaks(
            matmul_flops={dtype: units * rate for dtype, rate in peaks.matmul_flops.items()},
            copy_bytes=units * peaks.copy_bytes,
            sources=dict(peaks.sources),
            cache_bytes=None if peaks.cache_bytes is None else units * peaks.cache_bytes,
        ),
        arms=arms,
    )


def warnings(roofline: Roofline) -> list[str]:
    """Warnings about arms above their roof, one sentence each."""
    return [_warning(name, arm, roofline.peaks) for name, arm in roofline.arms.items() if arm.above_roof]


def _warning(name: str, arm: ArmUnderRoof, peaks: MeasuredPeaks) -> str:
    assert arm.flops_per_second is not None and arm.share is not None and arm.roof is not None  # set by `place`
    faults = "the clock is wrong, or a step does fewer operations than the closed form counts"
    limit = f"the machine's {arm.dtype} products"
    if arm.bound == "memory":
        faults = "the clock is wrong, or a step moves fewer bytes than the closed form counts"
        limit = "the machine's memory traffic"
        if peaks.cache_bytes is None:
            faults += " (a cache whose size is not known may keep the state)"
    return (
        f"Roofline: the {name} arm is above the roof, which no program can be. It attained "
        f"{arm.flops_per_second / 1e9:,.1f} GFLOP/s, {arm.share:.2f} times the {arm.roof / 1e9:,.1f} that "
        f"{limit} as measured here allow. This is a bug: {faults}, or the peak was measured too low, as on a machine "
        "with other work. Until it is found, rely on no speed of this run."
    )


def _peak(peaks: Peaks, dtype: str) -> float:
    """Peak FLOP/s of one device: the best rate of these operands, or of wider ones that they can be converted to."""
    width = jnp.dtype(dtype).itemsize
    return max(rate for of, rate in peaks.matmul_flops.items() if of == dtype or jnp.dtype(of).itemsize > width)
