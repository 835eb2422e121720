"""Where each arm's training step stands below the roof of the machine."""

from collections.abc import Mapping
from typing import Literal

from ryot_jax.runtime.records import Number, Record


class MeasuredPeaks(Record, frozen=True, kw_only=True):
    """Peaks of all devices together: FLOP/s of products by operand dtype, bytes/s of memory, bytes of caches."""

    matmul_flops: Mapping[str, float]
    copy_bytes: float | None
    sources: Mapping[str, str] = {}
    cache_bytes: int | None = None


class ArmUnderRoof(Record, frozen=True, kw_only=True):
    """One arm under its roof, a step at a time.

    Attributes:
      dtype: of the operands of its products.
      flops: operations of a step.
      bytes: least traffic of a step between processor and memory.
      cached_bytes: of these, what caches can at best keep from one step to the next.
      seconds: of a step.
      flops_per_second: attained.
      roof: FLOP/s that no program can exceed.
      bound: what the roof is made of.
      share: attained share of the roof.
      above_roof: whether it is exceeded, which is a bug of the measurement.
    """

    dtype: str
    flops: Number | None
    bytes: Number | None
    cached_bytes: Number | None = None
    seconds: float | None
    flops_per_second: float | None
    roof: float | None
    bound: Literal["compute", "memory", ""] = ""
    share: float | None
    above_roof: bool

    @property
    def traffic_bytes(self) -> Number | None:
        """Bytes of a step between processor and memory without what caches may keep."""
        return None if self.bytes is None else self.bytes - (self.cached_bytes or 0)


class Roofline(Record, frozen=True, kw_only=True):
    """The machine's peaks, and the arms by name."""

    peaks: MeasuredPeaks
    arms: Mapping[str, ArmUnderRoof]
