"""What is written in the spelling of a library is found, and has the same results and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lib.spellings import CASES, KINDS, OPERANDS
from ryot_jax.kernels import cpu
from ryot_jax.rewriting import optimize

pytestmark = [
    pytest.mark.usefixtures("file_compiled_quickly"),
    pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels to put in"),
]


def _random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_is_found_and_computes_the_same(kind, name):
    function, words = KINDS[kind][name]
    operands = [_random(*shape) for shape in OPERANDS[kind]]
    fast = optimize(function, verify=False)
    plan = fast.plan(*operands)
    assert [site.words for site in plan.all_sites if site.op != "dense" or kind == "LAYERS"] == [words], (
        plan.all_refused
    )
    found = fast.check(*operands)
    # Some ten sums of up to 12 numbers in another order: a few roundings of 2^-24 each.
    assert max(found.result, found.gradient) < 2e-5
