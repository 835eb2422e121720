"""A dense layer around any product, with bias, activation and residual left to XLA's fusion; and its probe."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels.declaration import Evidence, Probe, Spec
from ryot_jax.kernels.operands import row
from ryot_jax.runtime.hlo import Array, Program


def _swiglu(h: jax.Array) -> jax.Array:
    gate, value = jnp.split(h, 2, axis=-1)
    return jax.nn.silu(gate) * value


# In the order of the handlers' activation codes.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "none": lambda h: h,
    "gelu": functools.partial(jax.nn.gelu, approximate=True),
    "relu2": lambda h: jnp.square(jax.nn.relu(h)),
    "swiglu": _swiglu,
}


def activation_code(activation: str) -> np.int64:
    """The C++ handlers' code of an activation."""
    return np.int64(list(ACTIVATIONS).index(activation))


def layer(
    product: Callable[[jax.Array, jax.Array], jax.Array],
    activation: str,
    x: jax.Array,
    w_DF: jax.Array,
    b_F: jax.Array | None,
    residual: jax.Array | None,
) -> jax.Array:
    """Dense layer activation(product(x, w) + b) + residual."""
    h = product(x, w_DF)
    if b_F is not None:
        h = h + row(b_F.astype(h.dtype), h)
    y = ACTIVATIONS[activation](h.astype(x.dtype))
    return y if residual is None else residual + y.astype(residual.dtype)


def narrow_products(dtype: str) -> Probe:
    """A probe that requires more products of `dtype` operands with an MLP weight than the baseline has."""

    def probe(program: Program, baseline: Program, spec: Spec) -> Evidence:
        # A gated MLP may keep both of its input matrices in one of twice the width.
        widths = {spec.d_ff, 2 * spec.d_ff} - ({spec.vocab_size} - {spec.d_ff})

        def is_weight(array: Array) -> bool:
            return len(array.dims) == 2 and any(sorted(array.dims) == sorted((spec.d_model, width)) for width in widths)

        def count(which: Program) -> int:
            return sum(
                all(operand.dtype.startswith(dtype) for operand in operands) and any(map(is_weight, operands))
                for operands in which.dots
            )

        ours, theirs = count(program), count(baseline)
        text = f"{ours} {dtype} x {dtype} products with an MLP weight, {theirs} in the baseline"
        return Evidence(ours > theirs, text)

    return probe
