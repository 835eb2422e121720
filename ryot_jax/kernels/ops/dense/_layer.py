"""A dense layer around any product: bias, activation and residual, which XLA fuses as it sees fit; and its probe."""

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


# In the order of the handlers' numbers for them.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "none": lambda h: h,
    "gelu": functools.partial(jax.nn.gelu, approximate=True),
    "relu2": lambda h: jnp.square(jax.nn.relu(h)),
    "swiglu": _swiglu,
}


def activation_code(activation: str) -> np.int64:
    """The handlers' number for it."""
    return np.int64(list(ACTIVATIONS).index(activation))


def layer(
    product: Callable[[jax.Array, jax.Array], jax.Array],
    activation: str,
    x: jax.Array,
    w_DF: jax.Array,
    b_F: jax.Array | None,
    residual: jax.Array | None,
) -> jax.Array:
    """The op, of any product of x and w."""
    h = product(x, w_DF)
    if b_F is not None:
        h = h + row(b_F.astype(h.dtype), h)
    y = ACTIVATIONS[activation](h.astype(x.dtype))
    return y if residual is None else residual + y.astype(residual.dtype)


def narrow_products(dtype: str) -> Probe:
    """A probe that wants more products of two operands of `dtype`, one an MLP weight, than the baseline has."""

    def probe(program: Program, baseline: Program, spec: Spec) -> Evidence:
        # A gated MLP may hold both of its input matrices in one, twice as wide.
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
