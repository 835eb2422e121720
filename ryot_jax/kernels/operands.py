"""What every op asks of its operands, and how the C++ handlers are told that one is absent.

Nothing here computes: shapes are checked by each op, and products are its own.
"""

from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp

from ryot_jax.kernels import cpu

Implementation = TypeVar("Implementation")


def choose(
    implementations: Mapping[str, Implementation], name: str, *arrays: jax.Array | jax.ShapeDtypeStruct | None
) -> Implementation:
    """The implementation called `name`, for float operands and outcomes that it can take; None: an absent one.

    Raises:
      ValueError: there is no such implementation.
      TypeError: one is not of a float dtype, or for 'cpu' neither float32 nor bfloat16.
      NotImplementedError: the C++ kernels cannot run here, or not in this dtype.
    """
    if name not in implementations:
        raise ValueError(f"implementation={name!r} is not one of {sorted(implementations)}")
    dtypes = {array.dtype for array in arrays if array is not None}
    if others := [str(dtype) for dtype in dtypes if not jnp.issubdtype(dtype, jnp.floating)]:
        raise TypeError(f"need arrays of float dtypes; got {sorted(others)}")
    if name == "cpu":
        if others := [str(dtype) for dtype in dtypes if dtype not in (jnp.float32, jnp.bfloat16)]:
            raise TypeError(f"implementation='cpu' takes float32 and bfloat16; got {sorted(others)}")
        for dtype in dtypes:
            if reason := cpu.unavailable_reason(str(dtype)):
                raise NotImplementedError(reason)
    return implementations[name]


def accumulator(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype that sums of this dtype are taken in: float32, or float64 for float64."""
    return jnp.promote_types(dtype, jnp.float32)


def rows(x: jax.Array) -> jax.Array:
    """[..., D] -> [N, D]."""
    return x.reshape(-1, x.shape[-1])


def row(vector_D: jax.Array, x: jax.Array) -> jax.Array:
    """The vector in a shape that broadcasts over the leading axes of x[..., D]."""
    return vector_D.reshape((1,) * (x.ndim - 1) + vector_D.shape)


def operand(array: jax.Array | None, dtype: jax.typing.DTypeLike | None = None) -> jax.Array:
    """The operand of a handler, cast where a dtype is given; an absent one is an array of shape (0,)."""
    if array is None:
        return jnp.zeros((0,), dtype or jnp.float32)
    return array if dtype is None else array.astype(dtype)


def stub(array: jax.Array | None) -> jax.Array | None:
    """An empty array of the same dtype: what a custom VJP keeps of an operand whose values it does not need."""
    return None if array is None else jnp.zeros((0,), array.dtype)


def gradient(value: jax.Array, stub: jax.Array | None) -> jax.Array | None:
    """The gradient in the dtype of the operand that `stub` was made of; None for an absent operand."""
    return None if stub is None else value.astype(stub.dtype)
