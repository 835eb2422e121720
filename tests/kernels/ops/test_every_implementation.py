"""What holds of every implementation of every op: see `base`. What one op alone has is in its own file."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels.catalogue import op
from tests.kernels.ops import base

# Of the largest relative error in L2 norm of an outcome or gradient: sums of some hundred numbers and what cancels.
TOLERANCES = {"float32": 5e-6, "bfloat16": 2e-2, "float8_e4m3fn": 0.15}

every_implementation = pytest.mark.parametrize(("of", "implementation"), base.implementations())


@pytest.fixture
def case(of, implementation, request):
    """The implementation on odd sizes, or on those that the test names; skipped where it cannot run."""
    sizes = getattr(request, "param", "odd")
    case = base.Case(op(of), implementation, base.SPECS[sizes])
    with case.context():
        yield case


@pytest.fixture(scope="module")
def truth():
    """`truth(case, oracle_jit)`: the reference's outcomes and gradients in float64, once for an op and sizes."""

    @functools.cache
    def of(op_name, spec, oracle_jit):
        given = base.Case(op(op_name), "reference", spec).arrays.differentiable
        reference = base.Case(op(op_name), "reference", dataclasses.replace(spec, compute_dtype="float64"))
        with jax.enable_x64(True):
            wide = [np.asarray(array, np.float64) for array in given]
            exact = jax.tree.leaves(oracle_jit(_outcomes_and_gradients(reference).__wrapped__)(*wide))
            assert {array.dtype for array in exact} == {np.dtype(np.float64)}
            return [np.asarray(array) for array in exact]

    return lambda case, oracle_jit: of(case.op.name, case.spec, oracle_jit)


def _outcomes_and_gradients(case):
    """Jitted: operands -> outcomes, and gradients for cotangents that differ between elements."""

    def run(*operands):
        outcomes, vjp = jax.vjp(lambda *given: case.function(*given), *operands)
        return outcomes, vjp(
            [(1 + jnp.sin(jnp.arange(y.size, dtype=jnp.float32))).reshape(y.shape).astype(y.dtype) for y in outcomes]
        )

    return jax.jit(run)


@every_implementation
@pytest.mark.parametrize("case", ["odd", "least"], indirect=True)
def test_outcomes_and_gradients_are_the_references_in_float64(case, truth, oracle_jit):
    arrays = case.arrays
    if arrays.error is not None:
        pytest.skip("its numbers are random: the gate of tuning and its own tests look at their statistics")
    found = _outcomes_and_gradients(case)(*arrays.differentiable)
    for ours, theirs in zip(jax.tree.leaves(found), truth(case, oracle_jit), strict=True):
        error = np.linalg.norm(np.asarray(ours, np.float64) - theirs) / max(float(np.linalg.norm(theirs)), 1.0)
        assert error < TOLERANCES[case.rounding], error
    for gradient, operand in zip(found[1], arrays.differentiable, strict=True):
        assert (gradient.dtype, gradient.shape) == (operand.dtype, operand.shape)


@every_implementation
@pytest.mark.parametrize("case", ["large"], indirect=True)
def test_it_repeats_itself_to_the_bit(case):
    run, operands = _outcomes_and_gradients(case), case.arrays.differentiable
    first = run(*operands)
    for _ in range(2):
        chex.assert_trees_all_equal(run(*operands), first)


@every_implementation
def test_a_nan_of_any_operand_stays_visible(case):
    run, operands = jax.jit(lambda *given: case.function(*given)), case.arrays.differentiable
    if case.arrays.error is not None:
        operands = tuple(jnp.full_like(operand, jnp.nan) for operand in operands)  # one alone may be dropped
        assert any(np.isnan(y).any() for y in run(*operands))
        return
    used = run(*operands)
    assert all(np.isfinite(y).all() for y in used)
    for i, operand in enumerate(operands):
        poisoned = [*operands[:i], operand.at[(0,) * operand.ndim].set(jnp.nan), *operands[i + 1 :]]
        assert any(np.isnan(y).any() for y in run(*poisoned)), f"operand {i}"


@every_implementation
def test_it_works_under_vmap_scan_and_remat(case, assert_works_under_transformations):
    first, *others = case.arrays.differentiable

    def summed(x):
        return jnp.concatenate([y.astype(jnp.float32).ravel() for y in case.function(x, *others)])

    tolerance = {"float32": 1e-5}.get(case.rounding, TOLERANCES[case.rounding])
    assert_works_under_transformations(summed, jnp.stack([first, 0.5 * first, -first]), tolerance=tolerance)


@every_implementation
def test_what_it_declares_is_complete(case):
    implementation, is_reference = case.op.implementations[case.name], case.name == case.op.reference
    assert (implementation.probe is None) == is_reference and (implementation.equivalence == "bitwise") == is_reference
    assert implementation.function is not None
    assert functools.reduce(getattr, case.op.functions[:1], case.op.api) is not None
