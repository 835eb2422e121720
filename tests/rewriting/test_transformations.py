"""An optimized function under every transformation of JAX, and what it says of itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.lib.spellings import CAUSAL, TARGETS, B, D, F, H, K, T, V
from ryot_jax.kernels import cpu
from ryot_jax.rewriting import api, optimize
from ryot_jax.rewriting.check import MismatchError
from ryot_jax.rewriting.sites import Site
from ryot_jax.runtime.errors import ConfigError

pytestmark = [
    pytest.mark.usefixtures("file_compiled_quickly"),
    pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels to put in"),
]
LAYERS = 3
RNG = np.random.default_rng(1)


def _normal(*shape):
    return jnp.asarray(RNG.normal(size=shape) / shape[-2] ** 0.5, jnp.float32)


PARAMS = {
    "embedding": _normal(V, D),
    "layers": {
        "scale": _normal(LAYERS, 1, D)[:, 0],
        "qkv": _normal(LAYERS, D, 3 * D),
        "out": _normal(LAYERS, D, D),
        "up": _normal(LAYERS, D, F),
        "down": _normal(LAYERS, F, D),
    },
}
TOKENS = jnp.asarray(RNG.integers(0, V, (B, T)))


def _layer(x, layer):
    h = x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * layer["scale"]
    q, k, v = (part.reshape(*part.shape[:-1], H, K) for part in jnp.split(h @ layer["qkv"], 3, -1))
    scores = jnp.where(CAUSAL, jnp.einsum("...thk,...shk->...hts", q, k) / 2, -1e30)
    x = x + jnp.einsum("...hts,...shk->...thk", jax.nn.softmax(scores), v).reshape(x.shape) @ layer["out"]
    return x + jax.nn.gelu(x @ layer["up"]) @ layer["down"]


def _loss(params, tokens, layers):
    x = layers(params["embedding"][tokens], params["layers"])
    logits = x @ params["embedding"].T
    return optax.softmax_cross_entropy_with_integer_labels(logits, TARGETS[: x.shape[0]]).mean()


def _unrolled(layer, x, layers):
    for i in range(LAYERS):
        x = layer(x, jax.tree.map(lambda leaf, i=i: leaf[i], layers))
    return x


def _scanned(layer, x, layers):
    return jax.lax.scan(lambda x, weights: (layer(x, weights), None), x, layers)[0]


def _looped(layer, x, layers):
    def body(i, x):
        return layer(x, jax.tree.map(lambda leaf: leaf[i], layers))

    return jax.lax.fori_loop(0, LAYERS, body, x)


def _conditional(layer, x, layers):
    return jax.lax.cond(x.sum() > 1e9, lambda x: x, lambda x: _unrolled(layer, x, layers), x)


WAYS = {
    "unrolled": functools.partial(_unrolled, _layer),
    "scan": functools.partial(_scanned, _layer),
    "fori": functools.partial(_looped, _layer),
    "cond": functools.partial(_conditional, _layer),
    "remat": functools.partial(_unrolled, jax.checkpoint(_layer)),
    "scan of remat": functools.partial(_scanned, jax.checkpoint(_layer)),
    "jit": functools.partial(_unrolled, jax.jit(_layer)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_op_is_found_within_control_flow(way):
    loss = functools.partial(_loss, layers=WAYS[way])
    fast = optimize(loss, verify=False)
    counts = {}
    for site in fast.plan(PARAMS, TOKENS).all_sites:
        counts[site.words] = counts.get(site.words, 0) + 1
    times = LAYERS if way in ("unrolled", "cond", "remat", "jit") else 1
    expected = {"rms norm + dense": times, "attention, causal": times, "dense + residual": times}
    assert counts == expected | {"mlp, gelu + residual": times, "projection + cross-entropy": 1, "embedding": 1}
    explanation = fast.explain(PARAMS, TOKENS)
    assert explanation.share == 1.0 and 0.5 < explanation.bytes_share < 1.0
    runs = sum(count for count, what, *_ in explanation.taken if what == "attention, causal")
    assert runs == LAYERS
    found = fast.check(PARAMS, TOKENS)
    assert found.gradient < 1e-4  # three layers of sums in another order


def test_it_is_jitted_differentiated_mapped_scanned_and_checkpointed():
    loss = functools.partial(_loss, layers=WAYS["unrolled"])
    fast = optimize(loss)
    expected = jax.grad(loss)(PARAMS, TOKENS)

    def scanned(params):
        return jax.lax.scan(lambda total, row: (total + fast(params, row), None), 0.0, TOKENS[None])[0]

    for function in (
        fast,
        jax.jit(fast),
        jax.checkpoint(fast),
        lambda p, t: scanned(p),
        lambda p, t: jax.vmap(fast, in_axes=(None, 0))(p, t[None])[0],
    ):
        found = jax.grad(function)(PARAMS, TOKENS)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), found, expected)


def test_arguments_that_are_no_arrays_are_constants():
    def loss(x, w, *, activation, sign, name=None):
        return sign * activation(x @ w).sum() if name is None else 0.0

    x, w = _normal(T, D), _normal(D, F)
    fast = optimize(loss)
    np.testing.assert_allclose(
        fast(x, w, activation=jax.nn.gelu, sign=-1), loss(x, w, activation=jax.nn.gelu, sign=-1), rtol=1e-5
    )
    assert fast(x, w, activation=jax.nn.gelu, sign=1, name="none") == 0.0
    assert [site.words for site in fast.plan(x, w, activation=jax.nn.gelu, sign=1).all_sites] == ["dense + gelu"]


_ON_TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from ryot_jax import optimize

rng = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
params, x = {"table": draw(11, 8), "up": draw(8, 12), "down": draw(12, 8)}, jnp.arange(24).reshape(4, 6) % 11
mesh = Mesh(np.array(jax.devices()), ("data",))

def loss(params, tokens):
    x = params["table"][tokens]
    x = x + jax.nn.gelu(jax.nn.standardize(x) @ params["up"]) @ params["down"]
    logs = jax.nn.log_softmax(x @ params["table"].T)
    return -jnp.take_along_axis(logs, tokens[..., None], -1).mean()

def mapped(function):
    def mean(*args):
        return jax.lax.pmean(function(*args), "data")
    return jax.shard_map(mean, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())

expected = jax.jit(jax.value_and_grad(mapped(loss)))(params, x)
fast = optimize(mapped(loss))
print(fast.explain(params, x).share, len(fast.plan(params, x).all_sites))
for function in (mapped(optimize(loss)), fast):
    found = jax.jit(jax.value_and_grad(function))(params, x)
    for a, b in zip(*map(jax.tree.leaves, (found, expected))):
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)  # sums in another order
    assert any(bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (found, expected)))), "the same program"
"""


def test_it_works_within_shard_map_and_around_it(run_python):
    done = run_python("-c", _ON_TWO_DEVICES, devices=2)
    assert done.stdout.split() == ["1.0", "3"]  # the embedding, norm and MLP as one, and the loss


def test_bfloat16_is_asked_for_and_has_its_own_tolerance():
    loss = functools.partial(_loss, layers=WAYS["unrolled"])
    exact, rounded = optimize(loss).check(PARAMS, TOKENS), optimize(loss, precision="bfloat16").check(PARAMS, TOKENS)
    assert exact.gradient < 1e-4 < rounded.gradient < 0.1 == rounded.tolerance
    assert jax.tree.leaves(jax.grad(optimize(loss, precision="bfloat16"))(PARAMS, TOKENS))[0].dtype == jnp.float32


def test_only_and_without_choose_ops_and_unknown_names_are_told():
    loss = functools.partial(_loss, layers=WAYS["unrolled"])

    def ops(**options):
        return {site.op for site in optimize(loss, **options).plan(PARAMS, TOKENS).all_sites}

    assert ops() == {
        "embedding",
        "dense",
        "attention",
        "linear_cross_entropy",
    }  # the norm is part of the layer after it
    assert ops(only=["norm"]) == {"norm"}
    assert ops(without=["attention", "linear_cross_entropy", "embedding"]) == {"dense"}
    for options in ({"only": ["norms"]}, {"without": ["x"]}, {"implementations": {"x": "cpu"}}, {"precision": "int8"}):
        with pytest.raises(ConfigError, match=r"norms|'x'|int8"):
            optimize(loss, **options)
    with pytest.raises(ConfigError, match=r"implementations\['norm'\] = 'gpu'"):
        optimize(loss, implementations={"norm": "gpu"})


def test_a_function_with_gradients_is_told_to_be_given_before_them():
    step = jax.value_and_grad(functools.partial(_loss, layers=WAYS["unrolled"]))
    assert "before differentiation" in str(optimize(step).explain(PARAMS, TOKENS))


@pytest.mark.parametrize(
    ("words", "op"),
    [("attention, causal", "attention"), ("rms norm + dense", "dense"), ("mlp, gelu + residual", "dense")],
)
def test_the_place_of_a_difference_is_found_and_named(monkeypatch, words, op):
    loss = functools.partial(_loss, layers=WAYS["unrolled"])
    right = api.Chooser.run

    def wrong(self, site: Site, arrays):
        root, *passed = right(self, site, arrays)
        return (root * 1.01 if site.words == words else root, *passed)

    monkeypatch.setattr(api.Chooser, "run", wrong)
    with pytest.raises(
        MismatchError,
        match=rf"because of {words.replace('+', '.')} at .*test_transformations.py:\d+; .*without=\['{op}'\]",
    ):
        optimize(loss)(PARAMS, TOKENS)
    optimize(loss, verify=False)(PARAMS, TOKENS)
    optimize(loss, without=[op])(PARAMS, TOKENS)


def test_an_explanation_of_many_layers_is_one_screen():
    def deep(params, tokens):
        return _loss(
            params, tokens, lambda x, layers: functools.reduce(lambda x, _: _unrolled(_layer, x, layers), range(4), x)
        )

    text = str(optimize(deep).explain(PARAMS, TOKENS))
    assert len(text.splitlines()) < 24 and "12 x" in text and "test_transformations.py:" in text
