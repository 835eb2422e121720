"""Student t intervals of a mean and of a ratio of paired measurements.

`comparison` takes them for verdicts, `kernels.choice` for the fastest implementation.
"""

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

CONFIDENCE = 0.95

Interval = tuple[float, float]


def t_interval(values_n: ArrayLike, confidence: float = CONFIDENCE) -> Interval | None:
    """Two-sided Student t interval of the mean of `values_n`.

    None for fewer than two values, a non-finite value, or no spread beyond rounding: identical measurements carry no
    information about their error, and an interval of width zero would claim certainty.
    """
    values_n = np.asarray(values_n, np.float64)
    if values_n.size < 2 or not np.isfinite(values_n).all():
        return None
    rounding = 1e-12 * max(1.0, float(np.abs(values_n).max()))
    if np.ptp(values_n) <= rounding:
        return None
    interval = scipy.stats.ttest_1samp(values_n, 0.0).confidence_interval(confidence)
    return float(interval.low), float(interval.high)


def ratio_interval(
    numerator_n: ArrayLike, denominator_n: ArrayLike, confidence: float
) -> tuple[float, Interval | None]:
    """Geometric mean of paired ratios of positive numbers, with the t interval of the mean log ratio.

    Raises:
      ValueError: the arrays differ in shape.
    """
    numerator_n, denominator_n = paired(numerator_n, denominator_n)
    log_ratio_n = np.log(numerator_n) - np.log(denominator_n)
    interval = t_interval(log_ratio_n, confidence)
    bounds = None if interval is None else (float(np.exp(interval[0])), float(np.exp(interval[1])))
    return float(np.exp(log_ratio_n.mean())), bounds


def paired(baseline_n: ArrayLike, optimized_n: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Converts two paired vectors to float64.

    Raises:
      ValueError: the arrays differ in shape, or are not vectors.
    """
    baseline_n = np.asarray(baseline_n, np.float64)
    optimized_n = np.asarray(optimized_n, np.float64)
    if baseline_n.ndim != 1 or baseline_n.shape != optimized_n.shape:
        raise ValueError(
            f"paired data must be two vectors of one length, got {baseline_n.shape} and {optimized_n.shape}"
        )
    return baseline_n, optimized_n
