"""Step times of several programs that take turns: blocks of steps in random order, there and back again.

Only time is kept here; what a block runs is a function, in this process or behind a pipe. What the times mean is left
to `statistics` and `attribution`.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Block = Callable[[int], float]
"""Runs that many steps from an idle device to an idle device, and returns the seconds that they took."""


def there_and_back(order: Sequence[str], steps: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Each arm in order with half of its steps (the larger one), then in the reverse order with the rest.

    Two arms run A B B A: a drift that is linear in time takes as much from one as from the other. A block of one step
    has no way back.
    """
    there = [(name, steps[name] - steps[name] // 2) for name in order]
    back = [(name, steps[name] // 2) for name in reversed(order)]
    return tuple((name, count) for name, count in (*there, *back) if count > 0)


def take_turns(arms: Mapping[str, Block], visits: Sequence[tuple[str, int]], pause: float = 0.0) -> dict[str, float]:
    """Seconds that each arm took in all its visits.

    Args:
      arms: name -> what runs its blocks.
      visits: which arm takes how many steps, one after the other.
      pause: seconds of rest before each visit, in which another arm's threads may fall asleep.
    """
    taken = dict.fromkeys(arms, 0.0)
    for name, steps in visits:
        time.sleep(pause)
        taken[name] += arms[name](steps)
    return taken


def interleave(
    arms: Mapping[str, Block],
    steps: Mapping[str, int],
    *,
    rounds: int,
    seed: int = 0,
    pause: float = 0.0,
    on_round: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Seconds per step of every arm in every round, float64[rounds].

    A round visits all arms in a random order and then once more in the reverse order, so that a machine that drifts
    within the round slows all of them alike: entry i of two arms is a pair.

    Args:
      arms: name -> what runs its blocks.
      steps: steps of one visit, by arm.
      rounds: how many.
      seed: of the orders.
      pause: as in `take_turns`.
      on_round: told the number of rounds done.
    """
    order = np.random.default_rng(seed)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for done in range(1, rounds + 1):
        names = [str(name) for name in order.permutation(list(arms))]
        taken = take_turns(arms, there_and_back(names, {name: 2 * steps[name] for name in names}), pause)
        for name in arms:
            seconds[name].append(taken[name] / (2 * steps[name]))
        if on_round is not None:
            on_round(done)
    return {name: np.array(values) for name, values in seconds.items()}
