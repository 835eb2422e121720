"""What is almost an op's is left as it is, or computed right; what may be there for a reason is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.lib.spellings import CAUSAL, TARGETS, B, D, F, H, K, T, V
from ryot_jax.kernels import cpu
from ryot_jax.rewriting import optimize

pytestmark = [
    pytest.mark.usefixtures("file_compiled_quickly"),
    pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels to put in"),
]
RNG = np.random.default_rng(0)
X, G, W, TABLE = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((B, T, D), (D,), (D, F), (V, D)))
Q = jnp.asarray(RNG.normal(size=(B, T, H, K)), jnp.float32)


def _mean(x):
    return jnp.mean(x, -1, keepdims=True)


def _scores(q):
    return jnp.einsum("bthk,bshk->bhts", q, q) / 2


def _values(weights, q):
    return jnp.einsum("bhts,bshk->bthk", weights, q)


def _norm(x, variance):
    return (x - _mean(x)) * jax.lax.rsqrt(variance + 1e-5) * G


@jax.custom_jvp
def _straight(x):
    return 0.5 * x * (1 + jnp.tanh(jnp.sqrt(2 / jnp.pi) * (x + 0.044715 * x**3)))


_straight.defjvp(lambda primals, tangents: (_straight(*primals), tangents[0]))


@jax.custom_vjp
def _own_gradient(x):
    return x @ W


_own_gradient.defvjp(lambda x: (x @ W, None), lambda _, dy: (7 * dy @ W.T,))

MISSES = {
    "norm: epsilon outside the root": (lambda x: (x - _mean(x)) / (jnp.std(x, -1, keepdims=True) + 1e-5) * G, X),
    "norm: over another axis": (
        lambda x: (x - x.mean(1, keepdims=True)) * jax.lax.rsqrt(x.var(1, keepdims=True) + 1e-5),
        X,
    ),
    "norm: variance of another array": (lambda x: _norm(x, jnp.var(jnp.tanh(x), -1, keepdims=True)), X),
    "norm: unbiased variance": (lambda x: _norm(x, jnp.var(x, -1, keepdims=True, ddof=1)), X),
    "norm: epsilon subtracted": (lambda x: (x - _mean(x)) * jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) - 1e-9), X),
    "norm: no gradient through the mean": (
        lambda x: (
            _norm(x - jax.lax.stop_gradient(_mean(x)) + _mean(x), jnp.var(x, -1, keepdims=True))
            + (x - jax.lax.stop_gradient(_mean(x))) * jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-5)
        ),
        X,
    ),
    "attention: softmax over queries": (lambda q: _values(jax.nn.softmax(_scores(q), axis=2), q), Q),
    "attention: softmax over heads": (lambda q: _values(jax.nn.softmax(_scores(q), axis=1), q), Q),
    "attention: causal but for one entry": (
        lambda q: _values(jax.nn.softmax(jnp.where(CAUSAL.at[3, 4].set(True), _scores(q), -1e30)), q),
        Q,
    ),
    "attention: every key hidden": (  # found by the programs drawn at random
        lambda q: _values(jax.nn.softmax(_scores(q) - 1e10 * (1.0 + CAUSAL.astype(jnp.float32))), q),
        Q,
    ),
    "attention: fill of -100": (lambda q: _values(jax.nn.softmax(jnp.where(CAUSAL, _scores(q), -100.0)), q), Q),
    "attention: summand of -10": (lambda q: _values(jax.nn.softmax(_scores(q) + jnp.where(CAUSAL, 0.0, -10.0)), q), Q),
    "attention: mask after the softmax": (lambda q: _values(jnp.where(CAUSAL, jax.nn.softmax(_scores(q)), 0.0), q), Q),
    "attention: dropped weights": (
        lambda q: _values(
            jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, (B, H, T, T)), jax.nn.softmax(_scores(q)), 0), q
        ),
        Q,
    ),
    "attention: weights that are returned": (
        lambda q: (_values(jax.nn.softmax(_scores(q)), q), jax.nn.softmax(_scores(q))),
        Q,
    ),
    "attention: soft cap": (lambda q: _values(jax.nn.softmax(5 * jnp.tanh(_scores(q) / 5)), q), Q),
    "attention: upside down": (lambda q: _values(jax.nn.softmax(jnp.where(CAUSAL.T, _scores(q), -1e30)), q), Q),
    "attention: two temperatures": (
        lambda q: _values(jnp.exp(_scores(q)) / jnp.exp(_scores(q) * 1.1).sum(-1, keepdims=True), q),
        Q,
    ),
}


@pytest.mark.parametrize("name", MISSES)
def test_a_near_miss_is_left_alone(name):
    function, operand = MISSES[name]
    op = name.partition(":")[0]
    fast = optimize(function, verify=False)
    assert op not in [site.op for site in fast.plan(operand).all_sites]
    fast.check(operand)


def test_an_activation_with_another_constant_is_no_gelu():
    def almost(x):
        h = x @ W
        return 0.5 * h * (1 + jnp.tanh(jnp.sqrt(2 / jnp.pi) * (h + 0.0447 * h**3)))

    fast = optimize(almost, verify=False)
    assert [site.words for site in fast.plan(X).all_sites] == ["dense"]
    fast.check(X)


def test_a_derivative_of_the_caller_s_own_is_kept():
    for function in (lambda x: _straight(x @ W), lambda x: _own_gradient(x), lambda x: _own_gradient(x) @ W.T):
        fast = optimize(function, verify=False)
        assert "dense + gelu" not in [site.words for site in fast.plan(X).all_sites]
        fast.check(X)


def test_logits_that_are_used_twice_are_computed_once():
    def loss(x):
        logits = x @ TABLE.T
        return optax.softmax_cross_entropy_with_integer_labels(logits, TARGETS).mean(), logits.argmax(-1)

    fast = optimize(loss, verify=False)
    plan = fast.plan(X)
    assert [site.op for site in plan.all_sites] == ["dense"]
    assert "used elsewhere" in str(fast.explain(X))
    fast.check(X)


def _losses(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, TARGETS)


def _squares(logits):
    return jax.nn.logsumexp(logits, axis=-1) ** 2


ALMOST_LOSSES = {
    "smoothed codes, of which something is left where a target is no class": lambda x: optax.softmax_cross_entropy(
        x @ TABLE.T, optax.smooth_labels(jax.nn.one_hot(TARGETS, V), 0.1)
    ).mean(),
    "a cap of two numbers": lambda x: _losses(3.0 * jnp.tanh(x @ TABLE.T / 2.0)).mean(),
    "a cap below zero": lambda x: _losses(-3.0 * jnp.tanh(x @ TABLE.T / 3.0)).mean(),
    "a summand for each row": lambda x: _losses(x @ TABLE.T + x[..., :1]).mean(),
    "squares of other logits": lambda x: jnp.mean(_losses(x @ TABLE.T) + 1e-2 * _squares(2 * (x @ TABLE.T))),
    "squares of other rows": lambda x: jnp.mean(_losses(x @ TABLE.T) + 1e-2 * _squares((x @ TABLE.T)[:, ::-1])),
    "more than the whole of a probability": lambda x: jnp.mean(
        -1.2 * jnp.take_along_axis(jax.nn.log_softmax(x @ TABLE.T), TARGETS[..., None], -1)[..., 0]
        + 0.1 * jax.nn.log_softmax(x @ TABLE.T).mean(-1)
    ),
}


@pytest.mark.parametrize("name", ALMOST_LOSSES)
def test_what_is_almost_a_loss_of_the_op_is_computed_as_it_is_written(name):
    fast = optimize(ALMOST_LOSSES[name], verify=False)
    assert "linear_cross_entropy" not in [site.op for site in fast.plan(X).all_sites]
    fast.check(X)


def test_weights_of_a_loss_that_are_not_one_in_all_are_a_factor():
    def loss(x):
        logs = jax.nn.log_softmax(x @ TABLE.T)
        return jnp.mean(-1.5 * jnp.take_along_axis(logs, TARGETS[..., None], -1)[..., 0] - 0.5 * logs.mean(-1))

    fast = optimize(loss, verify=False)
    assert [site.words for site in fast.plan(X).all_sites] == ["projection + cross-entropy + label smoothing"]
    assert fast.check(X).gradient < 2e-5  # sums in another order


INDICES = jnp.array([[0, 3, -1], [V, -V - 1, 10**6]])
LOOK_UPS = {
    "filled": lambda table: jnp.take(table, INDICES, axis=0),
    "clipped": lambda table: jnp.take(table, INDICES, axis=0, mode="clip"),
    "wrapped": lambda table: jnp.take(table, INDICES, axis=0, mode="wrap"),
    "promised": lambda table: table[INDICES],  # found by the programs drawn at random
    "promised, with positions": lambda table: table[INDICES] + table[: INDICES.shape[1]],
    "small integers": lambda table: table[jnp.array([1, 200, 3], jnp.uint8) % V],
}


@pytest.mark.parametrize("name", LOOK_UPS)
def test_indices_beyond_a_table_are_what_the_look_up_makes_of_them(name):
    fast = optimize(LOOK_UPS[name], verify=False)
    assert [site.op for site in fast.plan(TABLE).all_sites] == ["embedding"]
    np.testing.assert_array_equal(fast(TABLE), LOOK_UPS[name](TABLE))
    found, expected = (
        jax.grad(lambda table, f=f: jnp.nansum(jnp.sin(f(table))))(TABLE) for f in (fast, LOOK_UPS[name])
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # gradients of one row in another order


@pytest.mark.parametrize(
    "look_up",
    [
        lambda table: jnp.take(table, jnp.array([0, 3]), axis=1),
        lambda table: jnp.take(table, INDICES, axis=0, mode="fill", fill_value=7.0),
        lambda table: table.reshape(V, 2, D // 2)[jnp.array([0, 3])],
        lambda table: table[jnp.array([0, 3]), jnp.array([1, 2])],
        lambda table: jax.vmap(lambda row, i: row[i])(table[:2], jnp.array([0, 3])),
    ],
)
def test_other_look_ups_are_left(look_up):
    fast = optimize(look_up, verify=False)
    assert not fast.plan(TABLE).all_sites
    np.testing.assert_array_equal(fast(TABLE), look_up(TABLE))


@pytest.mark.parametrize("targets", [[-1, 0], [-11, 10], [-12, 3], [11, 3], [100, -100]])
def test_targets_beyond_the_classes_are_what_indexing_makes_of_them(targets):
    targets = jnp.array(targets)
    x = X[0, :2]

    def integers(x):
        return optax.softmax_cross_entropy_with_integer_labels(x @ TABLE.T, targets)

    def codes(x):
        return -jnp.sum(jax.nn.one_hot(targets, V) * jax.nn.log_softmax(x @ TABLE.T), -1)

    for function in (integers, codes):
        fast = optimize(function, verify=False)
        assert [site.op for site in fast.plan(x).all_sites] == ["linear_cross_entropy"]
        np.testing.assert_allclose(fast(x), function(x), rtol=1e-5)


@pytest.mark.parametrize("fill", [-jnp.inf, float(jnp.finfo(jnp.float32).min), -1e10])
@pytest.mark.parametrize("causal", [False, True])
def test_a_query_that_sees_no_key_gets_what_a_softmax_over_fill_values_gives(fill, causal):
    seen = jnp.array([[True, False, True, True, True, False], [False] * 6])  # the second sequence is all padding
    seen = seen.at[0, 0].set(False) if causal else seen

    def of_argument(q, seen):
        mask = seen[:, None, None] & CAUSAL if causal else seen[:, None, None]
        return _values(jax.nn.softmax(jnp.where(mask, _scores(q), fill)), q)

    fast = optimize(of_argument, verify=False)
    assert [site.op for site in fast.plan(Q, seen).all_sites] == ["attention"]
    np.testing.assert_allclose(fast(Q, seen), of_argument(Q, seen), rtol=1e-5, atol=1e-6)
    if fill > -jnp.inf:
        fast.check(Q, seen)


def test_other_dtypes_are_left_alone_with_the_reason():
    with jax.enable_x64(True):
        wide = X.astype(jnp.float64)
        fast = optimize(lambda x: x @ W.astype(x.dtype), verify=False)
        assert not fast.plan(wide).all_sites
        assert "float64" in str(fast.explain(wide))
    whole = jnp.ones((3, 4), jnp.int32)
    assert not optimize(lambda x: x @ x.T, verify=False).plan(whole).all_sites
    assert not optimize(lambda x: x @ x.T, verify=False).plan(whole * 1j).all_sites
