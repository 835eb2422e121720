"""Functions and arrays to measure an op with, and their compilation. Timing is left to `tuning`.

Ops import this module; it imports none of them.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels.declaration import Benchmark, Op, Spec
from ryot_jax.runtime.compiler import without_ynn


def benchmark(op: Op, spec: Spec, *, seed: int = 0) -> Benchmark:
    """The benchmark of `op` on the arrays of one device's share of a training step."""
    return op.benchmark(_one_device(spec), np.random.default_rng(seed))


def _one_device(spec: Spec) -> Spec:
    """The share of one device; partitioned programs are timed as whole steps only."""
    return dataclasses.replace(spec, rows=max(spec.rows // spec.n_devices // spec.seq_len, 1) * spec.seq_len)


def forward_and_backward(
    function: Callable[..., Any], differentiable: Sequence[jax.Array], others: Sequence[jax.Array], cotangents: Any
) -> tuple[Any, tuple[jax.Array, ...]]:
    """The outputs, and the gradients of the differentiable operands."""
    outputs, vjp = jax.vjp(lambda *operands: function(*operands, *others), *differentiable)
    return outputs, vjp(cotangents)


def cotangents(benchmark: Benchmark) -> Any:
    """Random positive cotangents of similar size, so that their sums do not cancel to rounding noise."""
    function = functools.partial(benchmark.function, "reference")
    shapes = jax.eval_shape(function, *benchmark.differentiable, *benchmark.others)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.5, 1.5, s.shape), s.dtype), shapes)


def compiled(benchmark: Benchmark, implementation: str) -> tuple[Callable[[], Any], int | None]:
    """A compiled call without arguments, and its temporary memory in bytes (None: not reported)."""
    function = functools.partial(benchmark.function, implementation)
    operands = benchmark.differentiable, benchmark.others, cotangents(benchmark)
    program = jax.jit(functools.partial(forward_and_backward, function)).lower(*operands).compile()
    analysis = program.memory_analysis()
    return lambda: program(*operands), None if analysis is None else analysis.temp_size_in_bytes


def truth(benchmark: Benchmark, platform: str) -> Any:
    """Outputs and gradients of the reference in float32, compiled without the fusions that lose accuracy in sums."""

    def exact(x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x

    function = functools.partial(benchmark.function, "reference")
    operands = jax.tree.map(exact, (benchmark.differentiable, benchmark.others))
    with jax.default_matmul_precision("highest"):
        shapes = jax.eval_shape(function, *operands[0], *operands[1])
        given = jax.tree.map(lambda c, s: c.astype(s.dtype), cotangents(benchmark), shapes)
        program = jax.jit(functools.partial(forward_and_backward, function), compiler_options=without_ynn(platform))
        return jax.block_until_ready(program(*operands, given))


def zipf_tokens(rng: np.random.Generator, vocab_size: int, shape: tuple[int, ...]) -> np.ndarray:
    """Token ids, int32, with id k at a probability of about 1 / (k + 1): as uneven as in natural text."""
    return np.minimum(vocab_size ** rng.random(shape) - 1, vocab_size - 1).astype(np.int32)


def normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0, dtype: str = "float32") -> jax.Array:
    """Normally distributed numbers with standard deviation `scale`."""
    return jnp.asarray(scale * rng.standard_normal(shape, np.float32), dtype)


def described(failure: Exception) -> str:
    """Type and first line of an exception."""
    return f"{type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
