"""Attention, and attention of packed queries, keys and values, against the definition in float64."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import attention, cpu, packed_attention
from tests.kernels.ops import base

IMPLEMENTATIONS = base.names("attention")
# float32 sums of up to 131 terms, sqrt(131) * 6e-8, and the kernels' exp at 2e-7
TOLERANCE = 3e-6
# (B, T, S, H, G, K), options. The C++ kernel takes blocks of queries and panels of 16 or 32 columns; the blocked one
# T/4 queries. `padded` masks some keys of each sequence, and all of the first one.
CASES = [
    ((1, 1, 1, 1, 1, 1), {}),
    ((2, 7, 7, 3, 3, 5), {}),
    ((2, 33, 33, 4, 2, 16), {"padded": True}),
    ((3, 64, 64, 4, 4, 32), {}),
    ((1, 131, 131, 2, 1, 33), {"window": 40}),
    ((2, 40, 40, 6, 2, 8), {"window": 11, "padded": True}),
    ((1, 5, 5, 1, 1, 3), {"window": 1}),
    ((2, 5, 19, 4, 1, 7), {"causal": False}),
    ((2, 70, 33, 2, 2, 8), {"causal": False, "padded": True}),
]
IDS = [f"{sizes}{options}" for sizes, options in CASES]


def _operands(sizes, *, dtype="float32", scale=1.0, **options):
    """q, k, v, and the options of `attention`."""
    B, T, S, H, G, K = sizes
    rng = np.random.default_rng(0)
    shapes = (B, T, H, K), (B, S, G, K), (B, S, G, K)
    arrays = tuple(jnp.asarray(scale * rng.normal(size=shape), jnp.float32).astype(dtype) for shape in shapes)
    if options.pop("padded", False):
        options["mask_BS"] = jnp.asarray(rng.random((B, S)) < 0.7).at[0].set(False)
    return arrays, options


def definition(causal=True, window=None, mask_BS=None):
    def run(q_BTHK, k_BSGK, v_BSGK):
        T, S, repeats = q_BTHK.shape[1], k_BSGK.shape[1], q_BTHK.shape[2] // k_BSGK.shape[2]
        k_BSHK, v_BSHK = jnp.repeat(k_BSGK, repeats, axis=2), jnp.repeat(v_BSGK, repeats, axis=2)
        behind_TS = np.arange(T)[:, None] - np.arange(S)[None, :]
        visible_BTS = np.ones((len(q_BTHK), T, S), bool)
        if causal:
            visible_BTS &= behind_TS >= 0
        if window is not None:
            visible_BTS &= behind_TS < window
        if mask_BS is not None:
            visible_BTS &= np.asarray(mask_BS)[:, None, :]
        scores_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BSHK) / np.sqrt(q_BTHK.shape[-1])
        exp_BHTS = jnp.where(visible_BTS[:, None], jnp.exp(scores_BHTS), 0)
        sums_BHT1 = exp_BHTS.sum(-1, keepdims=True)
        return jnp.einsum("bhts,bshk->bthk", exp_BHTS / jnp.where(sums_BHT1 > 0, sums_BHT1, 1), v_BSHK)

    return run


def op(implementation, **options):
    return jax.jit(lambda q, k, v: attention(q, k, v, implementation=implementation, **options))


def packed_op(n_heads, implementation, **options):
    """Of the packed array alone."""

    def run(qkv_BTNK):
        G = (qkv_BTNK.shape[2] - n_heads) // 2
        return packed_attention(qkv_BTNK, n_heads, n_kv_heads=G, implementation=implementation, **options)

    return jax.jit(run)


def packed_definition(n_heads, **options):
    def run(qkv_BTNK):
        G = (qkv_BTNK.shape[2] - n_heads) // 2
        return definition(**options)(qkv_BTNK[:, :, :n_heads], qkv_BTNK[:, :, n_heads:-G], qkv_BTNK[:, :, -G:])

    return run


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("sizes", "options"), CASES, ids=IDS)
def test_outcome_and_gradients_match_float64(errors_against_float64, implementation, sizes, options):
    operands, options = _operands(sizes, **options)
    errors = errors_against_float64(op(implementation, **options), definition(**options), *operands)
    assert max(errors) < TOLERANCE, errors


@pytest.mark.parametrize(
    ("implementation", "case"), [("reference", 2), ("xla", 2), *(("cpu", i) for i in (0, 2, 3, 4))]
)  # numbers of CASES; those that cut the array apart have no arithmetic of their own
def test_packed_attention_matches_float64(errors_against_float64, implementation, case):
    sizes, options = CASES[case]
    operands, options = _operands(sizes, **options)
    packed, n_heads = jnp.concatenate(operands, axis=2), sizes[3]
    errors = errors_against_float64(
        packed_op(n_heads, implementation, **options), packed_definition(n_heads, **options), packed
    )
    assert max(errors) < TOLERANCE, errors


@pytest.mark.parametrize("dtype", ["bfloat16"])
@pytest.mark.parametrize(
    ("implementation", "case"), [("xla", 5), *(("cpu", i) for i in (1, 4, 5, 8))]
)  # numbers of CASES; the blocked implementation has no arithmetic of its own
def test_bfloat16_is_no_worse_than_the_reference(assert_no_worse_in_bfloat16, implementation, dtype, case):
    sizes, options = CASES[case]
    operands, options = _operands(sizes, dtype=dtype, **options)
    assert_no_worse_in_bfloat16(
        op(implementation, **options), op("reference", **options), definition(**options), *operands
    )


@pytest.mark.parametrize("dtype", ["bfloat16"])
@pytest.mark.parametrize("implementation", ["cpu"])
def test_packed_bfloat16_is_no_worse_than_the_reference(assert_no_worse_in_bfloat16, implementation, dtype):
    operands, options = _operands((2, 50, 50, 4, 2, 16), dtype=dtype, padded=True)
    arms = (packed_op(4, name, **options) for name in (implementation, "reference"))
    assert_no_worse_in_bfloat16(*arms, packed_definition(4, **options), jnp.concatenate(operands, axis=2))


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_float64_is_computed_in_float64(errors_against_float64, implementation):
    operands = (np.asarray(array, np.float64) for array in _operands((1, 12, 12, 2, 1, 8))[0])
    assert max(errors_against_float64(op(implementation), definition(), *operands)) < 1e-14


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_query_that_sees_no_key_gives_zeros_and_has_no_gradient(implementation):
    operands, options = _operands((2, 20, 20, 2, 1, 4), padded=True)
    options["mask_BS"] = options["mask_BS"].at[1].set(jnp.arange(20) >= 6)
    o_BTHK, vjp = jax.vjp(op(implementation, **options), *operands)
    o_BTHK, dq, dk, dv = map(np.asarray, (o_BTHK, *jax.jit(vjp)(jnp.ones_like(o_BTHK))))
    mask_BS = np.asarray(options["mask_BS"])
    blind = np.zeros((2, 20), bool)
    blind[0], blind[1, :6] = True, True
    for array in (o_BTHK, dq):
        assert not np.any(array[blind]) and np.all(np.any(array[~blind], axis=(-1, -2)) | (array is dq))
    for array in (dk, dv):
        assert not np.any(array[~mask_BS])
    assert np.all(np.any(dv[mask_BS], axis=(-1, -2)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_padding_is_seen_by_nobody(implementation):
    (q, k, v), options = _operands((2, 30, 30, 2, 1, 4), padded=True)
    padding = ~options["mask_BS"][:, :, None, None]
    run = op(implementation, **options)
    chex.assert_trees_all_equal(run(q, jnp.where(padding, 50.0, k), jnp.where(padding, -1e4, v)), run(q, k, v))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_position_sees_a_later_one_nor_one_before_its_window(implementation):
    (q, k, v), options = _operands((2, 50, 50, 2, 1, 8), window=7)
    run = jax.jit(op(implementation, **options))
    before, after = (np.asarray(o) for o in (run(q, k, v), run(q, k.at[:, 30].set(7.0), v.at[:, 30].set(-7.0))))
    chex.assert_trees_all_equal(before[:, :30], after[:, :30])
    chex.assert_trees_all_equal(before[:, 37:], after[:, 37:])
    assert not np.any(np.all(np.isclose(before[:, 30:37], after[:, 30:37]), axis=(-1, -2)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_large_scores_do_not_overflow(errors_against_float64, implementation):
    operands, _ = _operands((1, 40, 40, 2, 2, 8), scale=8.0)  # scores of size 250: exp(250) is no float32
    errors = errors_against_float64(op(implementation), definition(), *operands)
    assert max(errors) < 1e-4, errors  # scores of size 250 are 3e-5 apart


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_finite_stays_visible(implementation, poison):
    (q, k, v), _ = _operands((1, 20, 20, 1, 1, 4))

    def run(**poisoned):
        return np.asarray(op(implementation)(**{"q": q, "k": k, "v": v} | poisoned))

    o_BTHK = run(k=k.at[0, 5].set(np.nan))
    assert np.isfinite(o_BTHK[0, :5]).all() and np.isnan(o_BTHK[0, 5:]).all()
    # Earlier queries may see 0 * NaN of a value.
    assert not np.isfinite(run(v=v.at[0, 5].set(poison))[0, 5:]).any()
    o_BTHK = run(q=q.at[0, 5].set(poison))
    assert np.isnan(o_BTHK[0, 5]).all() and np.isfinite(np.delete(o_BTHK, 5, axis=1)).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_works_under_transformations(assert_works_under_transformations, implementation):
    (q, k, v), options = _operands((6, 9, 9, 4, 2, 4), padded=True, window=4)
    options["mask_BS"] = options["mask_BS"][:2]
    assert_works_under_transformations(
        lambda q: op(implementation, **options)(q, k[:2], v[:2]), q.reshape(3, 2, *q.shape[1:])
    )
    if implementation == "cpu":
        packed = jnp.concatenate([q, k, v], axis=2)
        assert_works_under_transformations(
            packed_op(4, implementation, **options), packed.reshape(3, 2, *packed.shape[1:])
        )


def test_blocked_attention_skips_most_of_what_cannot_be_seen():
    operands, _ = _operands((2, 128, 128, 2, 2, 8))

    def flops(implementation, **options):
        run = jax.jit(lambda do, *qkv: jax.vjp(op(implementation, **options), *qkv)[1](do))
        return run.lower(operands[0], *operands).cost_analysis()["flops"]

    assert flops("xla") < 0.75 * flops("reference")  # 10/16 of the blocks, and some work outside the scores
    assert flops("xla", window=16) < 0.4 * flops("reference")  # 8 blocks of 16 queries and 31 keys: 1/4


@pytest.mark.parametrize("implementation", ["cpu"])
def test_the_cpu_kernel_repeats_itself_to_the_bit(implementation):
    operands, options = _operands((5, 70, 70, 4, 2, 20), padded=True)
    run = jax.jit(lambda *qkv: jax.vjp(op(implementation, **options), *qkv)[1](qkv[0]))
    first = run(*operands)
    for _ in range(5):
        chex.assert_trees_all_equal(run(*operands), first)


@pytest.mark.parametrize(
    ("shapes", "options", "error"),
    [
        (((1, 2, 4), (1, 2, 3, 4)), {}, "need q"),
        (((1, 2, 3, 4), (1, 2, 3, 5)), {}, "do not fit"),
        (((1, 2, 3, 4), (2, 2, 3, 4)), {}, "do not fit"),
        (((1, 2, 3, 4), (1, 2, 2, 4)), {}, "do not fit"),
        (((1, 2, 3, 4), (1, 5, 3, 4)), {}, "as many keys as queries; got 5 and 2"),
        (((1, 2, 3, 4), (1, 5, 3, 4)), {"causal": False, "window": 2}, "window=2"),
        (((1, 2, 3, 4), (1, 2, 3, 4)), {"window": 0}, "window=0"),
        (((1, 2, 3, 4), (1, 2, 3, 4)), {"mask_BS": jnp.ones((1, 3), bool)}, r"need mask\[B,S\] = \(1, 2\)"),
        (((1, 2, 3, 4), (1, 2, 3, 4)), {"implementation": "flash"}, "'flash' is not one of"),
    ],
)
def test_operands_that_do_not_fit_are_refused(shapes, options, error):
    q, k = map(jnp.zeros, shapes)
    with pytest.raises(ValueError, match=error):
        attention(q, k, k, **options)


@pytest.mark.parametrize(
    ("heads", "options", "error"),
    [
        (3, {"n_kv_heads": 1}, "where G divides H"),
        (6, {}, "where G divides H"),
        (3, {"n_kv_heads": 2}, "where G divides H"),
        (2, {"implementation": "flash"}, "'flash' is not one of"),
    ],
)
def test_packed_heads_that_do_not_fit_are_refused(heads, options, error):
    with pytest.raises(ValueError, match=error):
        packed_attention(jnp.zeros((1, 2, 6, 4)), heads, **options)


def test_other_dtypes_are_refused():
    q = jnp.zeros((1, 2, 3, 4))
    with pytest.raises(TypeError, match="one dtype"):
        attention(q, q.astype(jnp.bfloat16), q)
    with pytest.raises(TypeError, match="need a bool mask"):
        attention(q, q, q, mask_BS=jnp.ones((1, 2)))
    with pytest.raises(TypeError, match="takes float32 and bfloat16"):
        attention(*(q.astype(jnp.float16),) * 3, implementation="cpu")
    with pytest.raises(TypeError, match="takes float32 and bfloat16"):
        packed_attention(q.astype(jnp.float16), 1, implementation="cpu")


def test_bfloat16_without_its_instructions_is_refused(monkeypatch):
    monkeypatch.setattr(cpu, "unavailable_reason", lambda dtype: f"no {dtype}" if dtype == "bfloat16" else None)
    with pytest.raises(NotImplementedError, match="no bfloat16"):
        packed_attention(jnp.zeros((1, 2, 3, 4), jnp.bfloat16), 1, implementation="cpu")


@pytest.fixture
def cudnn_by_xla(monkeypatch):
    """cuDNN runs on NVIDIA GPUs alone: JAX's own implementation with the same arguments stands in for it."""
    real = jax.nn.dot_product_attention

    def stand_in(*arrays, implementation, **options):
        assert implementation == "cudnn"
        return real(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)


@pytest.mark.parametrize(("sizes", "options"), CASES, ids=IDS)
def test_what_is_asked_of_cudnn_is_the_definition(cudnn_by_xla, oracle_jit, sizes, options):
    arrays, options = _operands(sizes, dtype="bfloat16", **options)
    do_BTHK = jnp.asarray(np.random.default_rng(1).normal(size=arrays[0].shape), jnp.float32)

    def found_and_gradients(function):
        def run(*arrays):
            o, pullback = jax.vjp(lambda *a: function(*a).astype(jnp.float32), *arrays)
            return o, *(g.astype(jnp.float32) for g in pullback(do_BTHK))

        return run

    ours = found_and_gradients(lambda *a: attention(*a, implementation="cudnn", **options))
    # In one program XLA's CPU backend has no product of bfloat16 where all dimensions are one.
    with jax.disable_jit(np.prod(sizes) == 1):
        found = jax.jit(ours)(*arrays)
    exact = oracle_jit(found_and_gradients(definition(**options)))(*(x.astype(jnp.float32) for x in arrays))
    # bfloat16 has 8 bits: three roundings of outcomes that are up to 4 in size here.
    for name, ours, theirs in zip(["o", "q", "k", "v"], found, exact, strict=True):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        error = np.abs(ours - theirs).max() / (1 + np.abs(theirs).max())
        assert error < 3 * 2**-8, name
    if options.get("mask_BS") is not None:
        assert not np.asarray(found[0])[0].any(), "the first sequence sees nothing"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cudnn_refuses_other_dtypes(dtype):
    with jax.enable_x64(dtype == "float64"):
        q = jnp.zeros((1, 4, 1, 8), dtype)
        with pytest.raises(TypeError, match=f"takes bfloat16 and float16; got {dtype}"):
            attention(q, q, q, implementation="cudnn")


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_of_bfloat16_products_only_those_of_the_gradients_of_scores_are_of_float32(implementation):
    # The scores are float32, as in jax.nn.dot_product_attention, and so are their gradients, which dq and dk come of.
    q_BTHK = jnp.ones((1, 8, 2, 16), jnp.bfloat16)

    def forward_and_backward(q, k, v, do):
        o, vjp = jax.vjp(lambda *qkv: attention(*qkv, causal=True, implementation=implementation), q, k, v)
        return o, vjp(do)

    text = jax.jit(forward_and_backward).lower(*[q_BTHK] * 4).as_text()
    operands = re.findall(r"dot_general .*: \((tensor<[^>]*>), (tensor<[^>]*>)\) ->", text)
    blocks = {"reference": 1, "xla": 4}[implementation]
    assert len(operands) == 6 * blocks
    assert sum(any("f32" in operand for operand in pair) for pair in operands) == 2 * blocks
