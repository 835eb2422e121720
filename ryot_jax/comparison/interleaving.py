"""Step times of several programs that take turns: blocks of steps in random order, there and back again.

A block is a function, which may run its steps in this process or in another one. `statistics` and `attribution`
interpret the times.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Block = Callable[[int], float]
"""Runs the given number of steps, from an idle device to an idle device, and returns the seconds."""


def there_and_back(order: Sequence[str], steps: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Visits of a block: each arm in order with the larger half of its steps, then in reverse order with the rest.

    Two arms run A B B A, so that a drift linear in time slows both alike. A block of one step has no second visit.

    Args:
      order: names of the arms.
      steps: steps of the block, by arm.

    Returns:
      (arm, steps) of each visit, in the order of execution.
    """
    there = [(name, steps[name] - steps[name] // 2) for name in order]
    back = [(name, steps[name] // 2) for name in reversed(order)]
    return tuple((name, count) for name, count in (*there, *back) if count > 0)


def take_turns(arms: Mapping[str, Block], visits: Sequence[tuple[str, int]], pause: float = 0.0) -> dict[str, float]:
    """Runs the visits of a block and returns the seconds of each arm, summed over its visits.

    Args:
      arms: name -> function that runs its steps.
      visits: (arm, steps) in the order of execution.
      pause: seconds to sleep before each visit, so that the threads of the arm before can go idle.
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
    """Times the arms in rounds and returns the seconds per step of each, float64[rounds] by name.

    A round visits all arms in random order and then again in reverse order, so that a drift of the machine within the
    round slows all arms alike: entry i of two arms is a pair.

    Args:
      arms: name -> function that runs its steps.
      steps: steps per visit, by arm.
      rounds: number of rounds.
      seed: seed of the orders.
      pause: as in `take_turns`.
      on_round: called with the number of finished rounds.
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
