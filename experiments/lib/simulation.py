"""Paired runs simulated on a machine whose speed drifts, to determine how often their analysis would be wrong.

This module has a model of step times and runs the block schedule of the paired protocol on it, step by step. The
analysis is left to `statistics`, as for a real run; the fit of the model to measured times, to
experiments/step_noise.py.

Shape letters: S simulations, A arms (baseline, optimized), K steps of an arm, N blocks.
"""

import dataclasses

import numpy as np

from ryot_jax.comparison.protocol import BlockSchedule
from ryot_jax.config.rules import ARMS


@dataclasses.dataclass(frozen=True)
class Drift:
    """A wandering part of the machine's log step time: an Ornstein-Uhlenbeck process, which is AR(1) in real time.

    Attributes:
      sd: standard deviation, in log step time: 0.1 is about 10 %.
      seconds: time constant; the autocorrelation over t seconds of the wall clock is exp(-t / seconds).
    """

    sd: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Phases:
    """Spells in which the machine is uniformly slower, as while another program runs on it.

    A drift with the same standard deviation and autocorrelation affects a t interval differently: most pairs of blocks
    see no change of phase at all, and a few see all of it.

    Attributes:
      log_slower: log factor of a step's time in a slow spell.
      share: share of the time in slow spells.
      seconds: the autocorrelation over t seconds is exp(-t / seconds). Spells are exponentially distributed, slow ones
        with mean seconds / (1 - share), others with seconds / share.
    """

    log_slower: float
    share: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class StepNoise:
    """The time of one training step on a machine with other load.

        log(time of a step) = log(seconds) + drifts and phases at its start + jitter + spike

    Drifts and phases evolve with the clock; jitter is normal and independent in every step. A spike hits some of the
    steps, and the step after a hit is hit more often too: the short autocorrelation. Its log is exponential, so that
    its factor is Pareto distributed: a heavy tail without moments of order 1 / `spike_log_mean` and above.

    Attributes:
      seconds: a step's time without noise.
      drifts: any number of independent drifts.
      phases: any number of independent phases.
      jitter_sd: standard deviation of the jitter, in log time.
      spike_share: share of the steps that are hit.
      spike_log_mean: mean log factor of a spike.
      spike_correlation: autocorrelation of hits from one step to the next.
    """

    seconds: float
    drifts: tuple[Drift, ...] = ()
    phases: tuple[Phases, ...] = ()
    jitter_sd: float = 0.0
    spike_share: float = 0.0
    spike_log_mean: float = 0.0
    spike_correlation: float = 0.0


class Machine:
    """Independent machines, one per simulation, each with its own clock, in their stationary states.

    Args:
      noise: model of the step times.
      simulations: number of machines.
      rng: source of all randomness.
    """

    def __init__(self, noise: StepNoise, simulations: int, rng: np.random.Generator):
        self.noise, self.simulations, self.rng = noise, simulations, rng
        self._levels = [drift.sd * self._normal_S() for drift in noise.drifts]
        self._slow = [self._happens_S(phases.share) for phases in noise.phases]
        self._struck_S = self._happens_S(noise.spike_share)

    def step(self, slower_S: np.ndarray | float = 1.0) -> np.ndarray:
        """Take one step on every machine and return its seconds, float64[S].

        Args:
          slower_S: factor by which the program's step is slower than `noise.seconds`.
        """
        noise = self.noise
        log_S = noise.jitter_sd * self._normal_S()
        log_S += self._struck_S * self.rng.exponential(noise.spike_log_mean, self.simulations)
        for level_S in self._levels:
            log_S += level_S
        for phases, slow_S in zip(noise.phases, self._slow, strict=True):
            log_S += phases.log_slower * slow_S
        seconds_S = noise.seconds * slower_S * np.exp(log_S)
        self._let_pass(seconds_S)
        return seconds_S

    def _let_pass(self, seconds_S: np.ndarray) -> None:
        """Advance the machines' states by `seconds_S` and one step; exact for steps of any length."""
        noise = self.noise
        for i, drift in enumerate(noise.drifts):
            kept_S = np.exp(-seconds_S / drift.seconds)
            self._levels[i] = kept_S * self._levels[i] + drift.sd * np.sqrt(1.0 - kept_S**2) * self._normal_S()
        for i, phases in enumerate(noise.phases):
            kept_S = self._happens_S(np.exp(-seconds_S / phases.seconds))
            self._slow[i] = np.where(kept_S, self._slow[i], self._happens_S(phases.share))
        kept_S = self._happens_S(noise.spike_correlation)
        self._struck_S = np.where(kept_S, self._struck_S, self._happens_S(noise.spike_share))

    def _happens_S(self, probability_S: np.ndarray | float) -> np.ndarray:
        return self.rng.random(self.simulations) < probability_S

    def _normal_S(self) -> np.ndarray:
        return self.rng.standard_normal(self.simulations)


def simulate(
    noise: StepNoise, schedule: BlockSchedule, rng: np.random.Generator, *, simulations: int, effect: float = 0.0
) -> np.ndarray:
    """Step times of paired runs, float64[S, A, K] in seconds: the K-th step of each arm, as it trains.

    Arms are interleaved by `schedule`, with another seed in every simulation; the machine keeps drifting throughout,
    so the two arms of a pair see it at different times.

    Args:
      noise: model of the step times.
      schedule: block schedule of one run; a single block runs one arm after the other. Simulation i has the orders of
        the seed `schedule.seed` + i.
      rng: source of the noise.
      simulations: number of runs.
      effect: the baseline's steps take 1 + `effect` times as long; 0 is an A/A run.
    """
    machine = Machine(noise, simulations, rng)
    schedules = [dataclasses.replace(schedule, seed=schedule.seed + i) for i in range(simulations)]
    seconds_SAK = np.empty((simulations, len(ARMS), schedule.total_steps))
    rows_S = np.arange(simulations)
    slower_A = np.array([1.0 + effect, 1.0])
    taken_SA = np.zeros((simulations, len(ARMS)), int)
    for block in schedule.blocks():
        visits_SV = [s.visits(block, ARMS) for s in schedules]
        for visits_S in zip(*visits_SV, strict=True):
            arm_S = np.array([ARMS.index(name) for name, _ in visits_S])
            (steps,) = {count for _, count in visits_S}  # the same in all simulations, which differ only in order
            for _ in range(steps):
                seconds_SAK[rows_S, arm_S, taken_SA[rows_S, arm_S]] = machine.step(slower_A[arm_S])
                taken_SA[rows_S, arm_S] += 1
    return seconds_SAK


def block_seconds(seconds_SAK: np.ndarray, schedule: BlockSchedule) -> np.ndarray:
    """Seconds of every block, float64[S, A, N]: all that the analysis of a real run is given."""
    starts_N = [block.end_step - block.steps for block in schedule.blocks()]
    return np.add.reduceat(seconds_SAK, starts_N, axis=-1)
