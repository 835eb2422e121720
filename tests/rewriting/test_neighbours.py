"""Neighbouring places become one: fused, merged, packed, and with gradients of a residual path that meet in a norm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lib.spellings import CAUSAL, B, D, F, H, K, T
from ryot_jax.kernels import cpu
from ryot_jax.rewriting import optimize

pytestmark = [
    pytest.mark.usefixtures("file_compiled_quickly"),
    pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels to put in"),
]
RNG = np.random.default_rng(2)


def _normal(*shape):
    return jnp.asarray(RNG.normal(size=shape) / shape[-2] ** 0.5, jnp.float32)


X, G, QKV = _normal(B, T, D), _normal(1, D)[0], _normal(D, 3 * D)


def _attention(q, k, v):
    q, k, v = (x.reshape(*x.shape[:2], H, K) for x in (q, k, v))
    scores = jnp.where(CAUSAL, jnp.einsum("bthk,bshk->bhts", q, k) / 2, -1e30)
    return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores), v).reshape(B, T, D)


def _norm(x):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * G


def _parts(x, weights):
    return jnp.split(_norm(x) @ weights, 3, -1)


def _apart(x, weights):
    h = _norm(x)
    return [h @ part + 0.1 * i for i, part in enumerate(jnp.split(weights, 3, -1))]


def _by_axis(x, weights):
    qkv = (_norm(x) @ weights).reshape(B, T, 3, H, K)
    return [qkv[:, :, i] for i in range(3)]


def _biased(x, weights):
    h, bias = _norm(x), weights[0, :D]
    return [h @ weights[:, :D] + bias, h @ weights[:, D : 2 * D], h @ weights[:, 2 * D :] + 2 * bias]


def _turned(x, weights):
    q, k, v = _parts(x, weights)
    return k, q, v


def _by_head(x, weights):
    qkv = (_norm(x) @ weights).reshape(B, T, H, 3, K)
    return [qkv[:, :, :, i] for i in range(3)]


def _overlapping(x, weights):
    qkv = _norm(x) @ weights
    return [qkv[..., start : start + D] for start in (0, D // 2, D)]


def _in_turn(x, weights):
    h = _norm(x)
    q = h @ weights[:, :D]
    k = h @ (weights[:, D : 2 * D] * q.mean())
    return q, k, h @ weights[:, 2 * D :]


PROJECTIONS = {
    "split": (_parts, ["rms norm + dense"], True),
    "apart": (_apart, ["rms norm + dense x 3"], False),  # numbers are added to what they compute
    "an axis of three": (_by_axis, ["rms norm + dense"], True),
    "biases of some": (_biased, ["rms norm + dense x 3"], True),
    "in another order": (_turned, ["rms norm + dense"], False),
    "an axis of three within heads": (_by_head, ["rms norm + dense"], False),
    "overlapping": (_overlapping, ["rms norm + dense"], False),
    "weights of one by another": (_in_turn, ["rms norm", "dense", "dense", "dense"], False),
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projections_are_merged_and_attention_reads_them_packed_where_they_are(name):
    projections, words, is_packed = PROJECTIONS[name]

    def block(x, weights):
        return x + _attention(*projections(x, weights))

    fast = optimize(block, verify=False)
    sites = fast.plan(X, QKV).all_sites
    assert sorted(site.words for site in sites) == sorted([*words, "attention, causal"])
    (attention,) = [site for site in sites if site.op == "attention"]
    assert attention.names == (("qkv",) if is_packed else ("q", "k", "v"))
    assert fast.check(X, QKV).gradient < 2e-5  # sums in another order
    rounded = optimize(block, verify=False, precision="bfloat16")
    assert 2e-5 < rounded.check(X, QKV).gradient < 0.03  # a few roundings of 2^-9


def test_packed_attention_has_its_mask_of_padding():
    seen = jnp.arange(T) < jnp.array([[T], [T - 2]])

    def block(x, weights, seen):
        q, k, v = (part.reshape(B, T, H, K) for part in _parts(x, weights))
        mask = CAUSAL & seen[:, None, None, :] & seen[:, None, :, None]
        return jax.nn.dot_product_attention(q, k, v, mask=mask)

    fast = optimize(block, verify=False)
    (attention,) = [site for site in fast.plan(X, QKV, seen).all_sites if site.op == "attention"]
    assert attention.names == ("qkv", "hiding.0", "hiding.1")
    assert fast.check(X, QKV, seen).gradient < 2e-5  # sums in another order


def test_few_rows_are_not_worth_joining_weights():
    def heads(x, left, right):
        return x @ left, x @ right

    for rows, words in ((D + 1, ["dense x 2"]), (D, ["dense", "dense"])):
        operands = _normal(rows, D), _normal(D, 4), _normal(D, 6)
        assert [site.words for site in optimize(heads, verify=False).plan(*operands).all_sites] == words
        assert optimize(heads, verify=False).check(*operands).gradient < 2e-5


def test_gradients_of_a_residual_path_meet_in_the_norm_before_it():
    def block(x, w):
        return x + jnp.tanh(_norm(x) @ w)

    def alone(x, w):
        return jnp.tanh(_norm(x) @ w)

    def before(x, w):
        y = jnp.sin(x)
        return y + jnp.tanh(_norm(x) @ w)

    w = _normal(D, D)
    for function, passes in ((block, True), (alone, False), (before, False)):
        fast = optimize(function, verify=False)
        assert [site.passes for site in fast.plan(X, w).all_sites] == [passes]
        assert fast.check(X, w).gradient < 2e-5


def test_a_norm_and_an_mlp_are_one_op_where_nothing_else_reads_what_lies_between():
    def block(x, g, up, down, bias, *, reads):
        h = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * g
        hidden = jax.nn.gelu(h @ up + bias)
        y = x + hidden @ down
        return y + {"nothing": 0.0, "norm": h, "hidden": hidden[..., :D]}[reads]

    operands = _normal(B, T, D), _normal(1, D)[0], _normal(D, F), _normal(F, D), _normal(1, F)[0]
    expected = {
        "nothing": ["layer norm + mlp, gelu + residual"],
        "norm": ["layer norm", "mlp, gelu + residual"],
        "hidden": ["layer norm + dense + gelu", "dense + residual"],
    }
    for reads, words in expected.items():
        fast = optimize(functools.partial(block, reads=reads), verify=False)
        assert [site.words for site in fast.plan(*operands).all_sites] == words
        assert fast.check(*operands).gradient < 2e-5  # two sums in another order
        rounded = optimize(functools.partial(block, reads=reads), verify=False, precision="bfloat16")
        assert 2e-5 < rounded.check(*operands).gradient < 0.03  # a few roundings of 2^-9
