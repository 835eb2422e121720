"""Programs drawn around every spelling: whatever is found in them, they compute what is written."""

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.lib import mutations
from experiments.lib.spellings import CASES
from ryot_jax.kernels import cpu

pytestmark = [
    pytest.mark.usefixtures("file_compiled_quickly"),
    pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels to put in"),
]


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(CASES),
    st.integers(0, 60),
    st.sampled_from(sorted(mutations.CHANGES)),
    st.booleans(),
    st.integers(0, 3),
)
def test_no_change_of_a_program_is_overlooked(case, place, change, reuses, seed):
    with jax.numpy_rank_promotion("allow"):
        mutations.compare(*case, place, change, reuses, seed)
