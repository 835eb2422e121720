"""Comparison of a function with its optimized one: results, gradients, and the place that causes a difference."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.rewriting.choose import Chooser
from ryot_jax.rewriting.plan import Plan
from ryot_jax.runtime.errors import RyotError

# Relative errors in the Euclidean norm of an array. Sums in another order differ by a few roundings (2^-24 or 2^-9 of
# the operands) for each of some ten layers, and gradients lose digits where they nearly cancel.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
_TINY = 1e-3  # of the largest gradient: the error of a smaller one is a part of this, as some are zero but for rounding


class MismatchError(RyotError):
    """An optimized function gives other numbers than the original one."""

    exit_code = 3


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Relative errors of an optimized function.

    Attributes:
      result: of its results, the largest.
      gradient: of its gradients, the largest.
      tolerance: the largest error that passes.
    """

    result: float
    gradient: float
    tolerance: float

    @property
    def passes(self) -> bool:
        """Whether both errors are within the tolerance; NaN is not."""
        return self.result <= self.tolerance and self.gradient <= self.tolerance


def compare(
    original: Callable[..., Any],
    with_sites: Callable[[Collection[str] | None], Callable[..., Any]],
    arrays: Sequence[Any],
    plan: Plan,
    chooser: Chooser,
) -> Comparison:
    """Compares, and finds the place that causes a difference.

    Args:
      original: the function of arrays.
      with_sites: makes the function in which only the sites of these keys are taken; None: all.
      arrays: its arguments.
      plan: the plan of all sites.
      chooser: the choice of implementations.

    Raises:
      MismatchError: results or gradients differ by more than the tolerance.
    """
    dtypes = {"float32", chooser.precision}
    for site in plan.all_sites:  # what the original rounds to within it
        dtypes |= {value.dtype for node in site.covered() for value in (*node.inputs, *node.outputs)}
    tolerance = max(TOLERANCE.get(dtype, 0.0) for dtype in dtypes)
    expected = _values(original, arrays)
    found = _errors(_values(with_sites(None), arrays), expected, tolerance)
    if found.passes:
        return found
    suspects = plan.all_sites
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        function = with_sites([key for site in half for key in site.keys])
        bad = not _errors(_values(function, arrays), expected, tolerance).passes
        suspects = half if bad else suspects[len(half) :]
    if not suspects:
        raise MismatchError("the function gives other numbers each time it is called: it cannot be checked")
    (cause,) = suspects
    raise MismatchError(
        f"the optimized function differs from the original by {found.result:.1e} in its results and "
        f"{found.gradient:.1e} in its gradients (relative errors; {tolerance:.0e} is allowed), because of "
        f"{cause.words} at {cause.root.source or 'an unknown line'}; leave it as it is by "
        f"optimize(..., without=[{cause.op!r}])"
    )


def _values(function: Callable[..., Any], arrays: Sequence[Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Results, and gradients of their weighted sum with respect to the float arguments, in float64."""
    places = [i for i, array in enumerate(arrays) if jnp.issubdtype(array.dtype, jnp.floating)]

    def weighted(*floats: Any) -> tuple[jax.Array, list[Any]]:
        args = list(arrays)
        for i, array in zip(places, floats, strict=True):
            args[i] = array
        results = [jnp.asarray(leaf) for leaf in jax.tree.leaves(function(*args))]
        total = jnp.zeros(())
        for i, result in enumerate(results):
            if jnp.issubdtype(result.dtype, jnp.floating):
                # Uneven weights, by a function that compiles sooner than random numbers do.
                weights = jnp.sin(1.7 * jnp.arange(result.size, dtype=jnp.float32) + i + 1).reshape(result.shape)
                total = total + jnp.sum(weights * result.astype(jnp.float32)) / max(result.size, 1) ** 0.5
        return total, results

    gradient = jax.jit(jax.value_and_grad(weighted, argnums=tuple(range(len(places))), has_aux=True))
    if not places:
        return [np.asarray(x) for x in jax.tree.leaves(function(*arrays))], []
    (_, results), gradients = gradient(*(arrays[i] for i in places))
    return [np.asarray(x) for x in results], [np.asarray(x, np.float64) for x in gradients]


def _errors(found: Any, expected: Any, tolerance: float) -> Comparison:
    results = [_error(x, y, 0.0) for x, y in zip(found[0], expected[0], strict=True)]
    largest = max((float(np.linalg.norm(x)) for x in expected[1]), default=0.0)
    gradients = [_error(x, y, _TINY * largest) for x, y in zip(found[1], expected[1], strict=True)]
    return Comparison(max(results, default=0.0), max(gradients, default=0.0), tolerance)


def _error(found: np.ndarray, expected: np.ndarray, floor: float) -> float:
    if not np.issubdtype(expected.dtype, np.floating) and str(expected.dtype) != "bfloat16":
        return 0.0 if np.array_equal(found, expected) else float("inf")
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if not np.array_equal(np.isnan(found), np.isnan(expected)):
        return float("inf")
    difference = float(np.linalg.norm(np.nan_to_num(found) - np.nan_to_num(expected)))
    return difference / max(float(np.linalg.norm(np.nan_to_num(expected))), floor, 1e-30) if difference else 0.0
