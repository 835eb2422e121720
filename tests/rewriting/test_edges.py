"""Dtypes that differ, sizes of 0 and 1, and places that look at each other: what a review of the rewriting found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ryot_jax.kernels import cpu
from ryot_jax.rewriting import optimize

pytestmark = [
    pytest.mark.usefixtures("file_compiled_quickly"),
    pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels to put in"),
]
RNG = np.random.default_rng(3)
BF16, F16, F32 = jnp.bfloat16, jnp.float16, jnp.float32


def _normal(*shape, dtype=F32):
    return jnp.asarray(RNG.normal(size=shape), F32).astype(dtype)


def _rms(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def _cross_entropy(logits, targets=None):
    rows = logits.shape[:-1]
    targets = jnp.arange(int(np.prod(rows))).reshape(rows) % 11 if targets is None else targets
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def _attention(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("btk,bsk->bts", q, k) / 2.0, -1)
    return jnp.einsum("bts,bsk->btk", weights, v)


def _crosswise(x, y, w, u):
    x, y = jnp.tanh(x), jnp.tanh(y)
    first, second = x @ w, y @ u
    third, fourth = x @ jnp.tanh(second[:4, :4]), y @ jnp.tanh(first[:4, :4])
    return first.sum() + second.sum() + jnp.sin(third).sum() + jnp.cos(fourth).sum()


X, W, G = _normal(2, 16, 32), _normal(32, 32), _normal(32)
XB = X.astype(BF16)
IDS = jnp.arange(3)
EXACT = {  # what computes in float32 stays in float32
    "a loss for each sequence of one": (
        lambda x, w: _cross_entropy(x @ w.T).mean(-1),
        _normal(1, 6, 8),
        _normal(11, 8),
    ),
    "the same with its axis": (
        lambda x, w: _cross_entropy(x @ w.T).sum(-1, keepdims=True),
        _normal(1, 6, 8),
        _normal(11, 8),
    ),
    "several axes between two layers": (
        lambda x, u, d: jax.nn.gelu(jnp.einsum("btd,dhk->bthk", x, u)) @ d,
        _normal(2, 16, 4),
        _normal(4, 2, 3),
        _normal(3, 5),
    ),
    "groups of layers that need each other": (_crosswise, _normal(16, 4), _normal(16, 4), _normal(4, 4), _normal(4, 4)),
    "no rows": (lambda x, w: x @ w, _normal(0, 6, 4), _normal(4, 8)),
    "nothing to sum": (lambda x, w: x @ w, _normal(3, 6, 0), _normal(0, 8)),
    "no columns": (lambda x, w: x @ w, _normal(3, 6, 4), _normal(4, 0)),
    "a loss of no rows": (lambda x, w: _cross_entropy(x @ w.T).sum(), _normal(0, 8), _normal(11, 8)),
    "a residual of bfloat16": (lambda x, w, r: x @ w + r, X, W, XB),
    "rows of bfloat16, cast": (lambda x, w: x.astype(F32) @ w, XB, W),
    "a product of bfloat16 in float32": (
        lambda x, w: jnp.dot(x, w, preferred_element_type=F32),
        XB,
        W.astype(BF16),
    ),
    "a norm of bfloat16, cast": (lambda x, g, w: _rms(x.astype(F32), g) @ w, XB, G, W),
    "a block of bfloat16, cast": (lambda x, g, u, d: x + jax.nn.gelu(_rms(x.astype(F32), g) @ u) @ d, XB, G, W, W),
    "a loss of bfloat16, cast": (lambda x, w: _cross_entropy(x.astype(F32) @ w.T).mean(), XB, _normal(11, 32)),
    "queries of bfloat16": (_attention, _normal(2, 6, 4, dtype=BF16), _normal(2, 6, 4), _normal(2, 6, 4)),
    "a table of float16": (lambda table: table[IDS], _normal(7, 4, dtype=F16)),
    "positions of float16": (lambda table, p: table[IDS] + p, _normal(7, 4), _normal(3, 4, dtype=F16)),
    "a look-up in float16": (
        lambda table, p: table[IDS].astype(F16) + p,
        _normal(7, 4),
        _normal(3, 4, dtype=F16),
    ),
    "a residual of float16": (lambda x, w, r: x @ w + r, _normal(3, 6, 8), _normal(8, 8), _normal(3, 6, 8, dtype=F16)),
    "a norm to float16": (lambda x, g: _rms(x, 1.0).astype(F16) * g, _normal(2, 16, 4), _normal(4, dtype=F16)),
}
ROUNDED = {  # the original rounds to bfloat16, so that the two differ by some roundings of 2^-9
    "logits": (lambda x, w: _cross_entropy((x @ w.T).astype(F32)).mean(), XB, _normal(11, 32, dtype=BF16)),
    "a loss": (lambda x, w: _cross_entropy(x @ w.T).mean(), XB, _normal(11, 32, dtype=BF16)),
    "positions": (
        lambda table, p: table[jnp.zeros((3, 16), jnp.int32).at[:, ::2].set(3)] + p,
        _normal(11, 32, dtype=BF16),
        _normal(16, 32),
    ),
    "a norm": (_rms, XB, G),
    "a layer": (lambda x, w, r: x @ w + r, XB, W.astype(BF16), X),
}


def _compared(function, *operands):
    fast = optimize(function, verify=False)
    results = [jax.eval_shape(f, *operands) for f in (fast, function)]
    assert results[0].dtype == results[1].dtype and results[0].shape == results[1].shape
    found = fast.check(*operands)
    return max(found.result, found.gradient)


@pytest.mark.parametrize("name", EXACT)
def test_it_is_computed_in_its_own_dtype(name):
    function, *operands = EXACT[name]
    # Sums in another order; a gradient that is rounded to a narrower operand may fall to the other side.
    assert _compared(function, *operands) < 2e-5 if all(x.dtype == F32 for x in operands) else 1e-3


@pytest.mark.parametrize("name", ROUNDED)
def test_what_the_original_rounds_is_no_mismatch(name):
    function, *operands = ROUNDED[name]
    assert _compared(function, *operands) < 0.03


BEYOND = jnp.asarray([0, 14, -3], jnp.int32)
LOSSES = {
    "taken": lambda x, w: -jnp.take_along_axis(jax.nn.log_softmax(x @ w.T), BEYOND[:, None], -1)[:, 0],
    "indexed": lambda x, w: -jax.nn.log_softmax(x @ w.T)[jnp.arange(3), BEYOND],
    "optax": lambda x, w: _cross_entropy(x @ w.T, BEYOND),
}


@pytest.mark.parametrize("reduced", [lambda losses: losses, jnp.sum])
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_a_target_beyond_the_classes_is_what_the_spelling_makes_of_it(name, reduced):
    x, w = _normal(3, 32), _normal(11, 32)

    def loss(x, w):
        return reduced(LOSSES[name](x, w))

    fast = optimize(loss, verify=False)
    assert [site.op for site in fast.plan(x, w).all_sites] == ["linear_cross_entropy"]
    np.testing.assert_allclose(fast(x, w), loss(x, w), rtol=1e-5)
    found, expected = (jax.grad(lambda x, w, f=f: jnp.nansum(f(x, w)), (0, 1))(x, w) for f in (fast, loss))
    for a, b in zip(found, expected, strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)


def test_wide_indices_are_left_to_xla():
    with jax.enable_x64(True):
        indices, table = jnp.asarray([1, 2**32 + 1, -1, 2**31 + 2], jnp.int64), _normal(11, 32)
        fast = optimize(lambda table: jnp.take(table, indices, axis=0), verify=False)
        assert not fast.plan(table).all_sites
        assert fast.check(table).gradient == 0.0
