"""How much each optimization brings: alone, left out of the full set, and averaged over all orders.

Pure statistics on the step times of arms with subsets of the optimizations ("players") on. Which subsets there are,
and how they are timed, is left to `ablation`.

Everything is taken on log times, round by round: all arms of one round are a block, so that what slows the machine
in a round falls out of every difference. Effects are therefore ratios, and 1 means none.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from statsmodels.stats.multitest import multipletests

from ryot_jax.comparison.statistics import (
    EXACT_PAIRS,
    MONTE_CARLO_PATTERNS,
    Interval,
    check_interval,
    sign_flip_p,
    t_interval,
)

LEVEL = 0.05  # of significance after Holm's correction
OUTLIER = 1.5  # times as long as its arm and its round explain
MOST_IN_ALL_SUBSETS = 5  # players whose every subset is worth an arm: 2**5 = 32

Subset = frozenset[str]
"""Names of the players that are on in an arm."""


@dataclasses.dataclass(frozen=True)
class Player:
    """An optimization whose effect is wanted: its name, its config field, and the implementation that is tried."""

    name: str
    switch: str
    implementation: str


@dataclasses.dataclass(frozen=True)
class Effect:
    """A ratio of step times.

    Attributes:
      estimate: geometric mean over rounds, above 1 is faster; None where an arm that it needs was not timed.
      ci95: t interval on the mean log ratio, back on the ratio scale; None where the rounds allow none.
    """

    estimate: float | None
    ci95: Interval | None

    def __post_init__(self) -> None:
        """Checks the interval."""
        check_interval("ci95", self.ci95)


@dataclasses.dataclass(frozen=True)
class EffectWithP(Effect):
    """An effect with the evidence against 1.

    Attributes:
      p: two-sided p of the sign-flip test over rounds (exact up to 16); None without data.
      p_holm: the same, corrected for all tests of the family after Holm.
    """

    p: float | None
    p_holm: float | None


@dataclasses.dataclass(frozen=True)
class PlayerEffects(Player):
    """Effects of one player.

    Attributes:
      alone: time of the baseline / time of the baseline with it on ("add one").
      left_out: time of the full set without it / time of the full set ("leave one out").
      shapley: its factor of the total, averaged over all orders of switching on; None where not every subset was
        timed. The factors of all players multiply to the total.
    """

    alone: EffectWithP
    left_out: EffectWithP
    shapley: Effect | None


@dataclasses.dataclass(frozen=True)
class Attribution:
    """Effect of all players together, and of each.

    Attributes:
      rounds: number of rounds.
      baseline_ms: geometric mean of the time of a step with no player on, over rounds.
      full_ms: the same with all players on; the ratio of the two is `total`.
      total: time of the baseline / time of the full set.
      players: in the order given.
      interaction: total / product of the players' effects alone. 1: the parts multiply; above: together they give more
        than that, as where one only pays beside another; below: less, as where two save the same work.
    """

    rounds: int
    baseline_ms: float
    full_ms: float
    total: Effect
    players: tuple[PlayerEffects, ...]
    interaction: Effect


def attribute(seconds: Mapping[Subset, ArrayLike], players: Sequence[Player]) -> Attribution:
    """Effects of the players on the time of a step.

    "Alone" and "left out" are the two ends of what a player can bring: without and with all others on. Where players
    interact they differ, and neither set multiplies to the total. The Shapley value (Shapley 1953, A value for n-person
    games) is the mean over all orders of what a player adds when it is switched on: of its gains
    log t(S) - log t(S + player) over the subsets S of the other n - 1, with the weights |S|! (n - |S| - 1)! / n!. It is
    the only share that always adds up to the total, is the same for players that do the same, zero for one that does
    nothing, and linear in the log times; being linear, it is taken in each round and so has an interval over rounds.

    All p values of the players, alone and left out, are one family, corrected after Holm (1979, A simple sequentially
    rejective multiple test procedure): the chance that any player without effect looks as if it had one is at most 5 %
    where p_holm < 0.05 counts. Intervals are 95 % each, and not corrected.

    Args:
      seconds: seconds per step of the arm with each subset on, in every round, float64[rounds]; entry i of all arms
        is one round. The empty and the full subset are needed, others make an effect None where they are missing.
      players: those of the full subset.

    Raises:
      ValueError: the empty or the full subset is missing, a subset holds somebody else, or times are not positive
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
    """A time that is `factor` times as long as its arm in other rounds and its round in other arms explain."""

    subset: Subset
    round: int
    factor: float


def outliers(seconds: Mapping[Subset, ArrayLike]) -> list[Outlier]:
    """Times that something else than the program and a slow round has made long, the longest first.

    They are found by one sweep of a median polish (Tukey 1977) of the log times, arms first; rounds count from 1.
    Nothing is taken out because of it: it says how quiet the machine was.
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
    """The smallest Holm p that `rounds` rounds can give in a family of `tests`: the sign-flip test has no smaller."""
    least = 2.0 / (2**rounds if rounds <= EXACT_PAIRS else MONTE_CARLO_PATTERNS + 1)
    return min(1.0, tests * least)


def subsets(names: Sequence[str]) -> Iterator[Subset]:
    """All subsets, the smaller first."""
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
    """The effect of log ratios by round; None: not timed."""
    if log_ratio is None:
        return Effect(None, None)
    interval = t_interval(log_ratio)
    bounds = None if interval is None else (math.exp(interval[0]), math.exp(interval[1]))
    return Effect(math.exp(log_ratio.mean()), bounds)


def _tested(log_ratios: Sequence[np.ndarray | None]) -> list[EffectWithP]:
    """Effects in the same order, their p values corrected as one family."""
    p_values = [None if log_ratio is None else sign_flip_p(log_ratio) for log_ratio in log_ratios]
    known = [p for p in p_values if p is not None]
    corrected = iter(multipletests(known, alpha=LEVEL, method="holm")[1] if known else ())
    return [
        EffectWithP(**dataclasses.asdict(_effect(log_ratio)), p=p, p_holm=None if p is None else float(next(corrected)))
        for log_ratio, p in zip(log_ratios, p_values, strict=True)
    ]


def _mean_ms(log_seconds: np.ndarray) -> float:
    return 1e3 * math.exp(log_seconds.mean())
