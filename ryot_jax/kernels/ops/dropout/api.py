"""The public function of the op: `dropout`."""

import jax

from ryot_jax.kernels.operands import choose
from ryot_jax.kernels.ops.dropout import OP


def dropout(x: jax.Array, rate: float, key: jax.Array | None, *, implementation: str = "reference") -> jax.Array:
    """Set each element to zero with probability `rate` and scale the others by 1 / (1 - rate) (arXiv:1207.0580).

    Args:
      x: any shape, any float dtype.
      rate: probability in [0, 1).
      key: a JAX random key; None: the identity.
      implementation: 'reference' (`jax.random.bernoulli`) or 'hash' (see its module: a few instructions per element).

    Returns:
      Shape and dtype of x. The same key gives the same mask.

    Raises:
      ValueError: the rate is not a probability below one, or the implementation is not known.
      TypeError: x is not of a float dtype.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"need a rate in [0, 1); got {rate}")
    apply = choose(OP, implementation, x)
    if key is None or rate == 0:
        return x
    y: jax.Array = apply(float(rate), key, x)
    return y
