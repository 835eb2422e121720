"""Programs drawn around every spelling: whatever is found in them, they compute what is written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ryot_jax.kernels import cpu
from ryot_jax.rewriting import optimize
from tests.rewriting import mutations, spellings
from tests.rewriting.test_spellings import CASES, OPERANDS

pytestmark = [
    pytest.mark.usefixtures("file_compiled_quickly"),
    pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels to put in"),
]


def compare(kind: str, name: str, place: int, change: str, reuses: bool, seed: int) -> tuple[int, float]:
    """Compares a program with its optimized one.

    Returns:
      The number of ops in the optimized one, and the largest relative error of results and gradients.
    """
    function, _ = getattr(spellings, kind)[name]
    rng = np.random.default_rng(seed)
    operands = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in OPERANDS[kind]]
    count = mutations.equations(function, *operands)
    program = mutations.mutated(function, place % count, change, reuses, *operands)
    fast = optimize(program, verify=False)
    found = fast.check(*operands)
    return len(fast.plan(*operands).all_sites), max(found.result, found.gradient)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(CASES),
    st.integers(0, 60),
    st.sampled_from(sorted(mutations.CHANGES)),
    st.booleans(),
    st.integers(0, 3),
)
def test_no_change_of_a_program_is_overlooked(case, place, change, reuses, seed):
    with jax.numpy_rank_promotion("allow"):
        compare(*case, place, change, reuses, seed)
