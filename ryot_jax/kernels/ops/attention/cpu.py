"""C++ kernels in tiles of queries and keys, keeping one number per query for the backward pass.

Dao et al. 2022, arXiv:2205.14135.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels import cpu
from ryot_jax.kernels.declaration import Implementation
from ryot_jax.kernels.operands import OwnGradient, as_ffi_operand
from ryot_jax.kernels.ops.attention._visible import Functions, Visible
from ryot_jax.kernels.probes import custom_call
from ryot_jax.kernels.requirements import cpp_dtypes, cpp_refusal


def _outputs(o_shape: tuple[int, ...], dtype: jnp.dtype) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes of both forward handlers' results: o, and the logarithm of each query's sum of exponentials."""
    B, T, H, _ = o_shape
    return jax.ShapeDtypeStruct(o_shape, dtype), jax.ShapeDtypeStruct((B, H, T), jnp.float32)


def _like(*arrays: jax.Array) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays)


@functools.partial(OwnGradient, nondiff_argnums=(0,))
def _separate(
    visible: Visible, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask_BS: jax.Array | None
) -> jax.Array:
    return _separate_forward(visible, q_BTHK, k_BSGK, v_BSGK, mask_BS)[0]


def _separate_forward(
    visible: Visible, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask_BS: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    operands = q_BTHK, k_BSGK, v_BSGK, as_ffi_operand(mask_BS, jnp.bool_)
    out = _outputs(q_BTHK.shape, q_BTHK.dtype)
    o_BTHK, log_sum_exp_BHT = cpu.call("ryot_attention_forward", out, *operands, **visible.attributes())
    return o_BTHK, (*operands, o_BTHK, log_sum_exp_BHT)


def _separate_backward(
    visible: Visible, saved: tuple[jax.Array, ...], do_BTHK: jax.Array
) -> tuple[jax.Array | None, ...]:
    gradients = cpu.call("ryot_attention_backward", _like(*saved[:3]), *saved, do_BTHK, **visible.attributes())
    return (*gradients, None)


_separate.defvjp(_separate_forward, _separate_backward)


@functools.partial(OwnGradient, nondiff_argnums=(0, 1))
def _packed(visible: Visible, n_heads: int, qkv_BTNK: jax.Array, mask_BT: jax.Array | None) -> jax.Array:
    return _packed_forward(visible, n_heads, qkv_BTNK, mask_BT)[0]


def _packed_forward(
    visible: Visible, n_heads: int, qkv_BTNK: jax.Array, mask_BT: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    B, T, _, K = qkv_BTNK.shape
    operands = qkv_BTNK, as_ffi_operand(mask_BT, jnp.bool_)
    attributes = visible.attributes() | {"n_heads": np.int64(n_heads)}
    out = _outputs((B, T, n_heads, K), qkv_BTNK.dtype)
    o_BTHK, log_sum_exp_BHT = cpu.call("ryot_packed_attention_forward", out, *operands, **attributes)
    return o_BTHK, (*operands, o_BTHK, log_sum_exp_BHT)


def _packed_backward(
    visible: Visible, n_heads: int, saved: tuple[jax.Array, ...], do_BTHK: jax.Array
) -> tuple[jax.Array, None]:
    attributes = visible.attributes() | {"n_heads": np.int64(n_heads)}
    (dqkv_BTNK,) = cpu.call("ryot_packed_attention_backward", _like(saved[0]), *saved, do_BTHK, **attributes)
    return dqkv_BTNK, None


_packed.defvjp(_packed_forward, _packed_backward)

IMPLEMENTATION = Implementation(
    function=Functions(_separate, _packed),
    equivalence="allclose",
    probe=custom_call("ryot_attention", "ryot_packed_attention"),
    refusal=cpp_refusal,
    require=cpp_dtypes,
    where="C++",
)
