"""Measure the implementations of an op, forward and backward, on the shapes of one training step.

A candidate is timed once its numbers have passed a gate, in turns with the others and in random order. What is
done with the outcome (whole training steps, the file on disk) is left to `comparison.tuning` and `tuning_cache`.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from ryot_jax.kernels.choice import trial_process
from ryot_jax.kernels.ops.attention.api import attention
from ryot_jax.kernels.ops.dense.api import dense
from ryot_jax.kernels.ops.dense.mlp import mlp
from ryot_jax.kernels.ops.dropout.api import dropout
from ryot_jax.kernels.ops.embedding.api import embedding
from ryot_jax.kernels.ops.linear_cross_entropy.api import linear_cross_entropy
from ryot_jax.kernels.ops.norm.api import layer_norm, rms_norm
from ryot_jax.kernels.plan import Spec, tunable
from ryot_jax.runtime.compiler import without_ynn

SECONDS = 2.0  # of timing, for one op
_MIN_ROUNDS, _MAX_ROUNDS = 7, 40
_MIN_MEASURED_SECONDS = 0.01  # one measurement repeats the call until it takes as long

# Largest relative error (L2, of any output or gradient) that rounding in a dtype explains: several times those of the
# reference at the sizes of configs/scaled.py.
_TOLERANCES = {"float32": 2e-5, "bfloat16": 2e-2, "float16": 4e-3}
_BY_XLA = ("reference", "xla")  # whose compiler neither ends the process nor hangs
_MASK_STANDARD_ERRORS = 5.0  # the same for dropout, whose numbers are random


@dataclasses.dataclass(frozen=True)
class Trial:
    """What came of one candidate.

    Attributes:
      error: of its numbers, relative to float32's reference; for dropout see `_mask_error`. None: not computed.
      tolerance: the largest error that passes.
      milliseconds: median of one call, forward and backward; None where it failed.
      speedup: geometric mean of the reference's time over this one's.
      interval: 95 % t interval of `speedup`; None where there is none, as for the reference itself.
      memory_bytes: temporary memory of the compiled program, where the compiler tells it.
      failure: why it was not timed; empty where it was.
    """

    error: float | None = None
    tolerance: float | None = None
    milliseconds: float | None = None
    speedup: float | None = None
    interval: tuple[float, float] | None = None
    memory_bytes: int | None = None
    failure: str = ""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """An op on the arrays of a training step.

    Attributes:
      function: (implementation, *differentiable, *others) -> an output or a tuple of them, all of float dtypes.
      differentiable: operands whose gradients are taken.
      others: operands without.
    """

    function: Callable[..., Any]
    differentiable: tuple[jax.Array, ...]
    others: tuple[jax.Array, ...] = ()


def tune(
    op: str, spec: Spec, *, seed: int = 0, seconds: float = SECONDS, apart: bool | None = None
) -> tuple[str, dict[str, Trial]]:
    """The fastest implementation of `op` for `spec`, and what was found of each one that can take the work.

    The winner is faster than the reference by more than noise: the interval of its speed-up lies above one. Where
    there is none, the reference is the winner.

    Args:
      op: its name.
      spec: the work.
      seed: of the arrays and of the order of turns.
      seconds: of timing.
      apart: whether kernels of our own and of libraries first run in a process of their own, see `trial_process`;
        None: on a GPU.
    """
    trials: dict[str, Trial] = {}
    programs: dict[str, Callable[[], Any]] = {}
    apart = spec.platform == "gpu" if apart is None else apart
    arrays = benchmark(op, spec, seed=seed)
    truth = None if op == "dropout" else _truth(arrays, spec.platform)
    for name in tunable(op, spec):
        if apart and name not in _BY_XLA and (failure_text := trial_process.failure_of(op, spec, name, seed=seed)):
            trials[name] = Trial(failure=failure_text)
            continue
        try:
            program, memory = compiled(arrays, name)
            found = program()
            error = _mask_error(found, spec.dropout) if truth is None else relative_error(found, truth)
        except Exception as failure:  # of any kind: a compiler's, the runtime's, a kernel's own
            trials[name] = Trial(failure=described(failure))
            continue
        tolerance = _tolerance(op, name, spec, trials)
        passed = error <= tolerance or name == "reference"
        failure_text = "" if passed else f"error {error:.1e} above {tolerance:.0e}"
        trials[name] = Trial(error, tolerance, memory_bytes=memory, failure=failure_text)
        if passed:
            programs[name] = program
    seconds_by_name = race(programs, seconds=seconds, seed=seed)
    trials |= {name: timed(trials[name], seconds_by_name, name, "reference") for name in programs}
    winners = {n: t.speedup for n, t in trials.items() if t.speedup and t.interval and t.interval[0] > 1}
    return max(winners, key=lambda name: winners[name] or 0.0, default="reference"), trials


def benchmark(op: str, spec: Spec, *, seed: int = 0) -> Benchmark:
    """The op on the arrays of one device's share of a training step."""
    return BENCHMARKS[op](_one_device(spec), np.random.default_rng(seed))


def race(calls: Mapping[str, Callable[[], Any]], *, seconds: float, seed: int = 0) -> dict[str, list[float]]:
    """Seconds of each call in each of several rounds; in a round all take their turn, in an order drawn anew."""
    for call in calls.values():  # a first call costs more
        jax.block_until_ready(call())
    repeats = {name: max(1, math.ceil(_MIN_MEASURED_SECONDS / _seconds(call, 1))) for name, call in calls.items()}
    one_round = sum(repeats[name] * _seconds(call, repeats[name]) for name, call in calls.items())
    rounds = int(seconds / max(one_round, 1e-9))
    order = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(min(max(rounds, _MIN_ROUNDS), _MAX_ROUNDS)):
        for name in order.permutation(list(calls)):
            found[name].append(_seconds(calls[name], repeats[name]))
    return found


def timed(trial: Trial, seconds: Mapping[str, Sequence[float]], name: str, base: str) -> Trial:
    """The trial with the times of `name`, and its speed-up over `base` if that is another one."""
    trial = dataclasses.replace(trial, milliseconds=1e3 * float(np.median(seconds[name])))
    if name == base or base not in seconds:
        return trial
    speedup, interval = paired_speedup(seconds[base], seconds[name])
    return dataclasses.replace(trial, speedup=speedup, interval=interval)


def paired_speedup(base: Sequence[float], other: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Geometric mean of base / other over rounds, and its 95 % t interval."""
    log_ratios = np.log(np.asarray(base)) - np.log(np.asarray(other))
    mean = float(log_ratios.mean())
    margin = float(scipy.stats.t.ppf(0.975, len(log_ratios) - 1) * scipy.stats.sem(log_ratios))
    return math.exp(mean), (math.exp(mean - margin), math.exp(mean + margin))


def relative_error(found: Any, truth: Any) -> float:
    """The largest relative L2 distance of two trees' leaves; infinite where a number is not finite."""
    errors = []
    for leaf, true_leaf in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
        leaf, true_leaf = (np.asarray(x.astype(jnp.float32), np.float64) for x in (leaf, true_leaf))
        error = np.linalg.norm(leaf - true_leaf) / max(np.linalg.norm(true_leaf), np.finfo(np.float32).tiny)
        errors.append(float(error) if np.isfinite(error) else math.inf)
    return max(errors, default=0.0)


def zipf_tokens(rng: np.random.Generator, vocab_size: int, shape: tuple[int, ...]) -> np.ndarray:
    """Token ids, int32, id k with a probability of about 1 / (k + 1): as unevenly used as those of a text."""
    return np.minimum(vocab_size ** rng.random(shape) - 1, vocab_size - 1).astype(np.int32)


def described(failure: Exception) -> str:
    """Type and first line of an exception."""
    return f"{type(failure).__name__}: {str(failure).partition(chr(10))[0]}"


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / repeats


def _one_device(spec: Spec) -> Spec:
    """The share of one device; the times of partitioned programs are those of whole steps."""
    return dataclasses.replace(spec, rows=max(spec.rows // spec.n_devices // spec.seq_len, 1) * spec.seq_len)


def forward_and_backward(
    function: Callable[..., Any], differentiable: Sequence[jax.Array], others: Sequence[jax.Array], cotangents: Any
) -> tuple[Any, tuple[jax.Array, ...]]:
    """The outputs, and the gradients of the differentiable operands."""
    outputs, vjp = jax.vjp(lambda *operands: function(*operands, *others), *differentiable)
    return outputs, vjp(cotangents)


def cotangents(benchmark: Benchmark) -> Any:
    """Random, above zero: as large as one another, and in sum not zero but for rounding."""
    function = functools.partial(benchmark.function, "reference")
    shapes = jax.eval_shape(function, *benchmark.differentiable, *benchmark.others)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.5, 1.5, s.shape), s.dtype), shapes)


def compiled(benchmark: Benchmark, implementation: str) -> tuple[Callable[[], Any], int | None]:
    """A call without arguments, and its temporary memory."""
    function = functools.partial(benchmark.function, implementation)
    operands = benchmark.differentiable, benchmark.others, cotangents(benchmark)
    program = jax.jit(functools.partial(forward_and_backward, function)).lower(*operands).compile()
    analysis = program.memory_analysis()
    return lambda: program(*operands), None if analysis is None else analysis.temp_size_in_bytes


def _truth(benchmark: Benchmark, platform: str) -> Any:
    """What the reference makes of the same numbers in float32, compiled without fusions that get sums wrong."""

    def exact(x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x

    function = functools.partial(benchmark.function, "reference")
    operands = jax.tree.map(exact, (benchmark.differentiable, benchmark.others))
    with jax.default_matmul_precision("highest"):
        shapes = jax.eval_shape(function, *operands[0], *operands[1])
        given = jax.tree.map(lambda c, s: c.astype(s.dtype), cotangents(benchmark), shapes)
        program = jax.jit(functools.partial(forward_and_backward, function), compiler_options=without_ynn(platform))
        return jax.block_until_ready(program(*operands, given))


def _tolerance(op: str, name: str, spec: Spec, trials: Mapping[str, Trial]) -> float:
    if op == "dropout":
        return _MASK_STANDARD_ERRORS
    dtype = "bfloat16" if (op, name) == ("dense", "xla") else "float32" if op == "embedding" else spec.dtype
    reference = trials["reference"].error if "reference" in trials else None
    # A GPU's float32 products may be of fewer bits, the reference's as well.
    return max(_TOLERANCES[dtype], 2 * (reference or 0.0))


def _mask_error(found: tuple[jax.Array, tuple[jax.Array]], rate: float) -> float:
    """How many standard errors the share of zeroed elements is off; infinite where backward has another mask."""
    y, (dx,) = found
    zeroed, zeroed_backward = (np.asarray(x.astype(jnp.float32)) == 0 for x in (y, dx))
    if not np.array_equal(zeroed, zeroed_backward):
        return math.inf
    return float(abs(zeroed.mean() - rate) / (rate * (1 - rate) / y.size) ** 0.5)


def _normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0, dtype: str = "float32") -> jax.Array:
    return jnp.asarray(scale * rng.standard_normal(shape, np.float32), dtype)


def _linear_cross_entropy(spec: Spec, rng: np.random.Generator) -> Benchmark:
    N, D, V = spec.rows, spec.d_model, spec.vocab_size

    def loss(implementation: str, x_ND: jax.Array, w_VD: jax.Array, targets_N: jax.Array) -> jax.Array:
        return linear_cross_entropy(x_ND, w_VD, targets_N, implementation=implementation)[0]

    targets_N = jnp.asarray(zipf_tokens(rng, V, (N,)))
    return Benchmark(loss, (_normal(rng, (N, D), dtype=spec.dtype), _normal(rng, (V, D), D**-0.5)), (targets_N,))


def _attention(spec: Spec, rng: np.random.Generator) -> Benchmark:
    shape = (spec.rows // spec.seq_len, spec.seq_len, spec.n_heads, spec.d_model // spec.n_heads)

    def heads(implementation: str, *qkv: jax.Array) -> jax.Array:
        return attention(*qkv, implementation=implementation)

    return Benchmark(heads, tuple(_normal(rng, shape, dtype=spec.dtype) for _ in "qkv"))


def _dense(spec: Spec, rng: np.random.Generator) -> Benchmark:
    """The products of one block: fused projection to heads, projection back onto the residual stream, and the MLP."""
    N, D, F = spec.rows, spec.d_model, spec.d_ff
    up = 2 * F if spec.mlp == "swiglu" else F
    shapes = {"qkv": (D, 3 * D), "out": (D, D), "up": (D, up), "down": (F, D)}
    weights = [_normal(rng, shape, shape[0] ** -0.5) for shape in shapes.values()]
    biases = [_normal(rng, shape[1:]) for shape in shapes.values()] if spec.norm == "layer" else []

    def products(
        implementation: str, x_ND: jax.Array, residual_ND: jax.Array, *parameters: jax.Array
    ) -> tuple[jax.Array, ...]:
        qkv, out, up, down = parameters[:4]
        qkv_bias, out_bias, up_bias, down_bias = parameters[4:] or (None,) * 4
        return (
            dense(x_ND, qkv, qkv_bias, implementation=implementation),
            dense(x_ND, out, out_bias, residual=residual_ND, implementation=implementation),
            mlp(
                *(x_ND, up, down, up_bias, down_bias),
                kind=spec.mlp,
                residual=residual_ND,
                implementation=implementation,
            ),
        )

    x_ND, residual_ND = (_normal(rng, (N, D), dtype=dtype) for dtype in (spec.dtype, spec.compute_dtype))
    return Benchmark(products, (x_ND, residual_ND, *weights, *biases))


def _norm(spec: Spec, rng: np.random.Generator) -> Benchmark:
    norm, D = layer_norm if spec.norm == "layer" else rms_norm, spec.d_model

    def normed(implementation: str, x_ND: jax.Array, *vectors: jax.Array) -> Any:
        return norm(x_ND, *vectors, with_sum=True, dtype=spec.dtype, implementation=implementation)

    vectors = [1 + _normal(rng, (D,), 0.1), _normal(rng, (D,))][: 2 if spec.norm == "layer" else 1]
    return Benchmark(normed, (_normal(rng, (spec.rows, D), dtype=spec.compute_dtype), *vectors))


def _embedding(spec: Spec, rng: np.random.Generator) -> Benchmark:
    def taken(implementation: str, table_VD: jax.Array, tokens_N: jax.Array) -> jax.Array:
        return embedding(table_VD, tokens_N, implementation=implementation)

    tokens_N = jnp.asarray(zipf_tokens(rng, spec.vocab_size, (spec.rows,)))
    return Benchmark(taken, (_normal(rng, (spec.vocab_size, spec.d_model)),), (tokens_N,))


def _dropout(spec: Spec, rng: np.random.Generator) -> Benchmark:
    def dropped(implementation: str, x_ND: jax.Array, key: jax.Array) -> jax.Array:
        return dropout(x_ND, spec.dropout, key, implementation=implementation)

    x_ND = 1 + jnp.abs(_normal(rng, (spec.rows, spec.d_model)))  # no zero that is not the mask's
    return Benchmark(dropped, (x_ND.astype(spec.dtype),), (jax.random.key(0),))


BENCHMARKS: dict[str, Callable[[Spec, np.random.Generator], Benchmark]] = {
    "linear_cross_entropy": _linear_cross_entropy,
    "attention": _attention,
    "dense": _dense,
    "norm": _norm,
    "embedding": _embedding,
    "dropout": _dropout,
}
