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
      speedup: ratios of step times.
      seconds_per_step: optimized minus baseline seconds per step.
      heldout_loss: optimized minus baseline final loss.
      unit: what the times are pairs of: 'block pair', 'training pair' or 'process'.
      loss_unit: what the losses are pairs of: 'held-out sequence' or 'training pair'.
    """

    speedup: SpeedUp
    seconds_per_step: Difference
    heldout_loss: Difference
    unit: str = "block pair"
    loss_unit: str = "held-out sequence"


def judge(
    arms: Mapping[str, Sequence[ArmOutcome]],
    pair: PairOutcome | None,
    *,
    entropies: Mapping[str, float],
    beat: str,
    margin: float,
    tight_margin: float,
    statistical: bool,
    noise_floor: float | None = None,
) -> tuple[Criterion, ...]:
    """All criteria of a run.

    Where an optimization rounds otherwise (`statistical`), the arms part ways within some dozen steps, and their
    final losses then differ by some 0.01 nats of either sign, as those of two seeds of less noise do
    (experiments/results/losses_by_seed_scaled.md: bfloat16 against float32 kernels, four seeds). One pair cannot tell
    such a difference from zero to within the tight margin; it can tell whether quality was lost. So the tight margin is
    then one-sided (non-inferiority), and the wide one stays two-sided. Optimizations that promise the reference's
    numbers to the rounding of the dtype are held to both margins on both sides: a loss that is better than their
    numerics allow is a defect, as in MLPerf's check of convergence against a reference, and not a gain.

    Args:
      arms: outcomes of each arm, one a training pair; the baseline first.
      pair: None for a single arm: the criteria on the pair are left out.
      entropies: by name, `unigram` and `bigram` for those of the held-out targets under counts, in nats/token.
      beat: the entropy that the final held-out loss must beat; `bigram` asks for `unigram` too, '' for none.
      margin: nats within which the final held-out losses must lie.
      tight_margin: nats within which they must lie too, or by which the optimized arm's may at most lie above the
        baseline's where `statistical`.
      statistical: whether one of the optimizations promises no more than a training run of the same quality.
      noise_floor: relative speed-up that the placebo control showed or could have shown, which the speed-up must clear;
        None: there was no such control.
    """
    criteria = [_trained(arms), *learning(arms, entropies, beat)]
    if pair is not None:
        criteria += [_faster(pair, noise_floor), _throughput(pair, arms)]
        criteria += [_within(margin, pair, statistical=statistical)]
        criteria += [_no_worse(tight_margin, pair) if statistical else _within(tight_margin, pair, statistical=False)]
    return (*criteria, _no_divergence(arms))


def learning(
    arms: Mapping[str, Sequence[ArmOutcome]], entropies: Mapping[str, float], beat: str
) -> tuple[Criterion, ...]:
    """The criteria of learning alone, with arguments as those of `judge`."""
    beaten = ("unigram", "bigram") if beat == "bigram" else (beat,) if beat else ()
    return (_loss_falls(arms), *(_beats(name, entropies[name], arms) for name in beaten))


def same_tokens(identical: int, prompts: int) -> Criterion:
    """That speculative decoding gave the tokens of plain decoding, by the number of prompts for which it did."""
    return Criterion(
        "speculation_changes_no_token",
        "speculative decoding gives the tokens of plain greedy decoding",
        f"identical for {identical} of {counted(prompts, 'prompt')}",
        _verdict(identical == prompts),
    )


def counted(n: int, unit: str) -> str:
    """`16 block pairs`, `1 process`, `3 processes`."""
    return f"{n} {unit}" if n == 1 else f"{n} {unit}{'es' if unit.endswith('s') else 's'}"


def overall(criteria: Sequence[Criterion]) -> Verdict:
    """FAIL if any criterion failed, else INCONCLUSIVE if any is, else PASS."""
    verdicts = {criterion.verdict for criterion in criteria}
    return "FAIL" if "FAIL" in verdicts else "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS"


_Arms = Mapping[str, Sequence[ArmOutcome]]


def _trained(arms: _Arms) -> Criterion:
    return Criterion(
        "trains_end_to_end",
        f"{max(arm.planned_steps for arm in _all(arms))} steps in every arm",
        _each(arms, lambda arm: arm.steps, "{:.0f}", " steps"),
        _verdict(all(arm.steps == arm.planned_steps for arm in _all(arms))),
    )


def _loss_falls(arms: _Arms) -> Criterion:
    def fall(arm: ArmOutcome) -> float:
        return 1.0 - arm.final_heldout_loss / arm.initial_heldout_loss

    return Criterion(
        "loss_falls",
        f"loss falls by more than {LOSS_FALL:.0%}",
        _each(arms, fall, "{:+.1%}"),
        _verdict(all(fall(arm) > LOSS_FALL for arm in _all(arms))),
    )


def _beats(name: str, entropy: float, arms: _Arms) -> Criterion:
    return Criterion(
        f"beats_{name}_entropy",
        f"final held-out loss under {entropy:.3f} nats ({name} entropy)",
        _each(arms, lambda arm: arm.final_heldout_loss, "{:.3f}"),
        _verdict(all(arm.final_heldout_loss < entropy for arm in _all(arms))),
    )


def _faster(pair: PairOutcome, noise_floor: float | None) -> Criterion:
    speedup, floor = pair.speedup, 1.0 + (noise_floor or 0.0)
    target = "step-time speed-up above 1, 95 % interval too"
    if noise_floor is not None:
        target = f"step-time speed-up above 1, 95 % interval too, and above the noise floor {floor:.4f}"
    if speedup.estimate is None:
        return Criterion("speedup_above_zero", target, f"no {pair.unit} was measured", "INCONCLUSIVE")
    actual = f"{speedup.estimate:.3f} times as fast {_interval(speedup.ci95)}, {counted(speedup.pairs, pair.unit)}"
    verdict = _above(speedup.ci95, 1.0)
    if verdict == "PASS" and speedup.estimate <= floor:
        verdict = "INCONCLUSIVE"
    return Criterion("speedup_above_zero", target, actual, verdict)


def _throughput(pair: PairOutcome, arms: _Arms) -> Criterion:
    target = "more tokens/s, interval of the seconds saved per step above 0"
    actual = _each(arms, lambda arm: arm.tokens_per_second, "{:,.0f}", " tokens/s")
    seconds_per_step = pair.seconds_per_step
    if seconds_per_step.estimate is None:
        return Criterion("throughput_up", target, actual, "INCONCLUSIVE")
    ci = seconds_per_step.ci95
    saved = None if ci is None else (-ci[1] * 1e3, -ci[0] * 1e3)
    actual += f"; {-seconds_per_step.estimate * 1e3:.2f} ms saved per step {_interval(saved, '.2f')}"
    return Criterion("throughput_up", target, actual, _above(saved, 0.0))


def _within(margin: float, pair: PairOutcome, *, statistical: bool) -> Criterion:
    def judged(low: float, high: float) -> tuple[Verdict, str]:
        if -margin < low and high < margin:
            return "PASS", ""
        if high < -margin:
            why = "an optimization of speed explains" if statistical else "rounding explains"
            return "FAIL", f": better by more than {why}, which is a defect and not a gain"
        return ("FAIL" if low > margin else "INCONCLUSIVE"), ""

    target = f"final losses within {margin:g}, 95 % interval too"
    return _of_difference(f"loss_within_{margin:g}", target, pair, judged)


def _no_worse(margin: float, pair: PairOutcome) -> Criterion:
    def judged(low: float, high: float) -> tuple[Verdict, str]:
        return ("PASS" if high < margin else "FAIL" if low > margin else "INCONCLUSIVE"), ""

    target = f"optimized final loss at most {margin:g} higher, 95 % interval too"
    return _of_difference(f"loss_no_worse_by_{margin:g}", target, pair, judged)


def _of_difference(
    name: str, target: str, pair: PairOutcome, judged: Callable[[float, float], tuple[Verdict, str]]
) -> Criterion:
    difference = pair.heldout_loss
    if difference.estimate is None:
        return Criterion(name, target, "not measured", "INCONCLUSIVE")
    if difference.estimate == 0.0 and difference.ci95 is None and difference.pairs > 1:
        # The paired losses are the same to the last bit: there is no spread to take an interval from.
        return Criterion(name, target, f"identical on {counted(difference.pairs, pair.loss_unit)}", "PASS")
    units = counted(difference.pairs, pair.loss_unit)
    actual = f"{difference.estimate:+.4f} {_interval(difference.ci95, '+.4f')}, {units}"
    if difference.ci95 is None:
        return Criterion(name, target, actual, "INCONCLUSIVE")
    verdict, words = judged(*difference.ci95)
    return Criterion(name, target, actual + words, verdict)


def _no_divergence(arms: _Arms) -> Criterion:
    def rise(arm: ArmOutcome) -> float:
        return arm.final_heldout_loss - arm.best_heldout_loss

    def sound(arm: ArmOutcome) -> bool:
        # A comparison with NaN is false, so a NaN anywhere is divergence.
        return rise(arm) <= RISE_LIMIT and arm.final_train_loss <= arm.first_train_loss < math.inf

    starts = _each(arms, lambda arm: arm.first_train_loss, "{:.3f}")
    ends = _each(arms, lambda arm: arm.final_train_loss, "{:.3f}")
    return Criterion(
        "no_divergence",
        f"training loss not above its start, loss at most {RISE_LIMIT:g} above its best",
        f"training loss from {starts} to {ends}; loss above its best by {_each(arms, rise, '{:.3f}')}",
        _verdict(all(sound(arm) for arm in _all(arms))),
    )


def _all(arms: _Arms) -> list[ArmOutcome]:
    return [outcome for outcomes in arms.values() for outcome in outcomes]


def _each(arms: _Arms, value: Callable[[ArmOutcome], float], form: str, unit: str = "") -> str:
    """The value of each arm in words; its range where there are several training pairs."""
    words = {}
    for name, outcomes in arms.items():
        low, high = (form.format(bound([value(outcome) for outcome in outcomes])) for bound in (min, max))
        words[name] = (low if low == high else f"{low} to {high}") + unit
    return next(iter(words.values())) if len(words) == 1 else ", ".join(f"{n} {text}" for n, text in words.items())


def _verdict(passed: bool) -> Verdict:
    return "PASS" if passed else "FAIL"


def _above(ci: Interval | None, threshold: float) -> Verdict:
    if ci is None:
        return "INCONCLUSIVE"
    return "PASS" if ci[0] > threshold else "FAIL" if ci[1] < threshold else "INCONCLUSIVE"


def _interval(ci: Interval | None, form: str = ".3f") -> str:
    return "(no interval)" if ci is None else f"({ci[0]:{form}} to {ci[1]:{form}})"
