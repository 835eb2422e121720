"""Controls: comparisons with a known answer, run on the machine and with the programs of the run itself.

Placebo: two arms of one program must not differ; their measured difference is the noise floor that a speed-up must
clear. Known delay: an arm that takes more steps than it reports must be measured slower by exactly that much. Shuffled
targets: training on labels without information must fail the criteria of learning. If a control fails, no other
measurement of the run proves anything.

The caller makes the arms; `criteria` takes the outcome into the verdict.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from msgspec.structs import replace

from ryot_jax.comparison.interleaving import take_turns, there_and_back
from ryot_jax.comparison.protocol import BlockResult
from ryot_jax.comparison.schema import Control, Verdict
from ryot_jax.comparison.statistics import Interval, ratio_interval, t_interval

CONFIDENCE = 0.99  # of the intervals that judge a control: a correct control fails by chance in 1 % of runs
_STEPS_PER_EXTRA = 20  # the known delay: one extra step for every twenty
# Where steps are slow: fewer steps a block, of which the delay is then a larger share, and fewer blocks.
LEAST_STEPS, LEAST_BLOCKS = 10, 8
_ARMS = 3  # of the timing controls


class Twin(Protocol):
    """A separate training with the programs of an arm."""

    def run_block(self, n_steps: int) -> BlockResult:
        """Takes `n_steps` steps; the device is idle before and after."""


def delayed_steps(steps: int) -> int:
    """Steps that the delayed arm takes when it reports `steps`: 5 % more, rounded up."""
    return steps - (-steps // _STEPS_PER_EXTRA)


def fitted(blocks: int, block_steps: int, *, step_seconds: float, seconds: float) -> tuple[int, int]:
    """Number of block pairs and of steps per block of the timing controls so that they end in time, or nearly.

    First the steps of a block become fewer, down to LEAST_STEPS, then the blocks, down to LEAST_BLOCKS; smaller numbers
    stay as they are.

    Args:
      blocks: number of block pairs if there is time.
      block_steps: steps per block if there is time.
      step_seconds: seconds of a step.
      seconds: seconds that the controls may take.
    """

    def affordable(other: int) -> int:
        return int(seconds / (_ARMS * other * step_seconds))

    block_steps = min(block_steps, max(LEAST_STEPS, affordable(blocks)))
    return min(blocks, max(LEAST_BLOCKS, affordable(block_steps))), block_steps


def timing_controls(
    twin: Callable[[str], Twin],
    *,
    blocks: int,
    block_steps: int,
    seed: int,
    seconds: float = math.inf,
    on_block: Callable[[int], None] | None = None,
) -> tuple[Control, Control, float | None]:
    """Runs placebo and known delay: blocks of three arms of one program, in random order, there and back.

    The delay is real work (unreported steps), not a pause: it passes through the same clock and device queue as the
    measured speed-up, and is the same share of a step at any machine speed.

    Args:
      twin: makes an arm with the given name; every arm has its own state, all share the compiled programs.
      blocks: number of block pairs.
      block_steps: steps per block.
      seed: seed of the order of arms in each block.
      seconds: seconds that both may take: slow steps get fewer and shorter blocks, see `fitted`.
      on_block: called with the number of finished blocks.

    Returns:
      The placebo, the known delay, and the noise floor (see `noise_floor`).
    """
    start = time.perf_counter()
    names = ("reference", "placebo", "delayed")
    twins = {name: twin(name) for name in names}
    arms = {name: lambda n, twin=twin: twin.run_block(n).seconds for name, twin in twins.items()}
    for run in arms.values():
        run(1)  # the first execution pays for set-up, which is not measured
    if math.isfinite(seconds):
        step_seconds = min(run(1) for run in arms.values())
        blocks, block_steps = fitted(blocks, block_steps, step_seconds=step_seconds, seconds=seconds)
    steps = {"reference": block_steps, "placebo": block_steps, "delayed": delayed_steps(block_steps)}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    order = np.random.default_rng((seed, 0x636F6E74726F6C))  # not the order of the run's own blocks
    for block in range(blocks):
        turns = [str(name) for name in order.permutation(list(steps))]
        for name, seconds_taken in take_turns(arms, there_and_back(turns, steps)).items():
            taken[name].append(seconds_taken)
        if on_block is not None:
            on_block(block + 1)
    share = (time.perf_counter() - start) / 2
    injected = steps["delayed"] / block_steps
    return (
        replace(judge_placebo(taken["placebo"], taken["reference"]), seconds=share),
        replace(judge_delay(taken["delayed"], taken["reference"], injected), seconds=share),
        noise_floor(taken["placebo"], taken["reference"]),
    )


def noise_floor(placebo_n: Sequence[float], reference_n: Sequence[float]) -> float | None:
    """Noise floor of a speed-up: distance from 1 of the farther end of the placebo ratio's 95 % interval.

    Args:
      placebo_n: seconds of the placebo arm, by block pair.
      reference_n: seconds of the reference arm, by block pair.

    Returns:
      A relative difference, such as 0.01 for 1 %; None if the pairs allow no interval.
    """
    interval = t_interval(np.log(placebo_n) - np.log(reference_n))
    return None if interval is None else math.expm1(max(-interval[0], interval[1]))


def judge_placebo(placebo_n: Sequence[float], reference_n: Sequence[float]) -> Control:
    """Judges the placebo: PASS if the interval of the ratio of times contains 1.

    Args:
      placebo_n: seconds of the placebo arm, by block pair.
      reference_n: seconds of the reference arm, by block pair, with the same program.
    """
    estimate, ci = ratio_interval(placebo_n, reference_n, CONFIDENCE)
    if ci is None:
        verdict: Verdict = "INCONCLUSIVE"
    else:
        verdict = "PASS" if ci[0] <= 1.0 <= ci[1] else "FAIL"
    return Control(
        name="placebo",
        description="two arms of one compiled program, as if they were two variants",
        target=f"{CONFIDENCE:.0%} interval of the ratio of times holds 1",
        actual=_describe_ratio(estimate, ci, len(placebo_n)),
        verdict=verdict,
        injected=1.0,
        estimate=estimate,
        ci=ci,
        ratios=tuple(float(ratio) for ratio in np.divide(placebo_n, reference_n)),
    )


def judge_delay(delayed_n: Sequence[float], reference_n: Sequence[float], injected: float) -> Control:
    """Judges the known delay: PASS if the interval of the ratio of times contains the injected ratio and excludes 1.

    Args:
      delayed_n: seconds of the delayed arm, by block pair.
      reference_n: seconds of the reference arm, by block pair.
      injected: the true ratio of their times.
    """
    estimate, ci = ratio_interval(delayed_n, reference_n, CONFIDENCE)
    if ci is None:
        verdict: Verdict = "INCONCLUSIVE"
    elif not ci[0] <= injected <= ci[1]:
        verdict = "FAIL"
    else:
        verdict = "PASS" if ci[0] > 1.0 else "INCONCLUSIVE"  # too noisy to tell the delay from none
    return Control(
        name="known_delay",
        description=f"the same program with {injected - 1:.1%} more steps in a block than it reports",
        target=f"{CONFIDENCE:.0%} interval of the ratio of times is above 1 and holds {injected:.4g}",
        actual=_describe_ratio(estimate, ci, len(delayed_n)),
        verdict=verdict,
        injected=injected,
        estimate=estimate,
        ci=ci,
        ratios=tuple(float(ratio) for ratio in np.divide(delayed_n, reference_n)),
    )


def judge_shuffled(failed: Sequence[str], losses: str, steps: int, seconds: float) -> Control:
    """Judges the control with shuffled targets: PASS if the arm failed a criterion of learning.

    Args:
      failed: names of the failed criteria of learning.
      losses: the losses of the arm in words.
      steps: number of training steps.
      seconds: seconds that the control took.
    """
    return Control(
        name="shuffled_targets",
        description=f"{steps} steps of training on targets that were shuffled over each batch",
        target="fails the criteria of learning",
        actual=f"{losses}: fails {', '.join(failed)}" if failed else f"{losses}: passes, as if it had learnt",
        verdict="PASS" if failed else "FAIL",
        seconds=seconds,
    )


def _describe_ratio(estimate: float, ci: Interval | None, pairs: int) -> str:
    interval = "no interval" if ci is None else f"{ci[0]:.4f} to {ci[1]:.4f}"
    return f"{estimate:.4f} ({interval}), {pairs} block pairs"
