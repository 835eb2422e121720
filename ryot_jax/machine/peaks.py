"""Measured peak rates of this machine: matrix products and memory traffic.

Nothing is looked up by device name, so that unknown devices work too. `roofline` places training steps under the
peaks.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import jax

from ryot_jax.machine.workloads import MEMORY, XLA, Product, Shape, Workload, build, cache_bytes

SECONDS = 4.0  # seconds of building and timing, for all workloads together

_MORE_ATTEMPTS = 2  # if the peaks are not plausible
_BUILDING = 0.4  # share of the time for building: no further workload is built after it, once each resource has one
# A sample repeats the call until it takes as long. Short samples, and many: on a machine with other work the best of
# them finds the cores free, where one long product would not.
_SAMPLE_SECONDS = 2e-3
_MAX_CALLS = 200


@dataclasses.dataclass(frozen=True)
class Peaks:
    """The best measured rates of one device.

    Attributes:
      matmul_flops: operand dtype -> FLOP/s of matrix products that accumulate in float32; a multiply-add is two.
      copy_bytes: bytes/s to and from memory, the sum of bytes read and written.
      cache_bytes: bytes of the data caches of the usable cores, beyond which `copy_bytes` holds; None if not known.
      sources: resource ('memory' or a dtype) -> the best workload.
    """

    matmul_flops: dict[str, float]
    copy_bytes: float
    cache_bytes: int | None
    sources: dict[str, str]


class Meter:
    """Times workloads in turns and keeps the fastest sample of each.

    Args:
      workloads: at least one.
      clock: monotonic clock in seconds.
    """

    def __init__(self, workloads: Sequence[Workload], *, clock: Callable[[], float] = time.perf_counter):
        self.workloads = tuple(workloads)
        self._clock = clock
        self._calls: dict[int, int] = {}
        self._fastest: dict[int, float] = {}

    def run(self, seconds: float) -> None:
        """Samples workloads in turns for `seconds`; every workload is sampled at least once over all calls."""
        deadline = self._clock() + seconds
        while True:
            for index in range(len(self.workloads)):
                if self._clock() < deadline or index not in self._fastest:
                    self._sample(index)
            if self._clock() >= deadline:
                return

    def rates(self) -> list[tuple[Workload, float]]:
        """Work per second of each workload's fastest sample, the best first."""
        rates = [(workload, workload.work / self._fastest[i]) for i, workload in enumerate(self.workloads)]
        return sorted(rates, key=lambda pair: -pair[1])

    def peaks(self) -> Peaks:
        """The best rate of each resource; call `run` first."""
        best: dict[str, tuple[Workload, float]] = {}
        for workload, rate in self.rates():
            best.setdefault(workload.resource, (workload, rate))
        sources = {resource: workload.name for resource, (workload, _) in best.items()}
        _, copy_bytes = best.pop(MEMORY)
        return Peaks({dtype: rate for dtype, (_, rate) in best.items()}, copy_bytes, cache_bytes(), sources)

    def _sample(self, index: int) -> None:
        call = self.workloads[index].call
        if index not in self._calls:  # it has run once, so that the extra cost of a first execution is not timed
            once = self._time(call, 1)
            self._calls[index] = min(max(1, math.ceil(_SAMPLE_SECONDS / max(once, 1e-9))), _MAX_CALLS)
        seconds = self._time(call, self._calls[index])
        self._fastest[index] = min(seconds, self._fastest.get(index, math.inf))

    def _time(self, call: Callable[[], jax.Array], calls: int) -> float:
        start = self._clock()
        for _ in range(calls):
            result = call()
        result.block_until_ready()
        return (self._clock() - start) / calls


def measure_peaks(
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    shapes: Sequence[Shape] = (),
    *,
    products: Sequence[Product] = (XLA,),
    seconds: float = SECONDS,
    plausible: Callable[[Peaks], bool] = lambda peaks: True,
) -> Peaks:
    """Measures the peaks of the default device: the best of several interleaved runs of products and memory traffic.

    XLA's products have JAX's default precision for the dtype (TF32 for float32 on recent NVIDIA GPUs, as in the
    training step). Traffic is a copy to another array, as STREAM's
    (McCalpin 1995), and an update in place, as of weights; both count the bytes read and written. The stores
    of a copy may first fetch the lines that they overwrite: a third of its traffic is then not counted, and the update
    in place, which has no such traffic, is faster.

    Args:
      dtypes: operand dtypes of the products.
      shapes: shapes of products to measure, beside one that fills the device.
      products: implementations of the product to try; the best counts.
      seconds: seconds for all measurements; more on a device on which one sample of each takes longer.
      plausible: whether the peaks can be true. If not, sampling is repeated for as long again, at most twice, so that
        other work on the machine does not lower the peaks.

    Raises:
      RyotError: a dtype has no product that runs here, or no copy runs; the message gives the reasons.
    """
    deadline = time.perf_counter() + seconds
    workloads, _ = build(dtypes, shapes, products=products, seconds=_BUILDING * seconds)
    meter = Meter(workloads)
    meter.run(deadline - time.perf_counter())
    for _ in range(_MORE_ATTEMPTS):
        if plausible(meter.peaks()):
            break
        meter.run(seconds)
    return meter.peaks()
