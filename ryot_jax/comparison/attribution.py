"""The effect of each optimization: alone, left out of the full set, and averaged over all orders.

Pure statistics on the step times of arms with subsets of the optimizations ("players") on; `ablation` designs and
times the subsets.

All statistics are taken on log times, round by round: a slow round slows all of its arms, and so cancels in every
difference. Effects are therefore ratios, and 1 means no effect.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ryot_jax.comparison.statistics import (
    EXACT_PAIRS,
    MONTE_CARLO_PATTERNS,
    Interval,
    check_interval,
    sign_flip_p,
    t_interval,
)

LEVEL = 0.05  # significance level after Holm's correction
OUTLIER = 1.5  # factor over the time that its arm and its round explain
MOST_IN_ALL_SUBSETS = 5  # with more players than this not every subset gets an arm: 2**5 = 32

Subset = frozenset[str]
"""The names of the players that are on in an arm."""


@dataclasses.dataclass(frozen=True)
class Player:
    """An optimization to attribute an effect to: its name, its config field, and its implementation."""

    name: str
    switch: str
    implementation: str


@dataclasses.dataclass(frozen=True)
class Effect:
    """A ratio of step times.

    Attributes:
      estimate: geometric mean over rounds, above 1 is faster; None if a required arm was not timed.
      ci95: t interval of the mean log ratio, on the ratio scale; None if the rounds allow none.
    """

    estimate: float | None
    ci95: Interval | None

    def __post_init__(self) -> None:
        """Checks the interval."""
        check_interval("ci95", self.ci95)


@dataclasses.dataclass(frozen=True)
class EffectWithP(Effect):
    """An effect with p values against no effect (a ratio of 1).

    Attributes:
      p: two-sided p of the sign-flip test over rounds (exact up to 16); None without data.
      p_holm: `p` with Holm's correction over all tests of the family.
    """

    p: float | None
    p_holm: float | None


@dataclasses.dataclass(frozen=True)
class PlayerEffects(Player):
    """The effects of one player.

    Attributes:
      alone: time of the baseline / time of the baseline with it on ("add one").
      left_out: time of the full set without it / time of the full set ("leave one out").
      shapley: its factor of the total, averaged over all orders of switching on; None if a subset was not timed. The
        factors of all players multiply to the total.
    """

    alone: EffectWithP
    left_out: EffectWithP
    shapley: Effect | None


@dataclasses.dataclass(frozen=True)
class Attribution:
    """The effect of all players together, and of each.

    Attributes:
      rounds: number of rounds.
      baseline_ms: milliseconds per step with no player on, geometric mean over rounds.
      full_ms: milliseconds per step with all players on, likewise; the ratio of the two is `total`.
      total: time of the baseline / time of the full set.
      players: effects of each player, in the order given.
      interaction: total / product of the players' effects alone. 1: the effects multiply; above 1: together they
        gain more, as when one pays only beside another; below 1: less, as when two save the same work.
    """

    rounds: int
    baseline_ms: float
    full_ms: float
    total: Effect
    players: tuple[PlayerEffects, ...]
    interaction: Effect


def attribute(seconds: Mapping[Subset, ArrayLike], players: Sequence[Player]) -> Attribution:
    """Computes the effects of the players on the time of a step.

    "Alone" and "left out" are the two extremes of a player's gain: with all others off, and with all others on. If
    players interact the two differ, and neither set multiplies to the total. The Shapley value (Shapley 1953, A value
    for n-person games) is the mean gain of switching a player on, over all orders of switching on: the mean of
    log t(S) - log t(S + player) over the subsets S of the other n - 1, with the weights |S|! (n - |S| - 1)! / n!. It is
    the only share that always adds up to the total, is equal for players of equal effect, zero for a player without
    effect, and linear in the log times; being linear, it is taken in each round and so has an interval over rounds.

    The p values of all players, alone and left out, are one family, corrected by Holm's method (1979, A simple
    sequentially rejective multiple test procedure): testing p_holm < 0.05, the probability of one or more false
    positives is at most 5 %. Each interval is a 95 % interval without correction.

    Args:
      seconds: seconds per step of the arm with each subset on, in every round, float64[rounds]; entry i of all arms
        is one round. The empty and the full subset are required; a missing other one makes its effects None.
      players: the players of the full subset.

    Raises:
      ValueError: the empty or the full subset is missing, a subset holds an unknown player, or times are not positive
        finite vectors of one length.
    """
    log_seconds = _checked(seconds, players)
    names = [player.name for player in players]
    full = frozenset(names)

    def gain(slow: Subset, fast: Subset) -> np.ndarray | None:
        if slow not in log_seconds or fast not in log_seconds:
            return None
        return log_seconds[slow] - log_seconds[fast]

    total = log_seconds[frozenset()] - log_seconds[full]
    alone = {name: gain(frozenset(), frozenset([name])) for name in names}
    left_out = {name: gain(full - {name}, full) for name in names}
    tested = iter(_tested([*alone.values(), *left_out.values()]))
    alone_effects, left_out_effects = ({name: next(tested) for name in names} for _ in range(2))
    return Attribution(
        rounds=int(total.size),
        baseline_ms=_mean_ms(log_seconds[frozenset()]),
        full_ms=_mean_ms(log_seconds[full]),
        total=_effect(total),
        players=tuple(
            PlayerEffects(
                **dataclasses.asdict(player),
                alone=alone_effects[player.name],
                left_out=left_out_effects[player.name],
                shapley=_shapley(log_seconds, player.name, full),
            )
            for player in players
        ),
        interaction=_interaction(total, list(alone.values())),
    )


@dataclasses.dataclass(frozen=True)
class Outlier:
    """A time `factor` times as long as its arm (in other rounds) and its round (in other arms) explain."""

    subset: Subset
    round: int
    factor: float


def outliers(seconds: Mapping[Subset, ArrayLike]) -> list[Outlier]:
    """Times that are longer than their arm and their round explain, the longest first; rounds count from 1.

    Found by one sweep of a median polish (Tukey 1977) of the log times, arms first. Outliers are reported, not
    removed: they show how quiet the machine was.
    """
    names = list(seconds)
    excess = np.log(np.stack([np.asarray(seconds[subset], np.float64) for subset in names]))
    excess -= np.median(excess, axis=1, keepdims=True)
    excess -= np.median(excess, axis=0, keepdims=True)
    found = [
        Outlier(names[arm], int(index) + 1, math.exp(excess[arm, index]))
        for arm, index in zip(*np.nonzero(excess > math.log(OUTLIER)), strict=True)
    ]
    return sorted(found, key=lambda outlier: -outlier.factor)


def least_holm_p(rounds: int, tests: int) -> float:
    """The smallest Holm p value that the sign-flip test over `rounds` rounds can give in a family of `tests`."""
    least = 2.0 / (2**rounds if rounds <= EXACT_PAIRS else MONTE_CARLO_PATTERNS + 1)
    return min(1.0, tests * least)


def subsets(names: Sequence[str]) -> Iterator[Subset]:
    """Yields all subsets of `names`, the smaller first."""
    for size in range(len(names) + 1):
        yield from map(frozenset, itertools.combinations(names, size))


def _checked(seconds: Mapping[Subset, ArrayLike], players: Sequence[Player]) -> dict[Subset, np.ndarray]:
    """Log times, float64[rounds]."""
    full = frozenset(player.name for player in players)
    if not players or len(full) < len(players):
        raise ValueError(f"players must be at least one, of different names, got {[p.name for p in players]}")
    arrays = {subset: np.asarray(values, np.float64) for subset, values in seconds.items()}
    for needed in (frozenset(), full):
        if needed not in arrays:
            raise ValueError(f"the arm with {sorted(needed) or 'nothing'} on is needed")
    shape = arrays[full].shape
    for subset, values in arrays.items():
        if not subset <= full:
            raise ValueError(f"an arm has {sorted(subset - full)} on, which are no players")
        if values.ndim != 1 or values.shape != shape or not values.size:
            raise ValueError(f"times must be vectors of one length, got {values.shape} and {shape}")
        if not (np.isfinite(values).all() and values.min() > 0):
            raise ValueError(f"times must be positive and finite, got {values} of the arm with {sorted(subset)} on")
    return {subset: np.log(values) for subset, values in arrays.items()}


def _shapley(log_seconds: Mapping[Subset, np.ndarray], name: str, full: Subset) -> Effect | None:
    others, n = sorted(full - {name}), len(full)
    value = np.zeros_like(log_seconds[full])
    for subset in subsets(others):
        if subset not in log_seconds or subset | {name} not in log_seconds:
            return None
        weight = math.factorial(len(subset)) * math.factorial(n - len(subset) - 1) / math.factorial(n)
        value += weight * (log_seconds[subset] - log_seconds[subset | {name}])
    return _effect(value)


def _interaction(total: np.ndarray, alone: Sequence[np.ndarray | None]) -> Effect:
    timed = [gain for gain in alone if gain is not None]
    if len(timed) < len(alone):
        return _effect(None)
    return _effect(total - np.sum(timed, axis=0))


def _effect(log_ratio: np.ndarray | None) -> Effect:
    """The effect from one log ratio per round; `log_ratio` None: not timed."""
    if log_ratio is None:
        return Effect(None, None)
    interval = t_interval(log_ratio)
    bounds = None if interval is None else (math.exp(interval[0]), math.exp(interval[1]))
    return Effect(math.exp(log_ratio.mean()), bounds)


def _tested(log_ratios: Sequence[np.ndarray | None]) -> list[EffectWithP]:
    """The effects in the order given, their p values corrected as one family."""
    p_values = [None if log_ratio is None else sign_flip_p(log_ratio) for log_ratio in log_ratios]
    known = [p for p in p_values if p is not None]
    # Imported here: it brings pandas and with it pyarrow, whose threads would get arenas before the allocator is set.
    from statsmodels.stats.multitest import multipletests

    corrected = iter(multipletests(known, alpha=LEVEL, method="holm")[1] if known else ())
    return [
        EffectWithP(**dataclasses.asdict(_effect(log_ratio)), p=p, p_holm=None if p is None else float(next(corrected)))
        for log_ratio, p in zip(log_ratios, p_values, strict=True)
    ]


def _mean_ms(log_seconds: np.ndarray) -> float:
    return 1e3 * math.exp(log_seconds.mean())
