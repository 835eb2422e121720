"""Visibility of keys to queries, and the forms in which an implementation takes its operands."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Visible(NamedTuple):
    """The keys that a query can see, apart from the padding mask."""

    causal: bool
    window: int | None

    def matrix(self, queries: range, keys: range) -> jax.Array | None:
        """The bool matrix visible_QS of these ranges, or None if everything is visible."""
        if not self.causal:
            return None
        behind_QS = (queries.start + jnp.arange(len(queries)))[:, None] - (keys.start + jnp.arange(len(keys)))[None, :]
        return behind_QS >= 0 if self.window is None else (behind_QS >= 0) & (behind_QS < self.window)

    def attributes(self) -> dict[str, Any]:
        """The attributes of a C++ handler that say the same."""
        return {"causal": np.int64(self.causal), "window": np.int64(self.window or 0)}


class Functions(NamedTuple):
    """The functions of an implementation, by the form of its operands.

    Attributes:
      separate: (visible, q_BTHK, k_BSGK, v_BSGK, mask_BS or None) -> o_BTHK.
      packed: (visible, n_heads, qkv_BTNK, mask_BT or None) -> o_BTHK; None: the array is split.
    """

    separate: Callable[[Visible, jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]
    packed: Callable[[Visible, int, jax.Array, jax.Array | None], jax.Array] | None = None
