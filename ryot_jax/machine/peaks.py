"""What this machine can do at most with the code that we have: matrix products and memory traffic, measured.

No figure is looked up by a device's name, so that an unknown device has peaks like any other. Where a training step
stands below them is left to `roofline`.
"""

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ryot_jax.kernels import dense
from ryot_jax.runtime.errors import RyotError

SECONDS = 4.0  # of building and timing, for all candidates together
MEMORY = "memory"  # the resource of candidates whose work is bytes; other resources are dtypes of products

Shape = tuple[int, int, int]  # rows, inner size, columns

_MORE_ATTEMPTS = 2  # where peaks are not plausible
_BUILDING = 0.4  # share of the time after which no further candidate is built, once each resource has one
# A sample repeats the call until it takes as long. Short samples, and many: on a machine with other work the best of
# them finds the cores free, where one long product would not.
_SAMPLE_SECONDS = 2e-3
_MAX_CALLS = 200
# On a CPU and on anything else: a product that fills the device, and the most operations that a product of a model's
# own shapes may have. Longer ones are cut in their rows.
_CPU_SHAPE, _CPU_MOST_FLOPS = (4096, 512, 1024), 5 * 10**9
_ACCELERATOR_SHAPE, _ACCELERATOR_MOST_FLOPS = (8192, 8192, 8192), 2 * 10**12
# Of an array that is copied: several times the caches (STREAM's rule), within reason. One that is updated in place is
# as large as the two of a copy.
_TIMES_CACHES, _LEAST_ARRAY_BYTES, _MOST_ARRAY_BYTES = 4, 128 * 2**20, 2**30
_ACCELERATOR_ARRAY_BYTES = 256 * 2**20
_RANDOM_NUMBERS = 10**6 + 3  # repeated in larger arrays; a prime, so that rows differ
_UNAVAILABLE = (RyotError, NotImplementedError, TypeError, ValueError, jax.errors.JaxRuntimeError)


@dataclasses.dataclass(frozen=True)
class Peaks:
    """The best that was measured, on one device.

    Attributes:
      matmul_flops: operand dtype -> FLOP/s of matrix products that accumulate in float32; a multiply-add is two.
      copy_bytes: bytes/s to and from memory, read and written ones added up.
      cache_bytes: all data caches of the usable cores, outside of which `copy_bytes` holds; None where not known.
      sources: resource ('memory' or a dtype) -> the program that was the best.
    """

    matmul_flops: dict[str, float]
    copy_bytes: float
    cache_bytes: int | None
    sources: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A compiled program that might be the best at something.

    Attributes:
      resource: 'memory', or the operand dtype of a product.
      name: for people.
      work: bytes or operations of a call.
      call: starts one and returns what to wait for.
    """

    resource: str
    name: str
    work: int
    call: Callable[[], jax.Array]


class Meter:
    """Runs candidates in turns and keeps the fastest sample of each.

    Args:
      candidates: at least one.
      clock: seconds, monotonic.
    """

    def __init__(self, candidates: Sequence[Candidate], *, clock: Callable[[], float] = time.perf_counter):
        self.candidates = tuple(candidates)
        self._clock = clock
        self._calls: dict[int, int] = {}
        self._fastest: dict[int, float] = {}

    def run(self, seconds: float) -> None:
        """Takes rounds until the time is up; every candidate is sampled at least once in the meter's life."""
        deadline = self._clock() + seconds
        while True:
            for index in range(len(self.candidates)):
                if self._clock() < deadline or index not in self._fastest:
                    self._sample(index)
            if self._clock() >= deadline:
                return

    def rates(self) -> list[tuple[Candidate, float]]:
        """Work per second of the fastest sample of each candidate, the best first."""
        rates = [(candidate, candidate.work / self._fastest[i]) for i, candidate in enumerate(self.candidates)]
        return sorted(rates, key=lambda pair: -pair[1])

    def peaks(self) -> Peaks:
        """The best candidate of each resource; `run` comes first."""
        best: dict[str, tuple[Candidate, float]] = {}
        for candidate, rate in self.rates():
            best.setdefault(candidate.resource, (candidate, rate))
        sources = {resource: candidate.name for resource, (candidate, _) in best.items()}
        _, copy_bytes = best.pop(MEMORY)
        return Peaks({dtype: rate for dtype, (_, rate) in best.items()}, copy_bytes, _cache_bytes(), sources)

    def _sample(self, index: int) -> None:
        call = self.candidates[index].call
        if index not in self._calls:  # it has run before: what a first execution costs more is not timed
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
    seconds: float = SECONDS,
    plausible: Callable[[Peaks], bool] = lambda peaks: True,
) -> Peaks:
    """The best of several interleaved runs of matrix products and of memory traffic, on the default device.

    Products are XLA's, at JAX's default precision for the dtype (TF32 for float32 on recent NVIDIA GPUs, as in the
    training step), and on a CPU those of the C++ kernels too. Traffic is a copy to another array, as STREAM's
    (McCalpin 1995), and an update in place, as of weights; both count the bytes that are read and those that are
    written. A copy's stores may first fetch the lines that they overwrite: a third of its traffic is then not counted,
    and the update in place, which has no such traffic, is the better one.

    Args:
      dtypes: of the operands of the products.
      shapes: products to measure, beside one that fills the device.
      seconds: for all together. A device on which one sample of each takes longer takes longer.
      plausible: asked about the peaks; where it says no, more samples are taken, for as long again and at most twice,
        so that the work of others in the wrong moment does not make them low.

    Raises:
      RyotError: no product of a dtype runs here, or no copy; the message has the reasons.
    """
    deadline = time.perf_counter() + seconds
    candidates, _ = build(dtypes, shapes, seconds=_BUILDING * seconds)
    meter = Meter(candidates)
    meter.run(deadline - time.perf_counter())
    for _ in range(_MORE_ATTEMPTS):
        if plausible(meter.peaks()):
            break
        meter.run(seconds)
    return meter.peaks()


def build(
    dtypes: Sequence[str], shapes: Sequence[Shape] = (), *, seconds: float = math.inf
) -> tuple[list[Candidate], list[str]]:
    """Candidates that have run once, and sentences about those that cannot run here; arguments of `measure_peaks`."""
    deadline = time.perf_counter() + seconds
    found: list[Candidate] = []
    refused: list[str] = []
    for resource, name, make in _makers(dtypes, shapes):
        if time.perf_counter() > deadline and any(candidate.resource == resource for candidate in found):
            continue
        try:
            candidate = make()
            candidate.call().block_until_ready()
        except _UNAVAILABLE as error:
            refused.append(f"{resource}, {name}: {(str(error) or type(error).__name__).splitlines()[0]}")
            continue
        found.append(candidate)
    if missing := sorted({*dtypes, MEMORY} - {candidate.resource for candidate in found}):
        raise RyotError(f"no peak of {', '.join(missing)} can be measured here: {'; '.join(refused)}")
    return found, refused


def _makers(dtypes: Sequence[str], shapes: Sequence[Shape]) -> Iterator[tuple[str, str, Callable[[], Candidate]]]:
    """Resource, name and builder of all candidates, those that each resource cannot do without first."""
    on_cpu = jax.default_backend() == "cpu"
    size = _array_bytes()
    yield MEMORY, "update in place", functools.partial(_update, 2 * size)
    yield MEMORY, "copy", functools.partial(_copy, size)
    sources = {"XLA": _xla_product} | ({"C++": _cpp_product} if on_cpu else {})
    filling, most_flops = (_CPU_SHAPE, _CPU_MOST_FLOPS) if on_cpu else (_ACCELERATOR_SHAPE, _ACCELERATOR_MOST_FLOPS)
    for shape in dict.fromkeys((filling, *(_cut(shape, most_flops) for shape in shapes))):
        for dtype in dtypes:
            for source, product in sources.items():
                name = f"{source} {' x '.join(map(str, shape))}"
                yield dtype, name, functools.partial(product, name, shape, dtype)


def _cut(shape: Shape, most_flops: int) -> Shape:
    rows, inner, columns = shape
    return max(1, min(rows, most_flops // (2 * inner * columns))), inner, columns


def _operands(shape: Shape, x_dtype: str, w_dtype: str) -> tuple[jax.Array, jax.Array]:
    """Random numbers of both signs: a processor may slow down at them, as at a model's, and not at zeros."""
    rows, inner, columns = shape
    numbers = np.random.default_rng(0).random(_RANDOM_NUMBERS, np.float32) - 0.5
    x_NK = jnp.asarray(np.resize(numbers, (rows, inner)), x_dtype)
    return x_NK, jnp.asarray(np.resize(numbers, (inner, columns)), w_dtype)


def _xla_product(name: str, shape: Shape, dtype: str) -> Candidate:
    x_NK, w_KM = _operands(shape, dtype, dtype)

    def product(x_NK: jax.Array, w_KM: jax.Array) -> jax.Array:
        return lax.dot_general(x_NK, w_KM, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)

    program = jax.jit(product).lower(x_NK, w_KM).compile()
    return Candidate(dtype, name, 2 * math.prod(shape), lambda: program(x_NK, w_KM))


def _cpp_product(name: str, shape: Shape, dtype: str) -> Candidate:
    """Weights are float32, rounded and packed within the call, and the outcome is of x's dtype."""
    x_NK, w_KM = _operands(shape, dtype, "float32")
    program = jax.jit(lambda x, w: dense(x, w, implementation="cpu")).lower(x_NK, w_KM).compile()
    return Candidate(dtype, name, 2 * math.prod(shape), lambda: program(x_NK, w_KM))


def _update(size: int) -> Candidate:
    """Adds 1 to an array in its own memory."""
    x_n = jnp.zeros((size // 4,), jnp.float32)
    program = jax.jit(lambda x_n: x_n + 1, donate_argnums=0).lower(x_n).compile()

    def call() -> jax.Array:
        nonlocal x_n
        x_n = program(x_n)
        return x_n

    call()
    _require(call(), 2.0, "an update in place")
    return Candidate(MEMORY, "update in place", 2 * x_n.nbytes, call)


def _copy(size: int) -> Candidate:
    """A copy into memory that is there already: pages that the system had to map would be timed too."""
    source_n, target_n = jnp.ones((size // 4,), jnp.float32), jnp.zeros((size // 4,), jnp.float32)
    copy = jax.jit(lambda source_n, target_n: jnp.copy(source_n), donate_argnums=1, keep_unused=True)
    program = copy.lower(source_n, target_n).compile()

    def call() -> jax.Array:
        nonlocal target_n
        target_n = program(source_n, target_n)
        return target_n

    _require(call(), 1.0, "a copy")
    if call().unsafe_buffer_pointer() == source_n.unsafe_buffer_pointer():
        raise RyotError("the compiler hands the array back in place of a copy")
    return Candidate(MEMORY, "copy", 2 * source_n.nbytes, call)


def _require(array_n: jax.Array, expected: float, what: str) -> None:
    """Raises where the work was not done at both ends of an array."""
    found = float(array_n[0]), float(array_n[-1])
    if found != (expected, expected):
        raise RyotError(f"{what} gave {found} in place of {expected}")


def _array_bytes() -> int:
    if jax.default_backend() != "cpu":
        return _ACCELERATOR_ARRAY_BYTES
    return min(max(_TIMES_CACHES * (_cache_bytes() or 0), _LEAST_ARRAY_BYTES), _MOST_ARRAY_BYTES)


def _cache_bytes(cpus: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """All data caches of the cores that this process may use, each counted once; None where Linux does not tell."""
    if jax.default_backend() != "cpu" or not hasattr(os, "sched_getaffinity"):
        return None
    sizes: dict[tuple[str, str, str], int] = {}
    try:
        for core in os.sched_getaffinity(0):
            for cache in (cpus / f"cpu{core}" / "cache").glob("index*"):
                level, kind, size, cores = (
                    (cache / field).read_text(encoding="ascii").strip()
                    for field in ("level", "type", "size", "shared_cpu_list")
                )
                if kind != "Instruction":
                    sizes[level, kind, cores] = int(size.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return None
    return sum(sizes.values()) or None
