"""One call of the kernel gives the logits of the transformer's definition in float64, and the same bits however fed."""

import functools
import itertools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import cpu
from ryot_jax.kernels.decoding.step import (
    LayerWeights,
    StepSpec,
    StepWeights,
    decode_step,
    empty_step_cache,
    pack_weights,
)

pytestmark = pytest.mark.skipif(cpu.unavailable_reason() is not None, reason=str(cpu.unavailable_reason()))
DTYPES = [
    pytest.param(
        dtype,
        marks=pytest.mark.skipif(cpu.unavailable_reason(dtype) is not None, reason=str(cpu.unavailable_reason(dtype))),
    )
    for dtype in ("float32", "bfloat16")
]
MLPS = ("gelu", "relu2", "swiglu")
# Of logits of size 1. float32: roundings of 6e-8 through some hundred operations. bfloat16: operands are rounded to
# 2^-9; their errors, about 20 products deep, add up like a random walk.
TOLERANCE = {"float32": 3e-5, "bfloat16": 0.12}


class Case(NamedTuple):
    D: int = 24
    H: int = 3
    F: int = 20
    V: int = 31
    layers: int = 2
    mlp: str = "gelu"
    centre: bool = True
    learned: bool = True
    rotary: bool = False


CASES = [
    *(Case(mlp=mlp, centre=centre, learned=learned, rotary=not learned) for mlp, centre, learned in
      itertools.product(MLPS, (True, False), (True, False))),
    # heads of an odd width, an odd width of the hidden features, rows that are no whole words or vectors; one of all
    Case(D=15, H=3, F=7, V=5),
    Case(D=15, H=3, F=7, V=5, mlp="swiglu", centre=False, layers=1),
    Case(D=1, H=1, F=1, V=1, layers=1),
    Case(D=128, H=4, F=130, V=100, layers=1),
]  # fmt: skip


def draw_weights(case, seed=0, positions=40):
    rng = np.random.default_rng(seed)

    def normal(*shape, size=None):
        return np.asarray((size or shape[0] ** -0.5) * rng.normal(size=shape), np.float32)

    D, F = case.D, case.F
    up = 2 * F if case.mlp == "swiglu" else F
    bias = (lambda n: normal(n, size=0.3)) if case.centre else (lambda n: None)
    layers = tuple(
        LayerWeights(
            1 + normal(D, size=0.2), bias(D), normal(D, 3 * D), bias(3 * D), normal(D, D), bias(D),
            1 + normal(D, size=0.2), bias(D), normal(D, up), bias(up), normal(F, D), bias(D),
        )
        for _ in range(case.layers)
    )  # fmt: skip
    K = D // case.H
    angles_PK = np.outer(np.arange(positions), 10.0 ** -np.arange(K // 2))
    rotations_PK = np.concatenate([np.cos(angles_PK), np.sin(angles_PK)], axis=1, dtype=np.float32)
    return StepWeights(
        normal(case.V, D, size=1.0),
        normal(positions, D, size=1.0) if case.learned else None,
        rotations_PK if case.rotary else None,
        1 + normal(D, size=0.2),
        bias(D),
        normal(case.V, D, size=D**-0.5),
        layers,
    )


def spec_of(case):
    return StepSpec(case.H, case.F, case.mlp, case.centre)


def logits_in_float64(weights, case, tokens_T):
    """The definition, for one sequence."""
    w = jax.tree.map(lambda array: np.asarray(array, np.float64), weights)
    x_TD = w.table_VD[tokens_T]
    if w.positions_PD is not None:
        x_TD = x_TD + w.positions_PD[: len(tokens_T)]
    for layer in w.layers:
        qkv_TE = affine(norm(x_TD, layer.attention_scale_D, layer.attention_bias_D, case), layer[2], layer[3])
        heads = [
            head(part, w.rotations_PK) for part in np.split(qkv_TE.reshape(len(tokens_T), 3, case.H, -1), case.H, 2)
        ]
        x_TD = x_TD + affine(np.concatenate(heads, axis=1), layer.out_DD, layer.out_bias_D)
        h_TF = affine(norm(x_TD, layer.mlp_scale_D, layer.mlp_bias_D, case), layer.up_DF, layer.up_bias_F)
        if case.mlp == "gelu":
            h_TF = 0.5 * h_TF * (1 + np.tanh(math.sqrt(2 / math.pi) * (h_TF + 0.044715 * h_TF**3)))
        elif case.mlp == "relu2":
            h_TF = np.maximum(h_TF, 0) ** 2
        else:
            gate_TF, value_TF = np.split(h_TF, 2, axis=1)
            h_TF = gate_TF / (1 + np.exp(-gate_TF)) * value_TF
        x_TD = x_TD + affine(h_TF, layer.down_FD, layer.down_bias_D)
    return norm(x_TD, w.final_scale_D, w.final_bias_D, case) @ w.head_VD.T


def norm(x_TD, scale_D, bias_D, case):
    centred_TD = x_TD - x_TD.mean(1, keepdims=True) if case.centre else x_TD
    y_TD = centred_TD / np.sqrt((centred_TD**2).mean(1, keepdims=True) + 1e-5) * scale_D
    return y_TD if bias_D is None else y_TD + bias_D


def affine(x, w, bias):
    return x @ w if bias is None else x @ w + bias


def head(qkv_T31K, rotations_PK):
    q_TK, k_TK, v_TK = (qkv_T31K[:, i, 0] for i in range(3))
    if rotations_PK is not None:
        half = q_TK.shape[1] // 2
        turn_TK = rotations_PK[: len(q_TK), :half] + 1j * rotations_PK[: len(q_TK), half:]
        pair = [(x[:, :half] + 1j * x[:, half:]) * turn_TK for x in (q_TK, k_TK)]
        q_TK, k_TK = (np.concatenate([z.real, z.imag], axis=1) for z in pair)
    scores_TT = q_TK @ k_TK.T / math.sqrt(q_TK.shape[1])
    scores_TT[np.triu_indices(len(scores_TT), 1)] = -np.inf
    weights_TT = np.exp(scores_TT - scores_TT.max(1, keepdims=True))
    return weights_TT @ v_TK / weights_TT.sum(1, keepdims=True)


@functools.cache
def compiled(**settings):
    return jax.jit(functools.partial(decode_step, **settings))


def feed(packed, tokens_BT, pieces, cache, length_B=None):
    """Logits of all tokens, fed in pieces."""
    step = compiled(with_logits=True)
    length_B = jnp.zeros(len(tokens_BT), jnp.int32) if length_B is None else length_B
    start, best, logits = 0, [], []
    for size in pieces:
        count_B = jnp.full(len(tokens_BT), size, jnp.int32)
        piece_best, piece, cache = step(packed, tokens_BT[:, start : start + size], length_B + start, count_B, cache)
        best.append(piece_best)
        logits.append(piece)
        start += size
    return np.concatenate(best, axis=1), np.concatenate(logits, axis=1), cache


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_logits_are_those_of_float64(case, dtype):
    weights = draw_weights(case)
    packed = pack_weights(weights, spec_of(case), dtype)
    tokens_BT = np.random.default_rng(1).integers(0, case.V, (2, 19), dtype=np.int32)
    best_BT, logits_BTV, _ = feed(packed, tokens_BT, [13, 1, 5], empty_step_cache(packed, 2, 19))
    wanted_BTV = np.stack([logits_in_float64(weights, case, tokens_T) for tokens_T in tokens_BT])
    chex.assert_trees_all_close(logits_BTV, wanted_BTV.astype(np.float32), atol=TOLERANCE[dtype], rtol=0)
    np.testing.assert_array_equal(best_BT, logits_BTV.argmax(-1))
    assert case.V == 1 or np.std(wanted_BTV) > 3 * TOLERANCE[dtype], "else anything would do"


def test_the_tolerance_tells_a_wrong_order_of_positions():
    """Of what the tolerance in bfloat16 has to find, the smallest: two tokens that have changed places."""
    case = CASES[0]
    weights = draw_weights(case)
    tokens_T = np.arange(9)
    swapped_T = tokens_T[[1, 0, *range(2, 9)]]
    difference = logits_in_float64(weights, case, tokens_T)[-1] - logits_in_float64(weights, case, swapped_T)[-1]
    assert np.abs(difference).max() > 2 * TOLERANCE["bfloat16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [Case(), Case(D=15, H=3, F=7, V=5), Case(mlp="swiglu", rotary=True)], ids=str)
def test_what_comes_out_for_a_token_depends_on_no_other_row(case, dtype):
    """In pieces of any size, alone or in a batch, with other texts behind it in the cache: the same bits."""
    packed = pack_weights(draw_weights(case, positions=128), spec_of(case), dtype)
    rng = np.random.default_rng(2)
    tokens_BT = rng.integers(0, case.V, (3, 110), dtype=np.int32)
    _, one_by_one_BTV, _ = feed(packed, tokens_BT[:1], [1] * 110, empty_step_cache(packed, 1, 110))
    dirty = feed(packed, rng.integers(0, case.V, (1, 110), dtype=np.int32), [110], empty_step_cache(packed, 1, 110))[2]
    for pieces in ([2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 6], [1, 59, 50], [110]):
        _, logits_BTV, _ = feed(packed, tokens_BT[:1], pieces, dirty)
        np.testing.assert_array_equal(logits_BTV, one_by_one_BTV, err_msg=str(pieces))
        _, logits_BTV, _ = feed(packed, tokens_BT, pieces, empty_step_cache(packed, 3, 110))
        np.testing.assert_array_equal(logits_BTV[:1], one_by_one_BTV, err_msg=str(pieces))
    assert len(np.unique(one_by_one_BTV)) > 100


@pytest.mark.parametrize("dtype", DTYPES)
def test_sequences_of_a_step_may_differ_in_length_and_in_what_they_add(dtype):
    case = Case()
    packed = pack_weights(draw_weights(case), spec_of(case), dtype)
    tokens_BT = np.random.default_rng(3).integers(0, case.V, (4, 20), dtype=np.int32)
    length_B, count_B = np.array([3, 0, 9, 5], np.int32), np.array([2, 5, 0, 1], np.int32)
    _, whole_BTV, _ = feed(packed, tokens_BT, [20], empty_step_cache(packed, 4, 20))
    cache = feed(packed, tokens_BT, [20], empty_step_cache(packed, 4, 20))[2]
    at_BS = length_B[:, None] + np.arange(5)
    pending_BS = np.where(np.arange(5) < count_B[:, None], np.take_along_axis(tokens_BT, at_BS, axis=1), -7)
    best_BS, logits_BSV, _ = compiled(with_logits=True)(packed, pending_BS, length_B, count_B, cache)
    for b, count in enumerate(count_B):
        np.testing.assert_array_equal(logits_BSV[b, :count], whole_BTV[b, length_B[b] : length_B[b] + count])
        assert not logits_BSV[b, count:].any() and not best_BS[b, count:].any()
    last_B1, last_logits_B1V, _ = compiled(with_logits=True, last_only=True)(
        packed, pending_BS, length_B, count_B, cache
    )
    for b, count in enumerate(count_B):
        wanted_V = whole_BTV[b, length_B[b] + count - 1] if count else np.zeros(case.V)
        np.testing.assert_array_equal(last_logits_B1V[b, 0], wanted_V)
        assert last_B1[b, 0] == (wanted_V.argmax() if count else 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_of_equal_logits_is_the_best(dtype):
    case = Case(V=70)
    weights = draw_weights(case)
    # Each token has a twin: numbers 0 to 34 again as 35 to 69.
    weights = weights._replace(head_VD=np.concatenate([weights.head_VD[:35]] * 2))
    packed = pack_weights(weights, spec_of(case), dtype)
    tokens_BT = np.random.default_rng(4).integers(0, 70, (1, 40), dtype=np.int32)
    best_BT, logits_BTV, _ = feed(packed, tokens_BT, [1, 30, 9], empty_step_cache(packed, 1, 40))
    np.testing.assert_array_equal(best_BT, logits_BTV.argmax(-1))
    assert (best_BT < 35).all() and len(np.unique(best_BT)) > 5


def test_logits_that_are_no_numbers_stay_so_and_the_best_is_a_token():
    case = Case()
    weights = draw_weights(case)
    packed = pack_weights(weights._replace(final_scale_D=np.full(case.D, np.nan, np.float32)), spec_of(case), "float32")
    best_BT, logits_BTV, _ = feed(packed, np.zeros((1, 3), np.int32), [3], empty_step_cache(packed, 1, 3))
    assert np.isnan(logits_BTV).all() and not best_BT.any()


def test_a_cache_is_written_in_place_within_a_loop():
    case = Case()
    packed = pack_weights(draw_weights(case), spec_of(case), "float32")

    def loop(packed, cache):
        def step(carry, i):
            token_B1, cache = carry
            best_B1, _, cache = decode_step(packed, token_B1, jnp.full(1, i), jnp.ones(1, jnp.int32), cache)
            return (best_B1, cache), best_B1

        return jax.lax.scan(step, (jnp.zeros((1, 1), jnp.int32), cache), jnp.arange(8, dtype=jnp.int32))[1]

    text = jax.jit(loop).lower(packed, empty_step_cache(packed, 1, 8)).compile().as_text()
    body = text[: text.index("ENTRY")]
    assert "ryot_decode_step" in body and "copy(u32" not in body.replace(" ", "")


@pytest.mark.parametrize(
    ("tokens_BS", "length", "count", "message"),
    [
        ([[1, 2]], 15, 2, "room"),
        ([[1, 2]], 0, 3, "room"),
        ([[1, 2]], -1, 1, "room"),
        ([[1, 31]], 0, 2, "vocabulary"),
        ([[1, -1]], 0, 2, "vocabulary"),
    ],
)
def test_what_would_write_beyond_memory_is_an_error(tokens_BS, length, count, message):
    case = Case()
    packed = pack_weights(draw_weights(case, positions=16), spec_of(case), "float32")
    arguments = np.array(tokens_BS, np.int32), np.array([length], np.int32), np.array([count], np.int32)
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(compiled()(packed, *arguments, empty_step_cache(packed, 1, 30)))


def test_weights_of_other_sizes_are_an_error():
    case = Case()
    packed = pack_weights(draw_weights(case), StepSpec(case.H, case.F + 1), "float32")
    one = np.ones(1, np.int32)
    with pytest.raises(jax.errors.JaxRuntimeError, match="decode_step takes bias"):
        jax.block_until_ready(compiled()(packed, one[None], one, one, empty_step_cache(packed, 1, 8)))
