"""Statistics of paired measurements: speed-ups from block pairs, loss differences from held-out sequences.

Functions of plain arrays on top of scipy.stats; `criteria` decides what passes.
The unit of every analysis is the pair. Intervals are Student t intervals: at the few pairs of one run a
bootstrap interval covers too seldom (about 82 % instead of 95 % at five pairs).
"""

import dataclasses

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from ryot_jax.runtime.statistics import CONFIDENCE, Interval, paired, ratio_interval, t_interval

EXACT_PAIRS = 16  # 2**16 = 65,536 sign patterns take 0.1 s; for more pairs patterns are drawn at random
MONTE_CARLO_PATTERNS = 99_999


def check_interval(name: str, interval: Interval | None) -> None:
    """Refuses an interval whose ends are not in order.

    Raises:
      ValueError: the ends are not in order; the message names the field.
    """
    if interval is not None and not interval[0] <= interval[1]:
        raise ValueError(f"{name} is {list(interval)}, not null or [low, high]")


@dataclasses.dataclass(frozen=True)
class SpeedUp:
    """The speed-up of the optimized arm, from the times of block pairs.

    Attributes:
      estimate: geometric mean of baseline seconds / optimized seconds; above 1 is faster. None without data.
      ci95: t interval of the mean log ratio, on the ratio scale; None if the data allow none.
      pairs: number of block pairs.
      median: median ratio.
      p_sign_flip: two-sided p of the sign-flip test on log ratios (exact up to 16 pairs); None without data.
      log_ratio_sd: standard deviation of the log ratios, about the relative noise of one pair; None below 2 pairs.
    """

    estimate: float | None
    ci95: Interval | None
    pairs: int
    median: float | None
    p_sign_flip: float | None
    log_ratio_sd: float | None

    def __post_init__(self) -> None:
        """Checks the interval."""
        check_interval("ci95", self.ci95)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A mean paired difference, optimized minus baseline, in the unit of its input.

    Attributes:
      estimate: mean difference; None without data or with a non-finite value.
      ci95: t interval of the mean; None if the data allow none.
      pairs: number of pairs.
      correlation: Pearson correlation of the two arms over pairs (what pairing buys); None if undefined.
    """

    estimate: float | None
    ci95: Interval | None
    pairs: int
    correlation: float | None

    def __post_init__(self) -> None:
        """Checks the interval."""
        check_interval("ci95", self.ci95)


@dataclasses.dataclass(frozen=True)
class LossTests:
    """One-sided tests of a mean paired difference against margins, as p values; None if the data allow none.

    Attributes:
      p_tost: of a difference outside of +-margin (two one-sided t tests, Schuirmann 1987); small: equivalent.
      p_tost_tight: likewise for the tight margin.
      p_no_worse: of a difference of at least the tight margin; small: not inferior.
    """

    p_tost: float | None
    p_tost_tight: float | None
    p_no_worse: float | None


def sign_flip_p(values_n: ArrayLike) -> float | None:
    """Two-sided p value of the sign-flip test: the mean of `values_n` against a distribution symmetric around zero.

    Exact (all 2**n sign patterns) for n <= 16, else from 99,999 seeded random patterns. None without data or with a
    non-finite value.
    """
    values_n = np.asarray(values_n, np.float64)
    if values_n.size == 0 or not np.isfinite(values_n).all():
        return None
    if values_n.size == 1 or not values_n.any():
        return 1.0
    exact = values_n.size <= EXACT_PAIRS
    result = scipy.stats.permutation_test(
        (values_n,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**values_n.size if exact else MONTE_CARLO_PATTERNS,
        batch=4096,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def speed_up(baseline_seconds_n: ArrayLike, optimized_seconds_n: ArrayLike) -> SpeedUp:
    """Speed-up from the seconds of block pairs; entry i of both arrays is one pair with equal work.

    Raises:
      ValueError: the arrays differ in shape.
    """
    baseline_n, optimized_n = paired(baseline_seconds_n, optimized_seconds_n)
    n = int(baseline_n.size)
    usable = np.isfinite(baseline_n).all() and np.isfinite(optimized_n).all()
    if n == 0 or not usable or min(baseline_n.min(), optimized_n.min()) <= 0:
        return SpeedUp(None, None, n, None, None, None)
    log_ratio_n = np.log(baseline_n) - np.log(optimized_n)
    estimate, ci95 = ratio_interval(baseline_n, optimized_n, CONFIDENCE)
    return SpeedUp(
        estimate=estimate,
        ci95=ci95,
        pairs=n,
        median=float(np.median(baseline_n / optimized_n)),
        p_sign_flip=sign_flip_p(log_ratio_n),
        log_ratio_sd=float(log_ratio_n.std(ddof=1)) if n > 1 else None,
    )


def paired_difference(baseline_n: ArrayLike, optimized_n: ArrayLike) -> Difference:
    """Mean of optimized - baseline over pairs, with its t interval.

    For per-sequence held-out losses the interval covers the choice of sequences, not the choice of seed.

    Raises:
      ValueError: the arrays differ in shape.
    """
    baseline_n, optimized_n = paired(baseline_n, optimized_n)
    n = int(baseline_n.size)
    difference_n = optimized_n - baseline_n
    if n == 0 or not np.isfinite(difference_n).all():
        return Difference(None, None, n, None)
    correlated = n > 2 and np.ptp(baseline_n) > 0 and np.ptp(optimized_n) > 0
    return Difference(
        estimate=float(difference_n.mean()),
        ci95=t_interval(difference_n),
        pairs=n,
        correlation=float(scipy.stats.pearsonr(baseline_n, optimized_n).statistic) if correlated else None,
    )


def loss_tests(baseline_n: ArrayLike, optimized_n: ArrayLike, *, margin: float, tight_margin: float) -> LossTests:
    """Tests of optimized - baseline against margins in the same unit.

    Raises:
      ValueError: the arrays differ in shape.
    """
    baseline_n, optimized_n = paired(baseline_n, optimized_n)
    difference_n = optimized_n - baseline_n
    if t_interval(difference_n) is None:
        return LossTests(None, None, None)

    def p_not(alternative: str, bound: float) -> float:
        return float(scipy.stats.ttest_1samp(difference_n, bound, alternative=alternative).pvalue)

    def p_tost(bound: float) -> float:
        return max(p_not("greater", -bound), p_not("less", bound))

    return LossTests(p_tost(margin), p_tost(tight_margin), p_not("less", tight_margin))
