"""One step of AdamW against the definition in float64, and against optax."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ryot_jax.kernels import adamw, cpu
from tests.kernels.ops import base

IMPLEMENTATIONS = base.names("optimizer")
SIZES = {"odd": (3, 7), "vector": (5,), "scalar": (), "empty": (0, 4), "chunks": (2, 17_000)}
SETTING = {"learning_rate": 0.01, "b1": 0.9, "b2": 0.95, "weight_decay": 0.1}
# A step is the rate times a quotient of a few rounded numbers, each 6e-8 off; that of a square root of v counts half.
TOLERANCE = 5e-7


def trees(seed=0, sizes=SIZES):
    """Parameters, gradients and moments as they are in the midst of training."""
    rng = np.random.default_rng(seed)

    def draw(transform=lambda x: x):
        return {name: jnp.asarray(transform(rng.normal(size=shape)), jnp.float32) for name, shape in sizes.items()}

    return draw(), draw(), draw(lambda x: 0.1 * x), draw(lambda x: np.square(0.1 * x))


def definition(params, grads, firsts, seconds, *, count, learning_rate, b1, b2, weight_decay, clip_norm=0.0, scale=1.0):
    params, grads, firsts, seconds = jax.tree.map(lambda x: np.asarray(x, np.float64), (params, grads, firsts, seconds))
    grads = {name: scale * g for name, g in grads.items()}
    norm = np.sqrt(sum(np.square(g).sum() for g in grads.values()))
    if clip_norm and norm >= clip_norm:
        grads = {name: g / norm * clip_norm for name, g in grads.items()}
    t, new = count + 1, ({}, {}, {})
    for name, g in grads.items():
        m, v = b1 * firsts[name] + (1 - b1) * g, b2 * seconds[name] + (1 - b2) * g**2
        update = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
        decay = weight_decay[name] if isinstance(weight_decay, dict) else weight_decay
        for tree, array in zip(
            new, (params[name] - learning_rate * (update + decay * params[name]), m, v), strict=True
        ):
            tree[name] = array
    return (*new, norm)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("clip_norm", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("count", [0, 41])
def test_a_step_matches_float64(implementation, clip_norm, count):
    operands = trees()
    decays = {name: 0.1 * i for i, name in enumerate(SIZES)}
    setting = SETTING | {"weight_decay": decays}
    found = jax.jit(
        lambda *trees: adamw(
            *trees, count=count, clip_norm=clip_norm, gradient_scale=0.3, implementation=implementation, **setting
        )
    )(*operands)
    expected = definition(*operands, count=count, clip_norm=clip_norm, scale=0.3, **setting)
    assert expected[-1] > 1.0  # so that the three limits do three different things
    chex.assert_trees_all_close(tuple(found), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_ten_steps_are_those_of_optax(implementation):
    params = trees()[0]
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.01, b1=0.9, b2=0.95, weight_decay=0.1))
    state, ours = optimizer.init(params), (params, *jax.tree.map(jnp.zeros_like, (params, params)))

    @jax.jit
    def step(count, grads, p, m, v):
        return adamw(p, grads, m, v, count=count, clip_norm=1.0, implementation=implementation, **SETTING)[:3]

    for count in range(10):
        grads = trees(seed=count)[1]
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        ours = step(count, grads, *ours)
    chex.assert_trees_all_close(ours[0], params, rtol=10 * TOLERANCE, atol=10 * TOLERANCE)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_is_not_finite_stays_visible(implementation):
    params, grads, m, v = trees()
    grads["vector"] = grads["vector"].at[2].set(jnp.nan)
    found = adamw(params, grads, m, v, count=0, clip_norm=1.0, implementation=implementation, **SETTING)
    assert np.isnan(found.grad_norm)
    assert np.isnan(found.params["odd"]).all()  # clipped by a norm that is NaN, as with optax
    found = adamw(params, grads, m, v, count=0, implementation=implementation, **SETTING)
    assert np.isnan(found.params["vector"][2])
    chex.assert_tree_all_finite(found.params["odd"])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_donated_arrays_are_taken_over_and_others_left_alone(implementation):
    operands = trees()
    before = jax.tree.map(np.array, operands)

    def step(*trees):
        return adamw(*trees, count=3, implementation=implementation, **SETTING)[:3]

    kept = jax.jit(step)(*operands)
    chex.assert_trees_all_equal(operands, before)
    donating = jax.jit(step, donate_argnums=(0, 2, 3)).lower(*operands).compile()
    donated = sum(x.nbytes for tree in (operands[0], *operands[2:]) for x in jax.tree.leaves(tree))
    assert donating.memory_analysis().alias_size_in_bytes >= donated
    chex.assert_trees_all_equal(donating(*operands), kept)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_works_in_a_scan_and_under_vmap(implementation):
    params, grads, m, v = trees(sizes={"a": (3, 5), "b": (4,)})

    def step(*trees):
        return adamw(*trees, count=1, clip_norm=1.0, implementation=implementation, **SETTING)[:3]

    one, two = step(params, grads, m, v), step(params, jax.tree.map(jnp.negative, grads), m, v)
    both = jax.tree.map(lambda g: jnp.stack([g, -g]), grads)
    mapped = jax.jit(jax.vmap(step, in_axes=(None, 0, None, None)))(params, both, m, v)
    chex.assert_trees_all_close(mapped, jax.tree.map(lambda x, y: jnp.stack([x, y]), one, two), rtol=1e-6, atol=1e-7)
    scanned = jax.jit(lambda state: jax.lax.scan(lambda s, g: (step(s[0], g, *s[1:]), None), state, both)[0])
    expected = step(one[0], jax.tree.map(jnp.negative, grads), *one[1:])
    chex.assert_trees_all_close(scanned((params, m, v)), expected, rtol=1e-6, atol=1e-7)


def test_what_does_not_fit_is_refused():
    params, grads, m, v = trees(sizes={"a": (3,), "b": (2,)})
    with pytest.raises(ValueError, match="grads is no tree of the shapes of params"):
        adamw(params, {"a": grads["a"]}, m, v, count=0, **SETTING)
    with pytest.raises(ValueError, match="second_moment is no tree"):
        adamw(params, grads, m, {**v, "b": jnp.zeros(3)}, count=0, **SETTING)
    with pytest.raises(ValueError, match="'fast' is not one of"):
        adamw(params, grads, m, v, count=0, implementation="fast", **SETTING)


@pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="no C++ kernels")
def test_other_dtypes_than_float32_are_refused_by_the_kernel():
    operands = jax.tree.map(lambda x: x.astype(jnp.float16), trees(sizes={"a": (3,)}))
    with pytest.raises(TypeError, match="takes float32"):
        adamw(*operands, count=0, implementation="cpu", **SETTING)
