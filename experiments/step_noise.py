"""Step times of this machine, measured, and the noise model of `experiments.lib.simulation` fitted to them.

`fit` describes the procedure; `agreement` checks it, by comparing the measured series with series of the same length
drawn from the model.
"""

import math
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.cluster.vq
import scipy.ndimage
import scipy.optimize
import scipy.stats
from ml_collections import ConfigDict

from experiments import random_tokens
from experiments.lib.simulation import ARMS, Drift, Machine, Phases, StepNoise
from ryot_jax.runtime.errors import ConfigError, DataError

PAUSE = 10  # times the median step: the whole machine was stopped, which the model leaves out
WARM_UP_STEPS = 20
BLOCK_STEPS = 50
LEAST_STEPS = 400  # eight blocks: the fewest from which their ratios can be estimated
# Time constants of drifts, in steps: 2 blocks of 50 steps are sensitive to those from 8 to several thousand steps.
DRIFT_STEPS = 8.0 * 4.0 ** np.arange(6)
SMOOTH_STEPS = 25  # width of the running median: about a second of scaled.py, half a block
_ABOUT = "_about"  # suffix of a text that describes how a series was measured
SERIES = 200  # series drawn from the model, to compare with the measured one


def measure(config: ConfigDict, arm_name: str, seconds: float) -> np.ndarray:
    """Measure seconds of each step of one arm of the config, with a call and a wait for every step, float64[K].

    Raises:
      ConfigError: there is no such arm, or the time suffices for too few steps.
    """
    if arm_name not in ARMS:
        raise ConfigError(f"--arm={arm_name}: there are {' and '.join(ARMS)}")
    arm = random_tokens.setting(config, arms=ARMS).arm(arm_name)
    for _ in range(WARM_UP_STEPS):
        arm.run_block(1)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        times.append(arm.run_block(1).seconds)
    if len(times) < LEAST_STEPS:
        raise ConfigError(f"--seconds={seconds:g}: {len(times)} steps, but the fit needs {LEAST_STEPS}; measure longer")
    return np.array(times)


def write(path: Path, name: str, seconds_K: np.ndarray, about: str) -> None:
    """Write a series to an .npz file, as milliseconds of each step in order of execution, with a description."""
    arrays: dict[str, Any] = {name: np.round(1e3 * seconds_K, 2), f"{name}{_ABOUT}": np.array(about)}
    np.savez_compressed(path, **arrays)


def read(path: Path) -> dict[str, np.ndarray]:
    """Read the series of an .npz file written by `write`: name -> seconds of each step, float64[K].

    Raises:
      DataError: there is no such file, or a series is not a list of enough positive numbers.
    """
    try:
        with np.load(path) as arrays:
            series = {name: 1e-3 * array.astype(np.float64) for name, array in arrays.items() if _is_series(name)}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"--times={path}: {error}; give an .npz file with milliseconds of steps") from error
    if not series or not all(s_K.ndim == 1 and s_K.size >= LEAST_STEPS and (s_K > 0).all() for s_K in series.values()):
        raise DataError(f"--times={path}: every series needs at least {LEAST_STEPS} positive numbers")
    return series


def _is_series(name: str) -> bool:
    return not name.endswith(_ABOUT)


def without_pauses(seconds_K: np.ndarray) -> np.ndarray:
    """The steps except those that took more than 10 times the median."""
    return seconds_K[seconds_K <= PAUSE * np.median(seconds_K)]


# ---- The fit ---------------------------------------------------------------------------------------------------


def fit(seconds_K: np.ndarray) -> StepNoise:
    """The noise model of measured step times; steps that were pauses are left out.

    1. Phases: the running median of log times over 25 steps is split in two by two-means. If the centres are more than
       10 % apart, and at least 6 times as far from each other as the groups are wide, the machine has slow spells:
       their factor, share and time constant (from the number of changes) are those of the split.
    2. Drifts, of the remainder: a drift of variance v and time constant T adds v (1 - exp(-k / T)) to the variogram
       gamma(k) = mean (x[i + k] - x[i])^2 / 2, taken at lags k = 8, 16, 32, ... up to a quarter of the series. The
       variances for T = 8, 32, 128, ... steps and the part already present at lag 0 come from non-negative least
       squares on relative errors.
    3. Jitter and spikes, of log times less their running median: the normal part by maximum likelihood, as one of two
       in a mixture (the other has an exponential added); then share and mean of the spikes from mean and mean square of
       the excess over it, so that the variance is the measured one. Their covariance from one step to the next is the
       difference between the sum of step 2 at lag 1 and gamma(1).
    """
    log_K = np.log(without_pauses(seconds_K))
    smooth_K = scipy.ndimage.median_filter(log_K, SMOOTH_STEPS, mode="nearest")
    location, jitter_sd, share, mean = _spikes(log_K - smooth_K)
    phases, slow_K = _phases(log_K, smooth_K)
    log_K = log_K - sum(phase.log_slower for phase in phases) * slow_K
    typical = math.exp(np.median(log_K))
    drifts, at_lag_0 = _drifts(log_K)
    uncorrelated = at_lag_0 + sum(sd**2 * -math.expm1(-1 / steps) for sd, steps in drifts)
    covariance = uncorrelated - _variogram(log_K, 1)
    most = share * (1 - share) * mean**2
    return StepNoise(
        seconds=typical * math.exp(location),
        drifts=tuple(Drift(sd, steps * typical) for sd, steps in drifts),
        phases=phases,
        jitter_sd=jitter_sd,
        spike_share=share,
        spike_log_mean=mean,
        spike_correlation=min(max(covariance / most, 0.0), 0.95) if most else 0.0,
    )


def _phases(log_K: np.ndarray, smooth_K: np.ndarray) -> tuple[tuple[Phases, ...], np.ndarray]:
    """The phases (none or one), and whether each step is slow, bool[K]."""
    centres, slow_K = scipy.cluster.vq.kmeans2(smooth_K, np.quantile(smooth_K, (0.05, 0.95)), minit="matrix")
    slow_K = slow_K == 1
    apart = centres[1] - centres[0]
    width = np.std(smooth_K - centres[slow_K.astype(int)])
    if not (apart > math.log(1.1) and apart > 6 * width):
        return (), np.zeros(log_K.size, bool)
    seconds_K = np.exp(log_K)
    changes = np.count_nonzero(slow_K[1:] != slow_K[:-1])
    share = seconds_K[slow_K].sum() / seconds_K.sum()
    constant = 2 * share * (1 - share) * seconds_K.sum() / changes
    return (Phases(float(apart), float(share), float(constant)),), slow_K


def _variogram(log_K: np.ndarray, lag: int) -> float:
    return float(0.5 * np.mean((log_K[lag:] - log_K[:-lag]) ** 2))


def _drifts(log_K: np.ndarray) -> tuple[list[tuple[float, float]], float]:
    """The drifts found, each (standard deviation, time constant in steps), and the variance outside of them."""
    lags = 8 * 2 ** np.arange(int(math.log2(log_K.size / 4 / 8)) + 1)
    gamma = np.array([_variogram(log_K, int(lag)) for lag in lags])
    constants = DRIFT_STEPS[lags[-1] / 2 >= DRIFT_STEPS]
    shapes = np.column_stack([np.ones(lags.size), 1.0 - np.exp(-lags[:, None] / constants)])
    (at_lag_0, *variances), _ = scipy.optimize.nnls(shapes / gamma[:, None], np.ones(lags.size))
    drifts = [(math.sqrt(v), float(steps)) for v, steps in zip(variances, constants, strict=True) if v > 0]
    return drifts, float(at_lag_0)


def _spikes(rest_K: np.ndarray) -> tuple[float, float, float, float]:
    """Location and sd of the normal part, share and mean of the exponential part, which only some steps have."""

    def parameters(x: np.ndarray) -> tuple[float, float, float, float]:
        return x[0], math.exp(x[1]), 1.0 / (1.0 + math.exp(-x[2])), math.exp(x[3])

    def minus_log_likelihood(x: np.ndarray) -> float:
        location, sd, share, mean = parameters(x)
        quiet_K = scipy.stats.norm.pdf(rest_K, location, sd)
        struck_K = scipy.stats.exponnorm.pdf(rest_K, mean / sd, location, sd)
        return -np.log((1.0 - share) * quiet_K + share * struck_K + 1e-300).sum()

    spread = np.median(np.abs(rest_K)) + 1e-6
    start = [0.0, math.log(spread), -1.0, math.log(4 * spread)]
    found = scipy.optimize.minimize(minus_log_likelihood, start, method="Nelder-Mead", options={"maxiter": 2000})
    location, sd, _, _ = parameters(found.x)
    above_K = rest_K - location
    first, second = float(np.mean(above_K)), float(np.mean(above_K**2)) - sd**2
    if first <= 0 or second <= 0:
        return location, sd, 0.0, 0.0
    mean = second / (2 * first)
    return location, sd, min(first / mean, 1.0), mean


# ---- Is it a fair one? -----------------------------------------------------------------------------------------


def series(noise: StepNoise, steps: int, seed: int = 0) -> np.ndarray:
    """Series of step times drawn from the model, float64[200, steps]."""
    machine = Machine(noise, SERIES, np.random.default_rng(seed))
    return np.array([machine.step() for _ in range(steps)]).T


def log_block_ratios(seconds_K: np.ndarray, block_steps: int = BLOCK_STEPS) -> np.ndarray:
    """Log ratios of neighbouring blocks, each block in one pair."""
    pairs = seconds_K.size // (2 * block_steps)
    first, second = seconds_K[: pairs * 2 * block_steps].reshape(pairs, 2, block_steps).sum(axis=2).T
    return np.log(first / second)


def kurtosis(ratios: np.ndarray) -> float:
    """Kurtosis of values symmetric around zero, like log ratios in random order; 3 for a normal distribution."""
    return float(np.mean(ratios**4) / np.mean(ratios**2) ** 2)


def features(seconds_K: np.ndarray) -> dict[str, float]:
    """The features by which a fit is judged, by name."""
    log_K = np.log(seconds_K)
    centred_K = log_K - log_K.mean()
    found = {}
    for block_steps in (1, 10, BLOCK_STEPS):
        ratios = log_block_ratios(seconds_K, block_steps)
        found[f"sd of log ratios of blocks of {block_steps}"] = float(np.sqrt(np.mean(ratios**2)))
    found[f"kurtosis of log ratios of blocks of {BLOCK_STEPS}"] = kurtosis(ratios)
    found["sd of log step times"] = float(log_K.std())
    for lag in (1, 10, 50, 200):
        found[f"autocorrelation at {lag} steps"] = float(np.mean(centred_K[lag:] * centred_K[:-lag]) / centred_K.var())
    for share in (0.01, 0.25, 0.75, 0.95, 0.99, 0.999):
        found[f"{share:.1%} quantile / median"] = float(np.quantile(seconds_K, share) / np.median(seconds_K))
    return found


def agreement(seconds_K: np.ndarray, noise: StepNoise) -> list[tuple[str, float, float, float, float]]:
    """For every feature: (name, measured, median of the model's series, their 5 % and their 95 % quantile)."""
    seconds_K = without_pauses(seconds_K)
    drawn = [features(series_K) for series_K in series(noise, seconds_K.size, seed=1)]
    rows = []
    for name, value in features(seconds_K).items():
        low, middle, high = np.quantile([one[name] for one in drawn], (0.05, 0.5, 0.95))
        rows.append((name, value, float(middle), float(low), float(high)))
    return rows
