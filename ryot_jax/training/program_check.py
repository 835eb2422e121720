"""The start-up check of a compiled training step against the same step compiled without the suspect fusions.

jaxlib 0.10.2 and 0.11.0 hand reductions on a CPU to YNNPACK and get some of them wrong (jax issue 39103: the
last row of a vmapped matrix-vector product and sum over 32,769, 0.8 % off). Turning the fusions off would slow
down every step, so each step is run once both ways, and a program of several steps once against the same number of
calls of the checked step. On other platforms nothing is checked, and the result says so.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ryot_jax.runtime.compiler import without_ynn
from ryot_jax.training.optimizer import gradient_statistics
from ryot_jax.training.parallel import CompiledStep, StepFn, compile_step, stack
from ryot_jax.training.state import State
from ryot_jax.training.step import Metrics

# Largest errors that rounding can explain, several times those seen with the scaled config: 1.5e-6 in
# float32, 1.0e-3 with products of bfloat16 operands in a float32 model, 3.3e-2 with bfloat16 activations.
FLOAT32_TOLERANCE = 1e-4
BFLOAT16_PRODUCTS_TOLERANCE = 5e-3
BFLOAT16_TOLERANCE = 1e-1

# Leaves below this share of the root mean square of their kind are compared as if they were that large:
# gradients that are zero but for rounding (the bias of the keys in attention) have no digits to compare.
_NOISE_FLOOR = 1e-3


@dataclasses.dataclass(frozen=True)
class ProgramCheck:
    """The outcome of checking one compiled program.

    Attributes:
      ok: the program agreed with the safe one, or was not checked (then `skipped` says why).
      worst_leaf: the metric or the leaf of the optimizer state that differed most.
      worst_error: its relative error, see `checked`.
      tolerance: the largest error allowed.
      seconds: seconds of compiling the safe program, if needed, and of running both.
      skipped: reason for the absence of a check; empty if there was one.
      steps: training steps per call of the program.
    """

    ok: bool
    worst_leaf: str
    worst_error: float
    tolerance: float
    seconds: float
    skipped: str = ""
    steps: int = 1

    def __str__(self) -> str:
        """One line for the log."""
        title = "program check" if self.steps == 1 else f"program check of {self.steps} steps a call"
        if self.skipped:
            return f"{title} skipped: {self.skipped}"
        verdict = "passed" if self.ok else "FAILED, the step runs without YNN fusions"
        return (
            f"{title} {verdict}: {self.worst_leaf} differs by {self.worst_error:.1e} "
            f"(allowed {self.tolerance:.0e}; {self.seconds:.1f} s)"
        )


def checked(
    step_fn: StepFn,
    state: State,
    batch: Mapping[str, Any],
    *,
    parallelism: str = "jit",
    mesh: Mesh | None = None,
    donate: bool = True,
    tolerance: float = FLOAT32_TOLERANCE,
) -> tuple[CompiledStep, ProgramCheck]:
    """Compiles a step, and returns the safe program in its place if the two do not agree on the first batch.

    Both take one step from copies of `state`. Compared are the metrics and every leaf of the optimizer state,
    of which the first moments are the gradients of this very program. The error of a leaf is the larger of
    its relative L2 distance and its largest difference relative to its largest element: a few wrong rows of
    many do not show in the former.

    Args:
      step_fn: see `compile_step`.
      state: the state before the first step; not consumed.
      batch: the first batch.
      parallelism: see `compile_step`.
      mesh: see `compile_step`.
      donate: see `compile_step`.
      tolerance: largest error that rounding can explain, one of the constants above.
    """
    compile_with = functools.partial(
        compile_step, step_fn, state, batch, parallelism=parallelism, mesh=mesh, donate=donate
    )
    program = compile_with()
    safe_options = without_ynn(_platform(program))
    if safe_options is None:
        return program, _skipped(program, tolerance)
    start = time.perf_counter()
    safe_program = compile_with(compiler_options=safe_options)
    worst_leaf, worst_error = worst_difference(
        _first_call(program, state, batch), _first_call(safe_program, state, batch)
    )
    ok = worst_error <= tolerance
    check = ProgramCheck(ok, worst_leaf, worst_error, tolerance, time.perf_counter() - start)
    return (program if ok else safe_program), check


def checked_scan(
    step_fn: StepFn,
    state: State,
    batches: Sequence[Mapping[str, Any]],
    *,
    step: CompiledStep,
    tolerance: float = FLOAT32_TOLERANCE,
) -> tuple[CompiledStep, ProgramCheck]:
    """Compiles a program of `len(batches)` steps per call, and returns a safe one if its results differ from `step`'s.

    It is compared with the same number of calls of `step`, which `checked` has returned, and not against itself
    without YNN: two roundings diverge further with every step (to 4e-3 after 5 with products of bfloat16 operands),
    while the loop's body is the step itself and gave the very same numbers with every optimizer (smoke config) and
    with XLA's and the C++ kernels in float32 and bfloat16 (smoke, scaled). The tolerance of one step is allowed all
    the same, for compilers that fuse the body otherwise. The quantities are those that `checked` compares, after the
    last step.

    Args:
      step_fn: see `compile_step`.
      state: the state before the first step; not consumed.
      batches: the batches of the first steps.
      step: the program of one step; the other is compiled for its devices in its way.
      tolerance: see `checked`.
    """
    batch, mesh = stack(batches), step.state_sharding.mesh
    assert isinstance(mesh, Mesh)  # of devices, which `compile_step` gave it
    compile_with = functools.partial(
        compile_step,
        step_fn,
        state,
        batch,
        steps=len(batches),
        parallelism=step.parallelism,
        mesh=mesh,
        donate=step.donate,
    )
    program = compile_with()
    safe_options = without_ynn(_platform(program))
    if safe_options is None:
        return program, _skipped(program, tolerance)
    start = time.perf_counter()
    worst_leaf, worst_error = worst_difference(_first_call(program, state, batch), _first_steps(step, state, batches))
    ok = worst_error <= tolerance
    if not ok:
        program = compile_with(compiler_options=safe_options)
    return program, ProgramCheck(
        ok, worst_leaf, worst_error, tolerance, time.perf_counter() - start, steps=program.steps
    )


def worst_difference(tree: Any, reference: Any) -> tuple[str, float]:
    """Path and relative error of the leaf in which `tree` differs most from `reference`, on the host."""
    paths_and_leaves, _ = jax.tree.flatten_with_path(reference)
    references = [np.asarray(leaf, np.float64) for _, leaf in paths_and_leaves]
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    kinds = [_kind(path) for path, _ in paths_and_leaves]
    squares: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for kind, reference_leaf in zip(kinds, references, strict=True):
        squares[kind] = squares.get(kind, 0.0) + float(np.nansum(np.square(reference_leaf)))
        sizes[kind] = sizes.get(kind, 0) + reference_leaf.size
    worst = ("", 0.0)
    for (path, _), kind, leaf, reference_leaf in zip(paths_and_leaves, kinds, leaves, references, strict=True):
        floor = _NOISE_FLOOR * (squares[kind] / max(sizes[kind], 1)) ** 0.5
        error = _relative_error(leaf, reference_leaf, floor)
        if error > worst[1] or not worst[0]:
            worst = (jax.tree_util.keystr(path, simple=True, separator="."), error)
    return worst


def _platform(program: CompiledStep) -> str:
    return program.state_sharding.mesh.devices.flat[0].platform


def _skipped(program: CompiledStep, tolerance: float) -> ProgramCheck:
    reason = f"no suspect fusions are known on {_platform(program)} with this jaxlib"
    return ProgramCheck(True, "", 0.0, tolerance, 0.0, skipped=reason, steps=program.steps)


def _first_call(program: CompiledStep, state: State, batch: Mapping[str, Any]) -> Any:
    copy = jax.tree.map(jnp.copy, state)
    return _comparable(*program(copy, batch))


def _first_steps(program: CompiledStep, state: State, batches: Sequence[Mapping[str, Any]]) -> Any:
    """The results that a program of several steps must give, computed by a program of one."""
    after, rows = jax.tree.map(jnp.copy, state), []
    for batch in batches:
        after, metrics = program(after, batch)
        rows.append(metrics)
    return _comparable(after, jax.tree.map(lambda *values: jnp.stack(values), *rows))


def _comparable(after: State, metrics: Metrics) -> Any:
    return jax.device_get({"metrics": metrics, "opt_state": gradient_statistics(after.opt_state)})


def _kind(path: tuple[Any, ...]) -> str:
    """The path up to the last field of a named tuple: the leaves of one moment, say, are of one kind."""
    fields = [i for i, key in enumerate(path) if isinstance(key, jax.tree_util.GetAttrKey)]
    return jax.tree_util.keystr(path[: fields[-1] + 1] if fields else path)


def _relative_error(leaf: np.ndarray, reference: np.ndarray, floor: float) -> float:
    if leaf.size == 0:
        return 0.0
    finite = np.isfinite(reference)
    if not np.array_equal(finite, np.isfinite(leaf)):
        return float("inf")
    difference = np.where(finite, leaf, 0) - np.where(finite, reference, 0)
    size = np.where(finite, reference, 0)
    scale = max(floor, np.finfo(np.float32).tiny)
    by_norm = np.linalg.norm(difference) / max(np.linalg.norm(size), scale * leaf.size**0.5)
    by_element = np.abs(difference).max() / max(np.abs(size).max(), scale)
    return float(max(by_norm, by_element))
