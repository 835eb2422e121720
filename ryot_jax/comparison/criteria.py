"""The success criteria: each with a target, what was found, and PASS, FAIL or INCONCLUSIVE.

They are judged from numbers alone; where the numbers come from is left to `results` and `statistics`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from ryot_jax.comparison.statistics import Difference, Interval, SpeedUp
from ryot_jax.runtime.errors import EXIT_CRITERION, EXIT_INCONCLUSIVE, EXIT_PASS

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
LOSS_FALL = 0.05  # share of the loss at step 0 that training must take away
RISE_LIMIT = 0.1  # nats that the last held-out loss may lie above the best one before it counts as divergence
EXIT_CODES: Mapping[str, int] = {"PASS": EXIT_PASS, "FAIL": EXIT_CRITERION, "INCONCLUSIVE": EXIT_INCONCLUSIVE}


@dataclasses.dataclass(frozen=True)
class Criterion:
    """One criterion, with its target and what was found in words."""

    name: str
    target: str
    actual: str
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class ArmOutcome:
    """What one arm's training came to; losses in nats/token, NaN where there is none.

    Attributes:
      steps: training steps done.
      planned_steps: training steps that the config asks for.
      first_train_loss: training loss of the very first step.
      final_train_loss: mean training loss over the last block.
      initial_heldout_loss: held-out loss before the first step.
      final_heldout_loss: held-out loss after the last step.
      best_heldout_loss: least held-out loss of all evaluations after training began.
      tokens_per_second: target tokens trained on per second of training.
    """

    steps: int
    planned_steps: int
    first_train_loss: float
    final_train_loss: float
    initial_heldout_loss: float
    final_heldout_loss: float
    best_heldout_loss: float
    tokens_per_second: float


@dataclasses.dataclass(frozen=True)
class PairOutcome:
    """What the comparison of two arms came to.

    Attributes:
      speedup: step-time ratios of block pairs.
      seconds_per_step: optimized minus baseline seconds per step, over block pairs.
      heldout_loss: optimized minus baseline final loss, over held-out sequences.
    """

    speedup: SpeedUp
    seconds_per_step: Difference
    heldout_loss: Difference


def judge(
    arms: Mapping[str, ArmOutcome],
    pair: PairOutcome | None,
    *,
    entropies: Mapping[str, float],
    beat: str,
    margin: float,
    tight_margin: float,
    statistical: bool,
) -> tuple[Criterion, ...]:
    """All criteria of a run.

    Where an optimization rounds otherwise (`statistical`), the arms part ways within some dozen steps, and their
    final losses then differ by some 0.01 nats of either sign, as those of two seeds of less noise do
    (experiments/results/losses_by_seed_scaled.md: bfloat16 against float32 kernels, four seeds). One pair cannot tell
    such a difference from zero to within the tight margin; it can tell whether quality was lost. So the tight margin is
    then one-sided (non-inferiority), and the wide one stays two-sided. Optimizations that promise the reference's
    numbers to the rounding of the dtype are held to both margins on both sides: better is then as suspect as worse.

    Args:
      arms: outcome of each arm, the baseline first.
      pair: None for a single arm: the criteria on the pair are left out.
      entropies: nats/token of the held-out targets under `unigram` and `bigram` counts.
      beat: the stronger of the entropies that the final held-out loss must beat, `unigram` or `bigram`.
      margin: nats within which the final held-out losses must lie.
      tight_margin: nats within which they must lie too, or by which the optimized arm's may at most lie above the
        baseline's where `statistical`.
      statistical: whether one of the optimizations promises no more than a training run of the same quality.
    """
    beaten = ("unigram",) if beat == "unigram" else ("unigram", "bigram")
    criteria = [_trained(arms), _loss_falls(arms)]
    criteria += [_beats(name, entropies[name], arms) for name in beaten]
    if pair is not None:
        criteria += [_faster(pair.speedup), _throughput(pair.seconds_per_step, arms)]
        criteria += [_within(margin, pair.heldout_loss)]
        criteria += [(_no_worse if statistical else _within)(tight_margin, pair.heldout_loss)]
    return (*criteria, _no_divergence(arms))


def overall(criteria: Sequence[Criterion]) -> Verdict:
    """FAIL if any criterion failed, else INCONCLUSIVE if any is, else PASS."""
    verdicts = {criterion.verdict for criterion in criteria}
    return "FAIL" if "FAIL" in verdicts else "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS"


def _trained(arms: Mapping[str, ArmOutcome]) -> Criterion:
    return Criterion(
        "trains_end_to_end",
        f"{max(arm.planned_steps for arm in arms.values())} steps in every arm",
        _each(arms, lambda arm: f"{arm.steps} steps"),
        _verdict(all(arm.steps == arm.planned_steps for arm in arms.values())),
    )


def _loss_falls(arms: Mapping[str, ArmOutcome]) -> Criterion:
    def fall(arm: ArmOutcome) -> float:
        return 1.0 - arm.final_heldout_loss / arm.initial_heldout_loss

    return Criterion(
        "loss_falls",
        f"held-out loss falls by more than {LOSS_FALL:.0%}",
        _each(arms, lambda arm: f"{fall(arm):+.1%}"),
        _verdict(all(fall(arm) > LOSS_FALL for arm in arms.values())),
    )


def _beats(name: str, entropy: float, arms: Mapping[str, ArmOutcome]) -> Criterion:
    return Criterion(
        f"beats_{name}_entropy",
        f"final held-out loss under {entropy:.3f} nats ({name} entropy)",
        _each(arms, lambda arm: f"{arm.final_heldout_loss:.3f}"),
        _verdict(all(arm.final_heldout_loss < entropy for arm in arms.values())),
    )


def _faster(speedup: SpeedUp) -> Criterion:
    target = "step-time speed-up above 1, 95 % interval too"
    if speedup.estimate is None:
        return Criterion("speedup_above_zero", target, "no block pair was measured", "INCONCLUSIVE")
    actual = f"{speedup.estimate:.3f} times as fast {_interval(speedup.ci95)}, {speedup.pairs} block pairs"
    return Criterion("speedup_above_zero", target, actual, _above(speedup.ci95, 1.0))


def _throughput(seconds_per_step: Difference, arms: Mapping[str, ArmOutcome]) -> Criterion:
    target = "more tokens/s, interval of the seconds saved per step above 0"
    actual = _each(arms, lambda arm: f"{arm.tokens_per_second:,.0f} tokens/s")
    if seconds_per_step.estimate is None:
        return Criterion("throughput_up", target, actual, "INCONCLUSIVE")
    ci = seconds_per_step.ci95
    saved = None if ci is None else (-ci[1] * 1e3, -ci[0] * 1e3)
    actual += f"; {-seconds_per_step.estimate * 1e3:.2f} ms saved per step {_interval(saved, '.2f')}"
    return Criterion("throughput_up", target, actual, _above(saved, 0.0))


def _within(margin: float, difference: Difference) -> Criterion:
    def judged(low: float, high: float) -> Verdict:
        if -margin < low and high < margin:
            return "PASS"
        return "FAIL" if low > margin or high < -margin else "INCONCLUSIVE"

    target = f"final held-out losses within {margin:g} nats, 95 % interval too"
    return _of_difference(f"loss_within_{margin:g}", target, difference, judged)


def _no_worse(margin: float, difference: Difference) -> Criterion:
    def judged(low: float, high: float) -> Verdict:
        return "PASS" if high < margin else "FAIL" if low > margin else "INCONCLUSIVE"

    target = f"optimized final held-out loss at most {margin:g} nats higher, 95 % interval too"
    return _of_difference(f"loss_no_worse_by_{margin:g}", target, difference, judged)


def _of_difference(
    name: str, target: str, difference: Difference, judged: Callable[[float, float], Verdict]
) -> Criterion:
    if difference.estimate is None:
        return Criterion(name, target, "not measured", "INCONCLUSIVE")
    if difference.estimate == 0.0 and difference.ci95 is None and difference.pairs > 1:
        # The paired losses are the same to the last bit: there is no spread to take an interval from.
        return Criterion(name, target, f"identical on {difference.pairs} sequences", "PASS")
    actual = f"{difference.estimate:+.4f} {_interval(difference.ci95, '+.4f')}, "
    actual += f"{difference.pairs} sequences"
    if difference.ci95 is None:
        return Criterion(name, target, actual, "INCONCLUSIVE")
    return Criterion(name, target, actual, judged(*difference.ci95))


def _no_divergence(arms: Mapping[str, ArmOutcome]) -> Criterion:
    def rise(arm: ArmOutcome) -> float:
        return arm.final_heldout_loss - arm.best_heldout_loss

    def sound(arm: ArmOutcome) -> bool:
        # A comparison with NaN is false, so a NaN anywhere is divergence.
        return rise(arm) <= RISE_LIMIT and arm.final_train_loss <= arm.first_train_loss < math.inf

    return Criterion(
        "no_divergence",
        f"training loss not above its start, held-out loss at most {RISE_LIMIT:g} above its best",
        _each(
            arms,
            lambda arm: f"train {arm.first_train_loss:.3f} to {arm.final_train_loss:.3f}, {rise(arm):+.3f} from best",
        ),
        _verdict(all(sound(arm) for arm in arms.values())),
    )


def _each(arms: Mapping[str, ArmOutcome], words: Callable[[ArmOutcome], str]) -> str:
    if len(arms) == 1:
        return words(next(iter(arms.values())))
    return ", ".join(f"{name} {words(arm)}" for name, arm in arms.items())


def _verdict(passed: bool) -> Verdict:
    return "PASS" if passed else "FAIL"


def _above(ci: Interval | None, threshold: float) -> Verdict:
    if ci is None:
        return "INCONCLUSIVE"
    return "PASS" if ci[0] > threshold else "FAIL" if ci[1] < threshold else "INCONCLUSIVE"


def _interval(ci: Interval | None, form: str = ".3f") -> str:
    return "(no interval)" if ci is None else f"({ci[0]:{form}} to {ci[1]:{form}})"
