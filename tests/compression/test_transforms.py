"""What holds for every transform and every kind of compressed array, and how transforms compose."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.compression.binary import Binary, binary
from ryot_jax.compression.compressed import decode, is_compressed, memory_bits, named_leaves
from ryot_jax.compression.lowrank import LowRank, lowrank
from ryot_jax.compression.nested import Nested, matryoshka
from ryot_jax.compression.quantize import quantize
from ryot_jax.compression.quantized import Quantized
from ryot_jax.compression.sparse import Sparse, prune
from ryot_jax.compression.transforms import Sum, by_path, chain, identity, residual

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")

TRANSFORMS = {
    "quantize": quantize(3),
    "quantize in groups": quantize(4, group=5),
    "matryoshka": matryoshka((2, 4)),
    "lowrank": lowrank(2),
    "prune groups": prune(n=2, m=4),
    "prune rows": prune(top_k=3),
    "binary": binary(),
    "lowrank, quantize": chain(lowrank(2), quantize(4)),
    "lowrank, matryoshka": chain(lowrank(2), matryoshka((2, 4))),
    "lowrank, prune": chain(lowrank(4), prune(n=2, m=4)),
    "prune, quantize": chain(prune(n=2, m=4), quantize(4)),
    "prune, residual": chain(prune(n=2, m=4), residual(quantize(2), quantize(3))),
    "residual": residual(quantize(2), lowrank(2)),
}
SHAPES = [(13, 9), (2, 3, 11)]
# w + (c - w) in float32 is c up to the roundings of a difference and a sum, of numbers below 8: 8 * 2^-24 each.
STRAIGHT_THROUGH = 1e-6

every_transform = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def norm(x):
    return float(np.linalg.norm(np.asarray(x, np.float64)))


@every_transform
@every_shape
def test_an_array_becomes_one_that_stands_for_it(transform, shape):
    w = normal(*shape)
    compressed = transform({"w": w})["w"]
    assert is_compressed(compressed)
    assert compressed.shape == shape
    assert compressed.size == w.size
    decoded = compressed.decode()
    chex.assert_shape(decoded, shape)
    assert decoded.dtype == jnp.float32
    assert norm(decoded - w) < norm(w)  # nothing at all would be as good as zeros
    chex.assert_trees_all_equal(compressed.decode(jnp.bfloat16), decoded.astype(jnp.bfloat16))


@every_transform
@every_shape
def test_decoding_gives_the_same_bits_in_a_compiled_program(transform, shape):
    compressed = transform({"w": normal(*shape)})["w"]
    chex.assert_trees_all_equal(jax.jit(lambda c: c.decode())(compressed), compressed.decode())


@every_transform
@every_shape
def test_take_gives_the_rows_that_decoding_gives(transform, shape):
    compressed = transform({"w": normal(*shape)})["w"]
    decoded = compressed.decode()
    # Sums over a rank of up to 4 may be taken in another order: a rounding of numbers below 8 each.
    tolerance = 4 * 8 * 2.0**-24 if any(isinstance(x, LowRank) for x in _kinds(compressed)) else 0.0
    for ids in (1, [[shape[0] - 1, 0, 1], [1, -1, 0]]):
        ids = jnp.asarray(ids, jnp.int32)
        rows = compressed.take(ids)
        chex.assert_shape(rows, ids.shape + shape[1:])
        chex.assert_trees_all_close(rows, decoded[ids], rtol=0, atol=tolerance)
        chex.assert_trees_all_close(jax.jit(lambda c, i: c.take(i))(compressed, ids), rows, rtol=0, atol=tolerance)
    chex.assert_trees_all_equal(compressed.take(ids, jnp.bfloat16), rows.astype(jnp.bfloat16))


def _kinds(compressed):
    """A compressed array and those within it."""
    if not is_compressed(compressed):
        return []
    children = jax.tree.leaves(vars(compressed), is_leaf=is_compressed)
    return [compressed, *(kind for child in children for kind in _kinds(child))]


@every_transform
def test_vectors_scalars_and_what_is_not_floating_stay_as_they_are(transform):
    params = {
        "w": normal(13, 9),
        "vector": normal(7),
        "scalar": jnp.float32(3.0),
        "ids": jnp.arange(12).reshape(3, 4),
        "flags": jnp.ones((4, 5), bool),
    }
    compressed = transform(params)
    assert is_compressed(compressed.pop("w"))
    del params["w"]
    chex.assert_trees_all_equal(compressed, params)


@every_transform
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 1, 3)], ids=str)
def test_tiny_arrays(transform, shape):
    w = normal(*shape)
    decoded = decode(transform({"w": w}))["w"]
    chex.assert_shape(decoded, shape)
    chex.assert_tree_all_finite(decoded)


@every_transform
def test_zeros_stay_next_to_zero(transform):
    decoded = decode(transform({"w": jnp.zeros((13, 9)).at[3].set(1.0)}))["w"]
    chex.assert_tree_all_finite(decoded)
    # Grids without a zero have a smallest step instead; factors of rank one or more are exact but for roundings.
    chex.assert_trees_all_close(decoded[:3], jnp.zeros((3, 9)), rtol=0, atol=1e-6)


@every_transform
@every_shape
def test_fake_at_full_strength_is_what_is_applied(transform, shape):
    params = {"w": normal(*shape), "b": normal(5)}
    state = transform.init(params, None)
    felt = jax.jit(lambda p, s, a: transform.fake(p, s, a))(params, state, 1.0)
    applied = decode(transform.apply(params, state))
    assert norm(applied["w"] - params["w"]) > 1e-3 * norm(params["w"])
    chex.assert_trees_all_close(felt, applied, rtol=0, atol=STRAIGHT_THROUGH)


@every_transform
def test_fake_at_no_strength_is_nothing_and_between_it_is_between(transform):
    params = {"w": normal(13, 9)}
    state = transform.init(params, None)
    chex.assert_trees_all_equal(transform.fake(params, state, 0.0), params)
    applied = decode(transform.apply(params, state))
    halfway = jax.tree.map(lambda w, c: (w + c) / 2, params, applied)
    chex.assert_trees_all_close(transform.fake(params, state, 0.5), halfway, rtol=0, atol=STRAIGHT_THROUGH)


@every_transform
def test_the_gradient_of_fake_is_that_of_the_identity(transform):
    params, cotangent = {"w": normal(13, 9), "b": normal(3)}, {"w": normal(13, 9, seed=1), "b": normal(3, seed=2)}
    state = transform.init(params, None)
    for strength in (0.0, 0.3, 1.0):
        _, vjp = jax.vjp(lambda p, a=strength: transform.fake(p, state, a), params)
        chex.assert_trees_all_equal(vjp(cotangent)[0], cotangent)


@every_transform
def test_fake_keeps_dtypes_and_what_is_not_floating(transform):
    params = {"w": normal(13, 9, dtype=jnp.bfloat16), "ids": jnp.asarray([0, 2**24 + 1]), "flags": jnp.ones(3, bool)}
    state = transform.init(params, None)
    felt = jax.jit(lambda p, a: transform.fake(p, state, a))(params, jnp.float32(1.0))
    chex.assert_trees_all_equal_shapes_and_dtypes(felt, params)
    chex.assert_trees_all_equal(felt | {"w": params["w"]}, params)


@every_transform
def test_a_fitted_state_is_applied_to_later_parameters(transform):
    before, after = {"w": normal(13, 9)}, {"w": 1.1 * normal(13, 9)}
    decoded = decode(transform.apply(after, transform.init(before, None)))
    assert norm(decoded["w"] - after["w"]) < norm(after["w"])


@every_transform
def test_bits_count_every_array_that_is_stored(transform):
    compressed = transform({"w": normal(13, 9)})["w"]
    bits = compressed.bits()
    stored = sum(8 * np.asarray(x).nbytes for x in jax.tree.leaves(compressed))
    assert bits.total == stored
    assert bits.payload > 0
    assert memory_bits({"w": compressed, "b": jnp.zeros(3)}).total == stored + 3 * 32
    assert stored < 32 * 13 * 9


def test_identity_leaves_everything():
    params = {"w": normal(3, 4), "b": normal(2)}
    assert identity()(params) is params


def test_chain_goes_from_left_to_right():
    w = normal(24, 20)
    factors = chain(lowrank(3), quantize(8))({"w": w})["w"]
    assert isinstance(factors, LowRank)
    assert isinstance(factors.left, Quantized)
    assert isinstance(factors.right, Quantized)
    # The other way round nothing is left for the second.
    assert isinstance(chain(quantize(8), lowrank(3))({"w": w})["w"], Quantized)
    values = chain(prune(n=2, m=4), quantize(8))({"w": w})["w"]
    assert isinstance(values, Sparse)
    assert isinstance(values.values, Quantized)
    # Eight bits of factors: errors of a hundredth or so of a product that is off by far more.
    alone, both = (norm(t({"w": w})["w"].decode() - w) for t in (lowrank(3), chain(lowrank(3), quantize(8))))
    assert alone < both < 1.01 * alone


def test_chain_fits_each_transform_to_what_those_before_have_left():
    params = {"w": 100 * normal(24, 20)}
    first, second = chain(lowrank(3), quantize(8)).init(params, None)
    assert set(first) == {"w"}
    assert set(second) == {"w.left", "w.right"}


def test_by_path_takes_the_first_expression_that_is_found():
    params = {"embed": {"table": normal(9, 8)}, "mlp": {"up": normal(8, 9), "down": normal(9, 8)}, "norm": normal(3, 3)}
    compressed = by_path({"up$": binary(), r"^mlp\.": quantize(4), "embed": prune(top_k=2)})(params)
    assert isinstance(compressed["mlp"]["up"], Binary)
    assert isinstance(compressed["mlp"]["down"], Quantized)
    assert isinstance(compressed["embed"]["table"], Sparse)
    chex.assert_trees_all_equal(compressed["norm"], params["norm"])


def test_by_path_refuses_an_expression_that_matches_nothing():
    params = {"mlp": normal(8, 8)}
    with pytest.raises(ValueError, match=r"'mpl'; there are mlp"):
        by_path({"mpl": quantize(4)})(params)
    # Nor may an earlier one leave it nothing.
    with pytest.raises(ValueError, match="'mlp'"):
        by_path({".": binary(), "mlp": quantize(4)})(params)


def test_by_path_finds_arrays_within_compressed_ones():
    chained = chain(lowrank(2), by_path({"w": quantize(4)}))({"w": normal(12, 9)})["w"]
    assert isinstance(chained, LowRank)
    assert isinstance(chained.left, Quantized)


def test_by_path_works_within_a_compiled_program():
    params = {"a": normal(8, 9), "b": normal(8, 9)}
    transform = by_path({"a": binary(), "b": lowrank(2)})
    state = transform.init(params, None)
    felt = jax.jit(transform.fake)(params, state, 1.0)
    chex.assert_trees_all_close(felt, decode(transform.apply(params, state)), rtol=0, atol=STRAIGHT_THROUGH)


@pytest.mark.parametrize("correction", [lowrank(4), quantize(2), binary(), prune(top_k=4)])
def test_a_residual_reduces_the_error(correction):
    w = normal(40, 30)
    alone = quantize(2)({"w": w})["w"]
    both = residual(quantize(2), correction)({"w": w})["w"]
    assert isinstance(both, Sum)
    chex.assert_trees_all_equal(both.base, alone)
    chex.assert_trees_all_equal(both.correction, correction({"w": w - alone.decode()})["w"])
    assert norm(both.decode() - w) < 0.9 * norm(alone.decode() - w)


def test_a_residual_leaves_what_either_leaves():
    params = {"mlp": normal(20, 20), "other": normal(20, 20), "b": normal(4)}
    compressed = residual(quantize(3), by_path({"mlp": lowrank(4)}))(params)
    assert isinstance(compressed["mlp"], Sum)
    assert isinstance(compressed["other"], Quantized)
    assert not is_compressed(compressed["b"])


def test_a_residual_after_another_transform_corrects_what_that_has_left():
    params = {"a": normal(24, 20), "b": normal(24, 20)}
    first = by_path({"a": quantize(8), "b": lowrank(3)})
    compressed = chain(first, residual(quantize(2), quantize(3)))(params)
    chex.assert_trees_all_equal(compressed["a"], first(params)["a"])
    assert isinstance(compressed["b"], LowRank)
    assert isinstance(compressed["b"].left, Sum)
    product = first(params)["b"].decode()
    only_base = chain(first, quantize(2))(params)["b"].decode()
    assert norm(compressed["b"].decode() - product) < 0.5 * norm(only_base - product)


def test_names_of_compressed_arrays_are_those_of_the_arrays():
    params = {"block": [{"w": normal(9, 9)}, {"w": normal(9, 9)}]}
    compressed = matryoshka((2, 3))(params)
    assert list(named_leaves(compressed)) == list(named_leaves(params)) == ["block.0.w", "block.1.w"]
    assert all(isinstance(leaf, Nested) for leaf in named_leaves(compressed).values())
