"""Checks and conversions of operands shared by all ops, and the encoding of absent ones for the C++ handlers.

Nothing here computes: each op checks its own shapes and defines its own products.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax.kernels.declaration import Op


def choose(op: Op, name: str, *arrays: jax.Array | jax.ShapeDtypeStruct | None) -> Any:
    """The function of the implementation `name`, for float operands and results `arrays` (None: absent).

    Raises:
      ValueError: there is no such implementation.
      TypeError: an array is not of a float dtype, or of one that the implementation does not support.
      NotImplementedError: the implementation cannot run on this machine, or not in this dtype.
    """
    if name not in op.implementations:
        raise ValueError(f"implementation={name!r} is not one of {sorted(op.implementations)}")
    dtypes = frozenset(array.dtype for array in arrays if array is not None)
    if others := [str(dtype) for dtype in dtypes if not jnp.issubdtype(dtype, jnp.floating)]:
        raise TypeError(f"need arrays of float dtypes; got {sorted(others)}")
    implementation = op.implementations[name]
    implementation.require(dtypes)
    return implementation.function


def manual_axes(*arrays: jax.Array) -> tuple[str, ...]:
    """Names of the mesh axes along which one of the arrays varies, within `jax.shard_map`; else none."""
    return tuple(sorted(set().union(*(jax.typeof(x).manual_axis_type.varying for x in arrays))))


def varying(array: jax.Array, axes: Iterable[str]) -> jax.Array:
    """The array, as varying along these axes of a mesh."""
    missing = tuple(axis for axis in axes if axis not in manual_axes(array))
    return jax.lax.pcast(array, missing, to="varying") if missing else array


def zeros_like(array: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Zeros in an array's shape that vary as it does: where a loop begins to add up."""
    return varying(jnp.zeros(array.shape, dtype), manual_axes(array))


class OwnGradient:
    """`jax.custom_vjp`, for operands of which some vary along mesh axes of `jax.shard_map` and others do not.

    JAX's own functions cast the latter, so that their gradients are summed over the devices; what has a gradient of its
    own has to do it before.
    """

    def __init__(self, function: Callable[..., Any], nondiff_argnums: Sequence[int] = ()):
        functools.update_wrapper(self, function)
        self._function = jax.custom_vjp(function, nondiff_argnums=tuple(nondiff_argnums))
        self._static = frozenset(nondiff_argnums)
        self.defvjp = self._function.defvjp

    def __call__(self, *args: Any) -> Any:
        """The function's results."""
        operands = [arg for i, arg in enumerate(args) if i not in self._static]
        if axes := manual_axes(*jax.tree.leaves(operands)):
            alike = iter(jax.tree.map(lambda x: varying(x, axes), operands))
            args = tuple(arg if i in self._static else next(alike) for i, arg in enumerate(args))
        return self._function(*args)


def accumulator(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype in which sums of `dtype` are accumulated: float32, or float64 for float64."""
    return jnp.promote_types(dtype, jnp.float32)


def rows(x: jax.Array) -> jax.Array:
    """Flatten the leading axes: [..., D] -> [N, D]."""
    return x.reshape(-1, x.shape[-1])


def row(vector_D: jax.Array, x: jax.Array) -> jax.Array:
    """Reshape a vector to broadcast over the leading axes of x[..., D]."""
    return vector_D.reshape((1,) * (x.ndim - 1) + vector_D.shape)


def as_ffi_operand(array: jax.Array | None, dtype: jax.typing.DTypeLike | None = None) -> jax.Array:
    """Prepare an operand for a handler, cast if a dtype is given; an absent one becomes an array of shape (0,)."""
    if array is None:
        return jnp.zeros((0,), dtype or jnp.float32)
    return array if dtype is None else array.astype(dtype)


def dtype_token(array: jax.Array | None) -> jax.Array | None:
    """An empty array of the same dtype, kept by a custom VJP for an operand whose values it does not need."""
    return None if array is None else jnp.zeros((0,), array.dtype)


def cast_gradient(value: jax.Array, token: jax.Array | None) -> jax.Array | None:
    """Cast a gradient to the dtype of the operand that `token` was made from; None for an absent operand."""
    return None if token is None else value.astype(token.dtype)
