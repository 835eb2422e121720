"""Comparison of every op with its textbook formula in float64, under transformations, and in every instruction set.

A test with a parameter `implementation` (or `of_dense`) of 'cpu' runs once for each instruction set of the C++ kernels
that this machine has, or can emulate, for the case's `dtype`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import cpu

ROUNDING = {"float32": 2.0**-24, "bfloat16": 2.0**-9}  # largest relative error of one


EMULATED = cpu.emulated_instruction_sets()  # for bfloat16
INSTRUCTION_SETS = (*cpu.instruction_sets(), *EMULATED)  # of the C++ kernels on this machine, best first


def _params(item: Any) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}


def _case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return _params(request.node)


def _takes_cpp(case: dict[str, Any]) -> bool:
    return "cpu" in (case.get("implementation"), case.get("of_dense"))


def pytest_generate_tests(metafunc: pytest.Metafunc):
    """Every case once for each instruction set; those without C++ kernels are dropped again below."""
    if len(INSTRUCTION_SETS) > 1 and "instruction_set" in metafunc.fixturenames:
        metafunc.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]):
    """Cases of C++ kernels stay for each instruction set that has some for their dtype, all others once."""

    def stays(item: pytest.Item) -> bool:
        case = _params(item)
        if "instruction_set" not in case:
            return True
        dtype = case.get("dtype", "float32")
        able = cpu.instruction_sets(dtype) if _takes_cpp(case) else ()
        if able and dtype == "bfloat16":
            able += EMULATED
        return case["instruction_set"] in (able or INSTRUCTION_SETS[:1])

    if dropped := [item for item in items if not stays(item)]:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if stays(item)]


@pytest.fixture(autouse=True)
def instruction_set(request) -> Iterator[str]:
    """The instruction set that C++ kernels take in this case; compiled programs follow it too, as they choose late."""
    if _takes_cpp(_case(request)):  # a program of calls, in which XLA has nothing to optimize
        request.getfixturevalue("quick_compilation")
    name = getattr(request, "param", "")
    if not name:
        yield name
        return
    with cpu.capped_at(name):  # the best one too: another may be faster here
        assert name in (cpu.instruction_set("bfloat16"), cpu.instruction_set("float32"))
        yield name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """Skips a case that calls C++ kernels with arrays of its own, of a dtype that this instruction set has none for."""
    try:
        return (yield)
    except NotImplementedError as error:
        reason = cpu.unavailable_reason("bfloat16")
        if reason is not None and reason in str(error) and _takes_cpp(_params(item)):
            pytest.skip(reason)
        raise


@pytest.fixture(autouse=True)
def _only_what_this_machine_can_run(request):
    """Skips cases of implementation 'cpu' (of a 'dtype') for which there are no C++ kernels here."""
    case = _case(request)
    if _takes_cpp(case) and (reason := cpu.unavailable_reason(case.get("dtype", "float32"))):
        pytest.skip(reason)


def _is_float(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def outcomes_and_gradients(op: Callable[..., Any]) -> Callable[..., tuple[list[Any], list[Any]]]:
    """`(cotangents, *operands)` -> outcomes, and gradients with respect to the operands of float dtypes."""

    def run(cotangents: Any, *operands: Any) -> tuple[list[Any], list[Any]]:
        wanted = [i for i, array in enumerate(operands) if _is_float(array)]

        def of_floats(*floats: Any) -> list[Any]:
            arguments = list(operands)
            for i, array in zip(wanted, floats, strict=True):
                arguments[i] = array
            return jax.tree.leaves(op(*arguments))

        outcomes, vjp = jax.vjp(of_floats, *(operands[i] for i in wanted))
        return outcomes, list(vjp([dy.astype(y.dtype) for dy, y in zip(cotangents, outcomes, strict=True)]))

    return run


@pytest.fixture(scope="session")
def _exact_of_case() -> dict[Any, Any]:
    return {}


@pytest.fixture
def errors_against_float64(oracle_jit, request, _exact_of_case) -> Callable[..., list[float]]:
    """Relative errors (in the 2-norm of each array) of outcomes and gradients for random cotangents.

    `textbook` is the same function as `op`, written from its definition; it is computed and differentiated in float64
    from the very same operands, once for all implementations of a test's case (which therefore has one textbook).
    Arrays smaller than one in norm are measured against one.
    """
    case = request.node.originalname, {**_case(request), "implementation": None, "instruction_set": None}

    def errors(op: Callable[..., Any], textbook: Callable[..., Any], *operands: Any) -> list[float]:
        rng = np.random.default_rng(99)
        # Cotangents that bfloat16 can hold: no rounding of theirs is counted as the op's.
        cotangents = [
            jnp.asarray(rng.normal(size=y.shape), jnp.bfloat16).astype(jnp.float32)
            for y in jax.tree.leaves(jax.eval_shape(op, *operands))
        ]
        with jax.enable_x64(any(array.dtype == np.float64 for array in operands)):
            actual = jax.tree.map(np.asarray, jax.jit(outcomes_and_gradients(op))(cotangents, *operands))
        for gradient, operand in zip(actual[1], filter(_is_float, operands), strict=True):
            chex.assert_equal_shape([gradient, operand])
            assert gradient.dtype == operand.dtype
        wide = [np.asarray(array, np.float64) if _is_float(array) else np.asarray(array) for array in operands]
        key = (str(case), *(array.tobytes() for array in wide))
        if key not in _exact_of_case:
            with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
                run = oracle_jit(outcomes_and_gradients(textbook))
                exact = run([np.asarray(y, np.float64) for y in cotangents], *wide)
            _exact_of_case[key] = jax.tree.map(np.asarray, jax.tree.leaves(exact))
        return [
            float(np.linalg.norm(np.asarray(a, np.float64) - e) / max(float(np.linalg.norm(e)), 1.0))
            for a, e in zip(jax.tree.leaves(actual), _exact_of_case[key], strict=True)
        ]

    return errors


@pytest.fixture
def assert_no_worse_in_bfloat16(errors_against_float64) -> Callable[..., None]:
    """The errors are at most twice those of the reference in bfloat16 (as the flash-attention tests have it)."""

    def check(op: Callable[..., Any], reference: Callable[..., Any], textbook: Callable[..., Any], *operands: Any):
        actual = errors_against_float64(op, textbook, *operands)
        allowed = errors_against_float64(reference, textbook, *operands)
        for error, other in zip(actual, allowed, strict=True):
            assert error <= 2 * other + ROUNDING["bfloat16"], (actual, allowed)

    return check


@pytest.fixture
def assert_works_under_transformations() -> Callable[..., None]:
    """Under vmap, scan and remat, in a jit that takes x's memory, an op of x_3.. gives what it gives alone."""

    def check(op: Callable[[Any], Any], x_3: Any, *, tolerance: float = 1e-5):
        def loss(x: Any) -> Any:
            y = op(x)
            return jnp.sum(jnp.sin(y.astype(jnp.float32)))  # a cotangent that differs between elements

        gradient = jax.value_and_grad(loss)
        alone = jax.jit(gradient)
        expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(alone(x) for x in x_3))

        def transformed(x_3: Any) -> list[Any]:
            remat = jax.value_and_grad(jax.checkpoint(loss))
            return [jax.vmap(gradient)(x_3), jax.lax.map(gradient, x_3), jax.lax.map(remat, x_3)]

        donated = jnp.array(x_3, copy=True)
        for outcome in jax.jit(transformed, donate_argnums=0)(donated):
            chex.assert_trees_all_close(outcome, expected, rtol=tolerance, atol=tolerance)
        assert donated.is_deleted()

    return check
