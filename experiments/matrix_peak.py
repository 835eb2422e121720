"""Measured peak rate of bfloat16 operations on this machine: the best of several matrix products.

It is the limit to which a training step is compared. XLA's own products and the C++ kernels' both count, whichever is
faster; a new source of products is a function in `SOURCES`.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from ryot_jax.kernels import dense
from ryot_jax.runtime.errors import RyotError

# Rows, inner size, columns: squares that fill the caches, and the layers of configs/scaled.py and configs/wide.py.
SHAPES = (
    (2048, 2048, 2048),
    (4096, 512, 2048),
    (4096, 2048, 512),
    (4096, 512, 1024),
    (4096, 128, 512),
    (4096, 128, 2048),
)


@dataclasses.dataclass(frozen=True)
class Product:
    """A compiled product of bfloat16 operands that accumulates in float32."""

    source: str
    shape: tuple[int, int, int]
    run: Callable[[], jax.Array]

    @property
    def flops(self) -> int:
        """Number of operations; a multiply-add counts as two."""
        return 2 * self.shape[0] * self.shape[1] * self.shape[2]


def _operands(shape: tuple[int, int, int], weights_dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    rows, inner, columns = shape
    x_key, w_key = jax.random.split(jax.random.key(0))
    x_NK = jax.random.normal(x_key, (rows, inner), jnp.bfloat16)
    return x_NK, jax.random.normal(w_key, (inner, columns), weights_dtype)


def _xla(shape: tuple[int, int, int]) -> Callable[[], jax.Array]:
    """XLA's product bfloat16 x bfloat16 -> float32, the fastest form on XLA:CPU."""
    x_NK, w_KM = _operands(shape, jnp.dtype(jnp.bfloat16))
    product = jax.jit(lambda x, w: jnp.matmul(x, w, preferred_element_type=jnp.float32)).lower(x_NK, w_KM).compile()
    return lambda: product(x_NK, w_KM)


def _cpp(shape: tuple[int, int, int]) -> Callable[[], jax.Array]:
    """C++ product bfloat16 x float32 weights (rounded and packed within the call) -> bfloat16."""
    x_NK, w_KM = _operands(shape, jnp.dtype(jnp.float32))
    product = jax.jit(lambda x, w: dense(x, w, implementation="cpu")).lower(x_NK, w_KM).compile()
    return lambda: product(x_NK, w_KM)


SOURCES: dict[str, Callable[[tuple[int, int, int]], Callable[[], jax.Array]]] = {"XLA": _xla, "C++ kernels": _cpp}


def products() -> tuple[list[Product], dict[str, str]]:
    """Every product that this machine can run, each run once, and the reasons why other sources cannot."""
    found: list[Product] = []
    refused: dict[str, str] = {}
    for source, build in SOURCES.items():
        try:
            made = [Product(source, shape, build(shape)) for shape in SHAPES]
            for product in made:
                product.run().block_until_ready()
        except (RyotError, NotImplementedError, TypeError, ValueError, jax.errors.JaxRuntimeError) as error:
            refused[source] = str(error).splitlines()[0]
            continue
        found += made
    return found, refused


def flops_per_second(products: list[Product], *, repeats: int = 4) -> Iterator[tuple[Product, float]]:
    """Yield each product with the rate of its fastest run out of `repeats`."""
    for product in products:
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            product.run().block_until_ready()
            seconds.append(time.perf_counter() - start)
        yield product, product.flops / min(seconds)
