"""Calls of C++ kernels that overlap: they share one pool of threads, and none may see another's work."""

import concurrent.futures
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import attention, cpu, dense, layer_norm

pytestmark = pytest.mark.skipif(cpu.unavailable_reason() is not None, reason=str(cpu.unavailable_reason()))

ROUNDS = 60


def products(x_ND, w_DF):
    return dense(x_ND, w_DF, activation="gelu", implementation="cpu")


def normed(x_ND, scale_D):
    return layer_norm(x_ND, scale_D, jnp.zeros_like(scale_D), implementation="cpu")


def heads(x_BTHK):
    return attention(x_BTHK, x_BTHK, x_BTHK, implementation="cpu")


def gradients(op, *operands):
    """A compiled program of the op forward and backward, and its operands: large enough for several threads each."""

    def run(*operands):
        y, vjp = jax.vjp(op, *operands)
        return y, vjp(jnp.cos(y))

    return jax.jit(run).lower(*operands).compile(), operands


@pytest.fixture(scope="module")
def work():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return [
        gradients(products, normal(700, 96), normal(96, 200)),
        gradients(normed, normal(3000, 64), normal(64)),
        gradients(heads, normal(4, 128, 4, 16)),
        gradients(products, normal(300, 33), normal(33, 70)),
    ]


def numbers(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same_bits(found, expected):
    for a, b in zip(numbers(found), numbers(expected), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("n_threads", [2, 6])  # fewer and more than a small machine has cores
def test_calls_from_several_threads_give_what_they_give_one_after_another(work, n_threads):
    expected = [numbers(program(*operands)) for program, operands in work]
    barrier = threading.Barrier(n_threads)

    def calls(first):
        for i in range(ROUNDS):
            barrier.wait(60)  # all start each round at once, each with another program than its neighbour
            which = (first + i) % len(work)
            program, operands = work[which]
            assert_same_bits(program(*operands), expected[which])
        return ROUNDS

    with concurrent.futures.ThreadPoolExecutor(n_threads) as pool:
        assert sum(pool.map(calls, range(n_threads))) == n_threads * ROUNDS


def test_independent_calls_in_one_program_give_what_they_give_alone(work):
    """XLA may run them at once: none needs another's outcome."""
    expected = [numbers(program(*operands)) for program, operands in work]

    def together(*all_operands):
        ops = (products, normed, heads, products)
        pairs = [jax.vjp(op, *operands) for op, operands in zip(ops, all_operands, strict=True)]
        return [(y, vjp(jnp.cos(y))) for y, vjp in pairs]

    program = jax.jit(together).lower(*(operands for _, operands in work)).compile()
    assert program.as_text().count("custom-call(") >= 2 * len(work), "all of them are calls of kernels"
    for _ in range(ROUNDS):
        found = program(*(operands for _, operands in work))
        for one, other in zip(found, expected, strict=True):
            # The cotangent is XLA's, and may be fused otherwise here: that of the op itself may not differ.
            np.testing.assert_array_equal(np.asarray(one[0]), other[0])
            for a, b in zip(numbers(one[1]), other[1:], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    again = program(*(operands for _, operands in work))
    assert_same_bits(again, found)
