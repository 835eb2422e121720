"""Embedding by XLA's gather, differentiated by JAX."""

import jax
import jax.numpy as jnp

from ryot_jax.kernels.declaration import Implementation


def take(dtype: jnp.dtype, V: int, table_VD: jax.Array, tokens: jax.Array, positions_TD: jax.Array | None) -> jax.Array:
    """The op by its definition; V, the number of rows of the table, is used by other implementations."""
    del V
    # Like jnp.take, except that a negative id does not count from the end.
    x = table_VD.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    if positions_TD is not None:
        x = x + positions_TD.reshape((1,) * (tokens.ndim - 1) + positions_TD.shape)
    return x.astype(dtype)


IMPLEMENTATION = Implementation(function=take, is_compiled_by_xla=True)
