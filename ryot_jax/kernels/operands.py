"""What every op asks of its operands, and how the C++ handlers are told that one is absent.

Nothing here computes: shapes are checked by each op, and products are its own.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax.kernels.declaration import Op


def choose(op: Op, name: str, *arrays: jax.Array | jax.ShapeDtypeStruct | None) -> Any:
    """The function of the implementation called `name`, for float operands and outcomes; None: an absent one.

    Raises:
      ValueError: there is no such implementation.
      TypeError: one is not of a float dtype, or of one that the implementation does not take.
      NotImplementedError: the implementation cannot run here, or not in this dtype.
    """
    if name not in op.implementations:
        raise ValueError(f"implementation={name!r} is not one of {sorted(op.implementations)}")
    dtypes = frozenset(array.dtype for array in arrays if array is not None)
    if others := [str(dtype) for dtype in dtypes if not jnp.issubdtype(dtype, jnp.floating)]:
        raise TypeError(f"need arrays of float dtypes; got {sorted(others)}")
    implementation = op.implementations[name]
    implementation.require(dtypes)
    return implementation.function


def accumulator(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype that sums of this dtype are taken in: float32, or float64 for float64."""
    return jnp.promote_types(dtype, jnp.float32)


def rows(x: jax.Array) -> jax.Array:
    """[..., D] -> [N, D]."""
    return x.reshape(-1, x.shape[-1])


def row(vector_D: jax.Array, x: jax.Array) -> jax.Array:
    """The vector in a shape that broadcasts over the leading axes of x[..., D]."""
    return vector_D.reshape((1,) * (x.ndim - 1) + vector_D.shape)


def as_ffi_operand(array: jax.Array | None, dtype: jax.typing.DTypeLike | None = None) -> jax.Array:
    """The operand of a handler, cast where a dtype is given; an absent one is an array of shape (0,)."""
    if array is None:
        return jnp.zeros((0,), dtype or jnp.float32)
    return array if dtype is None else array.astype(dtype)


def dtype_token(array: jax.Array | None) -> jax.Array | None:
    """An empty array of the same dtype: all that a custom VJP keeps of an operand whose values it does not need."""
    return None if array is None else jnp.zeros((0,), array.dtype)


def cast_gradient(value: jax.Array, token: jax.Array | None) -> jax.Array | None:
    """The gradient in the dtype of the operand that `token` was made of; None for an absent operand."""
    return None if token is None else value.astype(token.dtype)
