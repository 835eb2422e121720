"""Paired runs on simulated or replayed machines: error rates of the comparison, and of other analyses.

Fitting a machine to measured times is left to `step_noise`; tables and goals, to `false_positives`.
Shape letters as in `experiments.lib.simulation`: S simulations, A arms, K steps of an arm, N blocks.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.stats

from experiments.lib.simulation import ARMS, Drift, Phases, StepNoise, block_seconds, simulate
from ryot_jax.comparison.protocol import BlockSchedule, ScheduledBlock
from ryot_jax.comparison.statistics import CONFIDENCE, Interval, speed_up, t_interval

EFFECTS = (0.02, 0.05, 0.10)
JUDGED = 200  # A/A runs analysed by `speed_up` like a real run
FEW_PAIRS = 5
OTHER_BLOCKS = (50, 10)  # steps
RESAMPLES = 2000

# (schedule, effect) -> seconds of blocks, float64[S, A, N]; another effect brings other noise.
Source = Callable[[BlockSchedule, float], np.ndarray]


# ---- Machines --------------------------------------------------------------------------------------------------


def harsher(noise: StepNoise) -> dict[str, StepNoise]:
    """Machines noisier than the measured one, by name."""
    return {
        "drift twice as large": dataclasses.replace(
            noise,
            drifts=tuple(dataclasses.replace(drift, sd=2 * drift.sd) for drift in noise.drifts),
            phases=tuple(dataclasses.replace(phase, log_slower=2 * phase.log_slower) for phase in noise.phases),
        ),
        "a drift of 10 % over a minute added": dataclasses.replace(noise, drifts=(*noise.drifts, Drift(0.1, 60.0))),
        # From 0.8 to 1.2 times and back; half a minute in each.
        "phases of +-20 % added": dataclasses.replace(
            noise, phases=(*noise.phases, Phases(math.log(1.2 / 0.8), 0.5, 15.0))
        ),
        "spikes three times as large": dataclasses.replace(noise, spike_log_mean=3 * noise.spike_log_mean),
        "steps 3.6 times as long": dataclasses.replace(noise, seconds=3.6 * noise.seconds),
    }


def drawn(noise: StepNoise, simulations: int, seed: int) -> Source:
    """A source of runs on machines drawn from the model."""

    def blocks(schedule: BlockSchedule, effect: float) -> np.ndarray:
        return block_seconds(
            simulate(noise, schedule, _rng(seed, effect), simulations=simulations, effect=effect), schedule
        )

    return blocks


def replayed(seconds_K: np.ndarray, simulations: int, seed: int) -> Source:
    """A model-free source of runs: measured steps from a random one on, with newly drawn orders.

    The blocks must have one length. The measured series wraps around at its end.
    """

    def blocks(schedule: BlockSchedule, effect: float) -> np.ndarray:
        rng = _rng(seed, effect)
        plans = schedule.blocks()
        visits = schedule.visits(plans[0], ARMS)
        # The steps of a block that belong to the arm that comes first.
        first = np.repeat([name == visits[0][0] for name, _ in visits], [count for _, count in visits])
        steps_SK = rng.integers(seconds_K.size, size=(simulations, 1)) + np.arange(2 * schedule.total_steps)
        taken_SNK = np.take(seconds_K, steps_SK, mode="wrap").reshape(simulations, len(plans), -1)
        taken_SNA = np.stack([taken_SNK[..., part].sum(axis=-1) for part in (first, ~first)], axis=-1)
        blocks_SAN = rng.permuted(taken_SNA, axis=2).transpose(0, 2, 1)
        return blocks_SAN * np.array([1.0 + effect, 1.0])[:, None]

    return blocks


def _rng(seed: int, effect: float) -> np.random.Generator:
    return np.random.default_rng((seed, round(1e4 * effect)))


# ---- The comparison, as it is ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Rate:
    """A count out of a total."""

    count: int
    of: int

    @property
    def value(self) -> float:
        return self.count / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Two-sided 95 % Clopper-Pearson interval."""
        found = scipy.stats.binomtest(self.count, self.of).proportion_ci(CONFIDENCE, method="exact")
        return float(found.low), float(found.high)

    @property
    def upper_bound(self) -> float:
        """One-sided 95 % Clopper-Pearson bound."""
        found = scipy.stats.binomtest(self.count, self.of, alternative="less")
        return float(found.proportion_ci(CONFIDENCE, method="exact").high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} ({low:.1%} to {high:.1%})"


def rate(holds_S: np.ndarray) -> Rate:
    """The rate at which a condition holds."""
    return Rate(int(np.count_nonzero(holds_S)), int(holds_S.size))


def intervals(blocks_SAN: np.ndarray, interval: Callable[[np.ndarray], Interval | None] = t_interval) -> np.ndarray:
    """The `ci95` of `speed_up`, float64[S, 2], without its sign-flip test, which takes 100 times as long.

    Args:
      blocks_SAN: seconds of the blocks.
      interval: interval of log ratios; by default that of `speed_up`.
    """
    return np.exp(np.array([interval(log_ratios_N) for log_ratios_N in log_ratios(blocks_SAN)]))


def log_ratios(blocks_SAN: np.ndarray) -> np.ndarray:
    """Log ratios of baseline over optimized, float64[S, N]."""
    return np.log(blocks_SAN[:, 0]) - np.log(blocks_SAN[:, 1])


def covers(intervals_S2: np.ndarray, value: float) -> np.ndarray:
    """Whether each interval covers the value, bool[S]."""
    return (intervals_S2[:, 0] <= value) & (value <= intervals_S2[:, 1])


@dataclasses.dataclass(frozen=True)
class Found:
    """The comparison's error rates on one machine.

    Attributes:
      log_ratio_sd: root mean square log ratio of the two blocks of a pair in A/A runs.
      false_positives: A/A runs whose interval excludes 1.
      first_false_positives: the same among the first 200.
      coverage: intervals that cover the effect, by effect.
      power: intervals above 1, by effect.
      above_floor: intervals above 1 with an estimate above the noise floor of a placebo of the same size, by effect.
    """

    log_ratio_sd: float
    false_positives: Rate
    first_false_positives: Rate
    coverage: dict[float, Rate]
    power: dict[float, Rate]
    above_floor: dict[float, Rate]


def examine(source: Source, schedule: BlockSchedule) -> Found:
    """The comparison of A/A runs and of runs with each effect."""
    blocks_SAN = source(schedule, 0.0)
    placebo_S2 = intervals(blocks_SAN)
    wrong_S = ~covers(placebo_S2, 1.0)
    floor_S = np.exp(np.abs(np.log(placebo_S2)).max(axis=1))
    coverage, power, above_floor = {}, {}, {}
    for effect in EFFECTS:
        intervals_S2 = intervals(source(schedule, effect))
        coverage[effect] = rate(covers(intervals_S2, 1.0 + effect))
        power[effect] = rate(intervals_S2[:, 0] > 1.0)
        estimates_S = np.sqrt(intervals_S2.prod(axis=1))  # intervals are symmetric in the logarithm
        above_floor[effect] = rate((intervals_S2[:, 0] > 1.0) & (estimates_S > floor_S))
    spread = float(np.sqrt(np.mean(log_ratios(blocks_SAN) ** 2)))
    return Found(spread, rate(wrong_S), rate(wrong_S[:JUDGED]), coverage, power, above_floor)


def as_in_a_run(source: Source, schedule: BlockSchedule) -> tuple[Rate, Rate]:
    """The first 200 A/A runs through `speed_up` itself: intervals that leave out 1, sign-flip p below 5 %."""
    found = [speed_up(*blocks_AN) for blocks_AN in source(schedule, 0.0)[:JUDGED]]
    by_interval = ~covers(np.array([one.ci95 for one in found]), 1.0)
    by_sign_flip = np.array([one.p_sign_flip for one in found]) < 1.0 - CONFIDENCE
    return rate(by_interval), rate(by_sign_flip)


# ---- What is often done ----------------------------------------------------------------------------------------


def often_done(noise: StepNoise, schedule: BlockSchedule, simulations: int, seed: int) -> dict[str, Rate]:
    """False positives in A/A runs of analyses that are often seen, by name."""
    at_once = OneWay(1, schedule.total_steps, schedule.total_steps, schedule.tokens_per_step, schedule.seed)
    sequential_SAK = simulate(noise, at_once, _rng(seed, 0.0), simulations=simulations)
    steps_SAK = simulate(noise, schedule, _rng(seed, 0.0), simulations=simulations)
    few_SAN = block_seconds(steps_SAK, schedule)[:, :, :FEW_PAIRS]
    return {
        "one arm after the other, Welch over steps": rate(welch_rejects(sequential_SAK)),
        "blocks in turn, Welch over steps": rate(welch_rejects(steps_SAK)),
        f"{FEW_PAIRS} block pairs, bootstrap": rate(bootstrap_rejects(few_SAN, seed)),
        f"{FEW_PAIRS} block pairs, t": rate(~covers(intervals(few_SAN), 1.0)),
    }


def welch_rejects(values_SAK: np.ndarray) -> np.ndarray:
    """Whether Welch's unpaired test calls the arms different, bool[S]: as if all values were independent."""
    p_S = scipy.stats.ttest_ind(values_SAK[:, 0], values_SAK[:, 1], axis=1, equal_var=False).pvalue
    return p_S < 1.0 - CONFIDENCE


def bootstrap_rejects(blocks_SAN: np.ndarray, seed: int) -> np.ndarray:
    """Whether the percentile bootstrap interval of the mean log ratio excludes 0, bool[S]."""
    pairs = blocks_SAN.shape[-1]
    draws_RN = np.random.default_rng(seed).multinomial(pairs, [1 / pairs] * pairs, RESAMPLES)
    means_SR = log_ratios(blocks_SAN) @ draws_RN.T / pairs
    low_S, high_S = np.quantile(means_SR, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2), axis=1)
    return (low_S > 0) | (high_S < 0)


# ---- What would help -------------------------------------------------------------------------------------------


class OneWay(BlockSchedule):
    """Each arm takes the steps of a block at once, in random order: A B, or B A."""

    def visits(self, block: ScheduledBlock, names: Sequence[str]) -> tuple[tuple[str, int], ...]:
        """Which arm takes how many steps, one after the other."""
        return tuple((name, block.steps) for name in self.order(block.index, names))


def signed_rank_interval(values_n: np.ndarray) -> Interval:
    """95 % interval of the centre of symmetric values that Wilcoxon's signed-rank test does not reject; n at least 6.

    Its ends are two of the means of all pairs of values, including a value with itself (Hodges and Lehmann 1963). It is
    exact: random order within the pairs makes the log ratios of an A/A run symmetric, whatever the machine does.
    """
    n = values_n.size
    ways = np.ones(1)  # to reach each rank sum, of 2^n
    for rank in range(1, n + 1):
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    rejected = int(np.searchsorted(np.cumsum(ways), (1 - CONFIDENCE) / 2 * 2.0**n, side="right"))  # rank sums
    i, j = np.triu_indices(n)
    means = np.sort((values_n[i] + values_n[j]) / 2)
    return float(means[rejected - 1]), float(means[-rejected])


@dataclasses.dataclass(frozen=True)
class Design:
    """A way to run, pair and analyse the blocks.

    Attributes:
      name: display name.
      schedule: block schedule of the run.
      interval: interval of the mean or the centre of the log ratios.
    """

    name: str
    schedule: BlockSchedule
    interval: Callable[[np.ndarray], Interval | None] = t_interval

    def examine(self, noise: StepNoise, effect: float, simulations: int, seed: int) -> tuple[Rate, Rate, Rate, float]:
        """False positives in A/A runs; coverage, power and median half width of log intervals at the effect."""

        def found(effect: float) -> np.ndarray:
            blocks_SAN = drawn(noise, simulations, seed)(self.schedule, effect)
            return intervals(blocks_SAN, self.interval)

        intervals_S2 = found(effect)
        half = float(np.median(np.diff(np.log(intervals_S2), axis=1)) / 2)
        return (
            rate(~covers(found(0.0), 1.0)),
            rate(covers(intervals_S2, 1.0 + effect)),
            rate(intervals_S2[:, 0] > 1.0),
            half,
        )


def designs(schedule: BlockSchedule) -> Iterator[Design]:
    """The schedule as it is, the same number of steps in other blocks, and four times as many."""
    steps, pairs = schedule.block_steps, len(schedule.blocks())
    yield Design(f"{pairs} pairs of {steps} steps, A B B A", schedule)
    yield Design(
        f"{pairs} pairs of {steps} steps, A B B A, signed-rank interval", schedule, interval=signed_rank_interval
    )
    yield Design(f"{pairs} pairs of {steps} steps, A B", OneWay(**dataclasses.asdict(schedule)))
    for other in OTHER_BLOCKS:
        if other != steps and schedule.steps_per_epoch % other == 0:
            blocks = dataclasses.replace(schedule, block_steps=other)
            count = len(blocks.blocks())
            yield Design(f"{count} pairs of {other} steps, A B B A", blocks)
            yield Design(f"{count} pairs of {other} steps, A B", OneWay(**dataclasses.asdict(blocks)))
    yield Design(
        f"{4 * pairs} pairs of {steps} steps, A B B A", dataclasses.replace(schedule, epochs=4 * schedule.epochs)
    )
