"""Programs that measure a machine: matrix products, and traffic between processor and memory.

`peaks` runs them and selects the samples.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ryot_jax.machine.processor import data_cache_bytes
from ryot_jax.runtime.errors import RyotError

MEMORY = "memory"  # the resource of workloads whose work is bytes; other resources are dtypes of products

Shape = tuple[int, int, int]  # rows, inner size, columns

# By platform: a product that fills the device, and the largest number of operations of a product with a model's own
# shape; larger ones are cut in their rows.
_CPU_SHAPE, _CPU_MOST_FLOPS = (4096, 512, 1024), 5 * 10**9
_ACCELERATOR_SHAPE, _ACCELERATOR_MOST_FLOPS = (8192, 8192, 8192), 2 * 10**12
# A copied array is several times as large as the caches (STREAM's rule), within limits. An array updated in place is
# as large as the two arrays of a copy.
_TIMES_CACHES, _LEAST_ARRAY_BYTES, _MOST_ARRAY_BYTES = 4, 128 * 2**20, 2**30
_ACCELERATOR_ARRAY_BYTES = 256 * 2**20
_RANDOM_NUMBERS = 10**6 + 3  # repeated in larger arrays; a prime, so that rows differ
_UNAVAILABLE = (RyotError, NotImplementedError, TypeError, ValueError, jax.errors.JaxRuntimeError)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A compiled program with a known amount of work.

    Attributes:
      resource: 'memory', or the operand dtype of a product.
      name: display name.
      work: bytes or operations of one call.
      call: starts one call and returns the array to wait for.
    """

    resource: str
    name: str
    work: int
    call: Callable[[], jax.Array]


@dataclasses.dataclass(frozen=True)
class Product:
    """An implementation of the matrix product.

    Attributes:
      name: display name.
      multiply: (x_NK, w_KM) -> [N, M]; traceable by JAX.
      weights_dtype: the dtype of w_KM; None: that of x_NK.
    """

    name: str
    multiply: Callable[[jax.Array, jax.Array], jax.Array]
    weights_dtype: str | None = None


def _xla_product(x_NK: jax.Array, w_KM: jax.Array) -> jax.Array:
    return lax.dot_general(x_NK, w_KM, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


XLA = Product("XLA", _xla_product)


def build(
    dtypes: Sequence[str],
    shapes: Sequence[Shape] = (),
    *,
    products: Sequence[Product] = (XLA,),
    seconds: float = math.inf,
) -> tuple[list[Workload], list[str]]:
    """Compiles the workloads for this machine's default device and runs each once.

    Args:
      dtypes: operand dtypes of the products.
      shapes: shapes of products to measure, beside one that fills the device.
      products: implementations of the product to try.
      seconds: seconds after which no further workload is built, once every resource has one.

    Returns:
      The workloads, and a sentence for each that cannot run here.

    Raises:
      RyotError: a resource has no workload; the message gives the reasons.
    """
    deadline = time.perf_counter() + seconds
    built: list[Workload] = []
    refused: list[str] = []
    for resource, name, make in _makers(dtypes, shapes, products):
        if time.perf_counter() > deadline and any(workload.resource == resource for workload in built):
            continue
        try:
            workload = make()
            workload.call().block_until_ready()
        except _UNAVAILABLE as error:
            refused.append(f"{resource}, {name}: {(str(error) or type(error).__name__).splitlines()[0]}")
            continue
        built.append(workload)
    if missing := sorted({*dtypes, MEMORY} - {workload.resource for workload in built}):
        raise RyotError(f"no peak of {', '.join(missing)} can be measured here: {'; '.join(refused)}")
    return built, refused


def cache_bytes() -> int | None:
    """Bytes of the data caches between the default device and its memory; None if not known."""
    return data_cache_bytes() if jax.default_backend() == "cpu" else None


def _makers(
    dtypes: Sequence[str], shapes: Sequence[Shape], products: Sequence[Product]
) -> Iterator[tuple[str, str, Callable[[], Workload]]]:
    """Yields resource, name and builder of every workload; one of each resource comes first."""
    on_cpu = jax.default_backend() == "cpu"
    size = _array_bytes()
    yield MEMORY, "update in place", functools.partial(_update, 2 * size)
    yield MEMORY, "copy", functools.partial(_copy, size)
    filling, most_flops = (_CPU_SHAPE, _CPU_MOST_FLOPS) if on_cpu else (_ACCELERATOR_SHAPE, _ACCELERATOR_MOST_FLOPS)
    for shape in dict.fromkeys((filling, *(_cut(shape, most_flops) for shape in shapes))):
        for dtype in dtypes:
            for product in products:
                name = f"{product.name} {' x '.join(map(str, shape))}"
                yield dtype, name, functools.partial(_product, name, product, shape, dtype)


def _cut(shape: Shape, most_flops: int) -> Shape:
    rows, inner, columns = shape
    return max(1, min(rows, most_flops // (2 * inner * columns))), inner, columns


def _operands(shape: Shape, x_dtype: str, w_dtype: str) -> tuple[jax.Array, jax.Array]:
    """Random operands of both signs: a processor may slow down for them, as for a model's, but not for zeros."""
    rows, inner, columns = shape
    numbers = np.random.default_rng(0).random(_RANDOM_NUMBERS, np.float32) - 0.5
    x_NK = jnp.asarray(np.resize(numbers, (rows, inner)), x_dtype)
    return x_NK, jnp.asarray(np.resize(numbers, (inner, columns)), w_dtype)


def _product(name: str, product: Product, shape: Shape, dtype: str) -> Workload:
    x_NK, w_KM = _operands(shape, dtype, product.weights_dtype or dtype)
    program = jax.jit(product.multiply).lower(x_NK, w_KM).compile()
    return Workload(dtype, name, 2 * math.prod(shape), lambda: program(x_NK, w_KM))


def _update(size: int) -> Workload:
    """A workload that adds 1 to an array in place."""
    x_n = jnp.zeros((size // 4,), jnp.float32)
    program = jax.jit(lambda x_n: x_n + 1, donate_argnums=0).lower(x_n).compile()

    def call() -> jax.Array:
        nonlocal x_n
        x_n = program(x_n)
        return x_n

    call()
    _require(call(), 2.0, "an update in place")
    return Workload(MEMORY, "update in place", 2 * x_n.nbytes, call)


def _copy(size: int) -> Workload:
    """A workload that copies an array into mapped memory, so that the mapping of pages is not timed."""
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
    return Workload(MEMORY, "copy", 2 * source_n.nbytes, call)


def _require(array_n: jax.Array, expected: float, what: str) -> None:
    """Raises if the work was not done at both ends of an array."""
    ends = float(array_n[0]), float(array_n[-1])
    if ends != (expected, expected):
        raise RyotError(f"{what} gave {ends} in place of {expected}")


def _array_bytes() -> int:
    if jax.default_backend() != "cpu":
        return _ACCELERATOR_ARRAY_BYTES
    return min(max(_TIMES_CACHES * (cache_bytes() or 0), _LEAST_ARRAY_BYTES), _MOST_ARRAY_BYTES)
