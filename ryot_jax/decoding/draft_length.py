"""The number of drafted tokens to check at each decoding step, as a function of what was observed so far.

A draft length is a pure function of what the loop has observed so far, and runs inside the compiled loop. Lengths are
masked within one program, so no length compiles again.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.runtime.errors import ConfigError


class Observed(NamedTuple):
    """Observations so far: discounted numbers of drafted tokens, float32[B], and the number of checks, int32[]."""

    checked_B: jax.Array
    right_B: jax.Array
    step: jax.Array

    @property
    def acceptance_B(self) -> jax.Array:
        """The running estimate of the probability that a drafted token is right, given that those before it are."""
        return self.right_B / self.checked_B


DraftLength = Callable[[Observed], jax.Array]
"""observed -> int32[B], the number of drafted tokens to check; larger numbers mean all of them."""

# What is observed is forgotten by this factor a step, so that the length follows the text: in a simulation of drafts
# that are good and bad by turns for 40 steps, 0.9 gave 7 % fewer tokens per unit of cost and 0.95 15 % fewer.
MEMORY = 0.8
# Each step counts as this many tokens checked, and right, beside the real ones. So where drafts fail and none is
# checked any more, the estimate drifts to 0.3 and one is tried again now and then. Drafts that are always wrong cost
# 2 % of the tokens per second in the simulation.
CHECKED, RIGHT = 0.1, 0.03


def nothing_observed(batch_size: int) -> Observed:
    """The observations before the first check."""
    weight = 1.0 / (1.0 - MEMORY)
    checked_B, right_B = (jnp.full(batch_size, weight * number, jnp.float32) for number in (CHECKED, RIGHT))
    return Observed(checked_B, right_B, jnp.zeros((), jnp.int32))


def observe(observed: Observed, drafted_B: jax.Array, right_B: jax.Array) -> Observed:
    """The observations after a check of `drafted_B` tokens, of which the first `right_B` were right."""
    seen_B = jnp.minimum(right_B + 1, drafted_B)  # the token after the right ones was seen to be wrong
    return Observed(
        MEMORY * observed.checked_B + (CHECKED + seen_B),
        MEMORY * observed.right_B + (RIGHT + right_B),
        observed.step + 1,
    )


def fixed(length: int) -> DraftLength:
    """A constant draft length; 0 checks no draft."""
    if length < 0:
        raise ConfigError(f"draft length {length}: must be at least 0")
    return lambda observed: jnp.full(len(observed.checked_B), length, jnp.int32)


@dataclasses.dataclass(frozen=True)
class ByAcceptance:
    """The length that gives the most tokens for the time, at the acceptance seen so far: a `DraftLength`.

    With acceptance a, k drafted tokens give (1 - a^(k+1)) / (1 - a) tokens a step on average, which takes 1 + cost k
    times as long as a step without a draft (Leviathan et al. 2023, arXiv:2211.17192, for a draft that is free).

    Attributes:
      cost: of each drafted token that is checked, as a share of a step for one token; at least 0.
      longest: the largest length that it gives.
    """

    cost: float
    longest: int

    def __post_init__(self) -> None:
        if not (np.isfinite(self.cost) and self.cost >= 0.0):
            raise ConfigError(f"cost = {self.cost}: must be finite and at least 0")

    def __call__(self, observed: Observed) -> jax.Array:
        """The length for each sequence."""
        is_reached_BK = observed.acceptance_B[:, None] > jnp.asarray(self.thresholds())[None]
        return jnp.sum(is_reached_BK, axis=1)

    def thresholds(self) -> np.ndarray:
        """The acceptance above which each length from 1 on is better than those below, float32[longest], rising."""
        acceptance_A = np.linspace(0.0, 1.0, 2001)
        tokens_AK = np.cumsum(acceptance_A[:, None] ** np.arange(self.longest + 1), axis=1)
        best_A = np.argmax(tokens_AK / (1.0 + self.cost * np.arange(self.longest + 1)), axis=1)
        reached = [np.flatnonzero(best_A >= length) for length in range(1, self.longest + 1)]
        return np.array([acceptance_A[at[0]] if len(at) else np.inf for at in reached], np.float32)
