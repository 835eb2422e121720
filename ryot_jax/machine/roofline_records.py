"""Records of the machine's peaks and of each arm under its roof."""

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
    """The training step of one arm under its roof.

    Attributes:
      dtype: operand dtype of its products.
      flops: operations per step.
      bytes: least traffic per step between processor and memory, in bytes.
      cached_bytes: the part of `bytes` that caches can at best keep from one step to the next.
      seconds: seconds per step.
      flops_per_second: attained FLOP/s.
      roof: FLOP/s that no program can exceed.
      bound: the resource that limits the roof.
      share: flops_per_second / roof.
      above_roof: whether the roof is exceeded, which is an error of the measurement.
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
        """Bytes per step between processor and memory, less those that caches may keep."""
        return None if self.bytes is None else self.bytes - (self.cached_bytes or 0)


class Roofline(Record, frozen=True, kw_only=True):
    """The machine's peaks, and the arms under their roofs by name."""

    peaks: MeasuredPeaks
    arms: Mapping[str, ArmUnderRoof]
