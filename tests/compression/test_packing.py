"""Codes come back from their bytes bit for bit, whatever their width and number."""

import chex
import hypothesis.extra.numpy as arrays
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ryot_jax.compression.packing import pack, unpack


@st.composite
def codes_and_bits(draw):
    bits = draw(st.integers(1, 16))
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    return draw(arrays.arrays(np.uint16, shape, elements=st.integers(0, 2**bits - 1))), bits


def by_hand(codes, bits):
    """The bytes from their definition: codes and bytes of a group of eight are as far apart as there are groups."""
    codes = np.ravel(codes).tolist()
    if bits > 8:
        return bytes(code % 256 for code in codes) + by_hand(np.asarray(codes, np.int64) >> 8, bits - 8)
    groups = -(-len(codes) // 8)
    codes += [0] * (8 * groups - len(codes))
    packed = bytearray(groups * bits)
    for g in range(groups):
        number = sum(code << (i * bits) for i, code in enumerate(codes[g::groups]))
        packed[g::groups] = number.to_bytes(bits, "little")
    return bytes(packed)


@settings(max_examples=40, deadline=None)  # every shape is compiled for anew
@given(codes_and_bits())
def test_codes_of_any_width_and_number_survive(case):
    codes, bits = case
    packed = pack(codes, bits)
    assert packed.dtype == np.uint8
    assert np.asarray(packed).tobytes() == by_hand(codes, bits)
    unpacked = unpack(packed, bits, codes.size)
    assert unpacked.dtype == np.uint16
    chex.assert_trees_all_equal(np.asarray(unpacked), np.ravel(codes))


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 101])
def test_every_width_at_the_edges_of_a_group(bits, size):
    codes = np.random.default_rng(bits).integers(0, 2**bits, size)
    codes[-1:] = 2**bits - 1
    packed = pack(codes, bits)
    groups = -(-size // 8)
    assert packed.size == (groups * bits if bits <= 8 else size + groups * (bits - 8))
    assert np.asarray(packed).tobytes() == by_hand(codes, bits)
    chex.assert_trees_all_equal(np.asarray(unpack(packed, bits, size)), codes.astype(np.uint16))


@pytest.mark.parametrize("bits", [1, 3, 8, 11, 16])
def test_within_a_compiled_program_the_bits_are_the_same(bits):
    codes = np.random.default_rng(0).integers(0, 2**bits, 101)
    packed = pack(codes, bits)
    chex.assert_trees_all_equal(jax.jit(pack, static_argnums=1)(codes, bits), packed)
    unpacked = jax.jit(unpack, static_argnums=(1, 2))(packed, bits, 101)
    chex.assert_trees_all_equal(unpacked, unpack(packed, bits, 101))


def test_the_layout_by_example():
    assert np.asarray(pack(np.asarray([1, 2, 3]), 4)).tobytes() == bytes([0x21, 0x03, 0, 0])
    assert np.asarray(pack(np.arange(1, 10), 4)).tobytes() == bytes([0x31, 0x42, 0x75, 0x86, 0x09, 0, 0, 0])
    assert np.asarray(pack(np.asarray([0x123, 0x456]), 12)).tobytes() == bytes([0x23, 0x56, 0x41, 0, 0, 0])


@pytest.mark.parametrize("bits", [-1, 0, 17, 32])
def test_a_width_that_no_code_has_is_refused(bits):
    with pytest.raises(ValueError, match="1 to 16 bits"):
        pack(np.zeros(8, np.uint8), bits)
    with pytest.raises(ValueError, match="1 to 16 bits"):
        unpack(np.zeros(8, np.uint8), bits, 8)
