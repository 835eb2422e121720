"""Layer norm and RMS norm over the last axis."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax.rewriting.graph import Value
from ryot_jax.rewriting.layers import NormAbout, call_norm
from ryot_jax.rewriting.sites import Site, operand, pattern, reaches
from ryot_jax.rewriting.unify import unify

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


_VARIANCES = (_fast_variance, _slow_variance)
_LAYER_NORMS = [functools.partial(_layer_norm, variance) for variance in _VARIANCES]
_LAYER_NORMS += [functools.partial(_layer_norm, functools.partial(_clipped, variance)) for variance in _VARIANCES]
_SPELLINGS: list[tuple[Callable[..., jax.Array], str]] = [
    *((spelling, "layer norm") for spelling in _LAYER_NORMS),
    (_rms_norm, "rms norm"),
]


def find(value: Value) -> Site | None:
    """The norm whose result the value is."""
    if not value.shape or value.shape[-1] < 2 or not reaches(value, ("rsqrt", "sqrt"), _DEPTH):
        return None
    width = value.shape[-1:]
    shapes = {"x": (value.shape, "float32"), "scale": (width, "float32"), "norm_bias": (width, "float32")}
    for spelling, words in _SPELLINGS:
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
