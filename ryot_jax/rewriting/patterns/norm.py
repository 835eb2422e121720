"""Layer norm and RMS norm over the last axis."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax.rewriting.graph import Value
from ryot_jax.rewriting.layers import NormAbout, call_norm
from ryot_jax.rewriting.sites import Site, above, operand, pattern, reaches
from ryot_jax.rewriting.unify import unify
from ryot_jax.rewriting.views import number

PLACE = 3  # ops of larger parts of a function are looked for first
ROOTS = {"add", "mul", "sub", "div"}
_DEPTH = 4  # equations between a norm and its root


def _mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=-1, keepdims=True)


def _fast_variance(x: jax.Array) -> jax.Array:
    return _mean(jnp.square(x)) - jnp.square(_mean(x))


def _slow_variance(x: jax.Array) -> jax.Array:
    return _mean(jnp.square(x - _mean(x)))


def _clipped(variance: Any, x: jax.Array) -> jax.Array:
    return jnp.maximum(0.0, variance(x))


def _layer_norm(variance: Any, x: jax.Array, epsilon: jax.Array, scale: jax.Array, norm_bias: jax.Array) -> jax.Array:
    return (x - _mean(x)) * jax.lax.rsqrt(variance(x) + epsilon) * scale + norm_bias


def _rms_norm(x: jax.Array, epsilon: jax.Array, scale: jax.Array, norm_bias: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(_mean(jnp.square(x)) + epsilon) * scale + norm_bias


_Spellings = list[tuple[Callable[..., jax.Array], str]]
_VARIANCES = (_fast_variance, _slow_variance)
_LAYER_NORMS: _Spellings = [(functools.partial(_layer_norm, variance), "layer norm") for variance in _VARIANCES]
_CLIPPED: _Spellings = [
    (functools.partial(_layer_norm, functools.partial(_clipped, variance)), "layer norm") for variance in _VARIANCES
]
_SPELLINGS: _Spellings = [*_LAYER_NORMS, (_rms_norm, "rms norm")]


def find(value: Value) -> Site | None:
    """The norm whose result the value is."""
    if not value.shape or value.shape[-1] < 2 or not _has_root(value):
        return None
    width = value.shape[-1:]
    shapes = {"x": (value.shape, "float32"), "scale": (width, "float32"), "norm_bias": (width, "float32")}
    for spelling, words in [*_CLIPPED, *_SPELLINGS] if reaches(value, ("max",), _DEPTH + 2) else _SPELLINGS:
        found = unify(pattern(spelling, shapes, {"epsilon"}, {"scale", "norm_bias"}, {"x"}), value)
        if found is not None and 0 <= found.numbers["epsilon"] < 1:
            names = tuple(name for name in shapes if name in found.arrays)
            about = NormAbout(found.numbers["epsilon"], words == "layer norm", value.dtype)
            return Site(
                "norm",
                value,
                tuple(operand(found.arrays[name], shapes[name][0]) for name in names),
                functools.partial(call_norm, about, False, names),
                words,
                names,
                about,
                ("x", "scale", "norm_bias"),
                passing=functools.partial(call_norm, about, True, names),
            )
    return None


def _has_root(value: Value) -> bool:
    """Whether the root of an array is among the nearest nodes."""
    roots = (node for node in above(value, _DEPTH) if node.primitive in ("rsqrt", "sqrt"))
    return any(number(node.outputs[0]) is None for node in roots)
