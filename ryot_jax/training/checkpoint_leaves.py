"""Leaves of a training state as named host arrays that can be stored, hashed and put back on devices."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.training.state import State


def named_leaves(state: State) -> dict[str, Any]:
    """The leaves of a state by their dotted path, such as 'params.embedding'."""
    paths_and_leaves, _ = jax.tree.flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths_and_leaves}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def describe(leaf: Any) -> dict[str, Any]:
    """Dtype and shape of the stored array of a leaf, as JSON values."""
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return {"dtype": str(leaf.dtype), "shape": list(leaf.shape)}


def to_host(state: State) -> dict[str, np.ndarray]:
    """Copies all leaves to host arrays, typed keys as their raw words.

    On a CPU they are views, which must not outlive the save: the next step could not reuse the memory.
    """
    named = named_leaves(state)
    return jax.device_get({n: jax.random.key_data(x) if _is_key(x) else x for n, x in named.items()})


def place(leaf: np.ndarray, like: Any, key_impl: str) -> jax.Array:
    """Places a stored array on the devices of `like`; `key_impl` names the generator of typed keys."""
    sharding = like.sharding
    if _is_key(like):
        return jax.device_put(jax.random.wrap_key_data(jnp.asarray(leaf), impl=key_impl), sharding)
    return jax.device_put(leaf, sharding, may_alias=False)


def sha256(leaf: np.ndarray) -> str:
    """The SHA-256 (hex) of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(leaf).view(np.uint8).data).hexdigest()


def in_words(leaf: dict[str, Any] | None) -> str:
    """A description by `describe` for error messages, such as 'float32[4, 2]'; 'absent' for None."""
    return "absent" if leaf is None else f"{leaf['dtype']}{json.dumps(leaf['shape'])}"
