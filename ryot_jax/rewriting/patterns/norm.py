"""Layer norm and RMS norm over the last axis."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ryot_jax import kernels
from ryot_jax.rewriting.fuse import NormAbout
from ryot_jax.rewriting.graph import Value
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


def _layer_norm(variance: Any, x: jax.Array, epsilon: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return (x - _mean(x)) * jax.lax.rsqrt(variance(x) + epsilon) * scale + bias


def _rms_norm(x: jax.Array, epsilon: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(_mean(jnp.square(x)) + epsilon) * scale + bias


_VARIANCES = (_fast_variance, _slow_variance)
_LAYER_NORMS = [functools.partial(_layer_norm, variance) for variance in _VARIANCES]
_LAYER_NORMS += [functools.partial(_layer_norm, functools.partial(_clipped, variance)) for variance in _VARIANCES]
_SPELLINGS: list[tuple[Callable[..., jax.Array], Callable[..., jax.Array]]] = [
    *((spelling, kernels.layer_norm) for spelling in _LAYER_NORMS),
    (_rms_norm, kernels.rms_norm),
]


def find(value: Value) -> Site | None:
    """The norm whose result the value is."""
    if not value.shape or value.shape[-1] < 2 or not reaches(value, ("rsqrt", "sqrt"), _DEPTH):
        return None
    width = value.shape[-1:]
    shapes = {"x": (value.shape, "float32"), "scale": (width, "float32"), "bias": (width, "float32")}
    for spelling, function in _SPELLINGS:
        found = unify(pattern(spelling, shapes, {"epsilon"}, {"scale", "bias"}, {"x"}), value)
        if found is not None and 0 <= found.numbers["epsilon"] < 1:
            names = [name for name in ("x", "scale", "bias") if name in found.arrays]
            return Site(
                "norm",
                value,
                tuple(operand(found.arrays[name], shapes[name][0]) for name in names),
                functools.partial(_call, function, tuple(names), found.numbers["epsilon"], value.dtype),
                function.__name__.replace("_", " "),
                tuple(names),
                NormAbout(found.numbers["epsilon"], function is kernels.layer_norm),
                ("x", "scale", "bias"),
            )
    return None


def _call(
    function: Any, names: tuple[str, ...], epsilon: float, dtype: str, implementation: str, *arrays: jax.Array
) -> jax.Array:
    given = dict(zip(names, arrays, strict=True))
    x = given["x"]
    scale = given.get("scale", jnp.ones(x.shape[-1:], jnp.float32))
    y: jax.Array = function(x, scale, given.get("bias"), epsilon=epsilon, dtype=dtype, implementation=implementation)
    return y
