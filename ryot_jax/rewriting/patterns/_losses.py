"""Spellings of softmax cross-entropy by integer targets: losses of rows, from logits."""

import dataclasses
import enum
from collections.abc import Callable

import jax
import jax.numpy as jnp


def _optax(logits: jax.Array, targets: jax.Array) -> jax.Array:
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def _taken_from_logits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    taken = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - taken


# Logarithms of probabilities, whose negatives are the losses.
def _taken(logits: jax.Array, targets: jax.Array) -> jax.Array:
    logs = jax.nn.log_softmax(logits, axis=-1)
    return jnp.squeeze(jnp.take_along_axis(logs, targets[..., None], axis=-1), -1)


def _indexed(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(logits, axis=-1)[jnp.arange(targets.shape[0]), targets]


def _one_hot(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.sum(jax.nn.one_hot(targets, logits.shape[-1]) * jax.nn.log_softmax(logits, axis=-1), axis=-1)


def _one_hot_total(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.sum(jax.nn.one_hot(targets, logits.shape[-1]) * jax.nn.log_softmax(logits, axis=-1))


# With part of the target's probability spread over all classes: `on` times the target's, `off` times each class's. Of
# smoothed one-hot codes something is left where a target is no class, which the op does not compute.
def _taken_and_mean(logits: jax.Array, targets: jax.Array, on: jax.Array, off: jax.Array) -> jax.Array:
    logs = jax.nn.log_softmax(logits, axis=-1)
    taken = jnp.squeeze(jnp.take_along_axis(logs, targets[..., None], axis=-1), -1)
    return on * taken + off * jnp.sum(logs, axis=-1)


class Missing(enum.Enum):
    """Ways to compute the loss of a row whose target is no class, once negative ones have been counted from the end."""

    NAN = "NaN, with the gradient of the other terms"
    CONSTANT_NAN = "NaN, without a gradient"
    NEAREST = "that of the nearest class, without a gradient"
    NOTHING = "zero, without a gradient, for negative targets too"


@dataclasses.dataclass(frozen=True)
class Spelling:
    """A way to write losses.

    Attributes:
      function: of logits, targets and numbers.
      roots: primitives of its result.
      sign: times the losses it is the result.
      missing: what it gives for a target that is no class.
      numbers: names of its numbers.
      one_axis: whether rows have one axis.
      is_total: whether it is the sum over all rows.
    """

    function: Callable[..., jax.Array]
    roots: tuple[str, ...]
    sign: int
    missing: Missing
    numbers: tuple[str, ...] = ()
    one_axis: bool = False
    is_total: bool = False


SPELLINGS = (
    Spelling(_optax, ("sub",), 1, Missing.NAN),
    Spelling(_taken_from_logits, ("sub",), 1, Missing.NAN),
    Spelling(_taken, ("gather",), -1, Missing.CONSTANT_NAN),
    Spelling(_indexed, ("gather",), -1, Missing.NEAREST, one_axis=True),
    Spelling(_one_hot, ("reduce_sum",), -1, Missing.NOTHING),
    Spelling(_one_hot_total, ("reduce_sum",), -1, Missing.NOTHING, is_total=True),
    Spelling(_taken_and_mean, ("add", "sub"), -1, Missing.CONSTANT_NAN, ("on", "off")),
)


def soft_capped(logits: jax.Array, cap: jax.Array) -> jax.Array:
    """Logits with a bound on their size."""
    return cap * jnp.tanh(logits / cap)


def z_term(logits: jax.Array) -> jax.Array:
    """The square of the logarithm of the sum of exponentials, for each row."""
    return jnp.square(jax.nn.logsumexp(logits, axis=-1))
