"""What is written in the spelling of a library is found, and has the same results and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import cpu
from ryot_jax.rewriting import optimize
from tests.rewriting import spellings
from tests.rewriting.spellings import B, D, F, H, K, T, V

pytestmark = [
    pytest.mark.usefixtures("file_compiled_quickly"),
    pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels to put in"),
]


def _random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


OPERANDS = {
    "NORMS": ((B, T, D), (D,), (D,)),
    "ATTENTIONS": ((B, T, H, K),) * 3,
    "LAYERS": ((B, T, D), (D, F), (F,)),
    "LOSSES": ((B, T, D), (V, D)),
}
CASES = [(kind, name) for kind in OPERANDS for name in getattr(spellings, kind)]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_is_found_and_computes_the_same(kind, name):
    function, words = getattr(spellings, kind)[name]
    operands = [_random(*shape) for shape in OPERANDS[kind]]
    fast = optimize(function, verify=False)
    plan = fast.plan(*operands)
    assert [site.words for site in plan.all_sites if site.op != "dense" or kind == "LAYERS"] == [words], (
        plan.all_refused
    )
    found = fast.check(*operands)
    # Some ten sums of up to 12 numbers in another order: a few roundings of 2^-24 each.
    assert max(found.result, found.gradient) < 2e-5
