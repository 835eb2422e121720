"""The criteria, each declared once. Adding a criterion is adding one object to `RULES`.

Statement, verdict, words, `results.json`, reports and exit code follow from it.

On the margins of the losses: where an optimization rounds otherwise (`Terms.statistical`), the arms part ways within
some dozen steps, and their final losses then differ by some 0.01 nats of either sign, as those of two seeds of less
noise do (experiments/results/losses_by_seed_scaled.md: bfloat16 against float32 kernels, four seeds). One pair cannot
tell such a difference from zero to within the tight margin; it can tell whether quality was lost. So the tight margin
is then one-sided (non-inferiority), and the wide one stays two-sided. Optimizations that promise the reference's
numbers to the rounding of the dtype are held to both margins on both sides: a loss that is better than their numerics
allow is a defect, as in MLPerf's check of convergence against a reference, and not a gain.
"""

from ryot_jax.comparison.verdict import advice, samples
from ryot_jax.comparison.verdict.declaration import Quantity, Rule, Sample, Terms, by_arm

LOSS_FALL = 0.05  # share of the loss at step 0 by which training must lower it
RISE_LIMIT = 0.1  # nats by which the last held-out loss may exceed the best one before it counts as divergence


def _compares(terms: Terms) -> bool:
    return terms.settings.arms == 2


def _loss_statistic(terms: Terms) -> str:
    return f"mean of optimized - baseline {_stated_loss(terms)}, Student t interval; two one-sided tests"


def _stated_loss(terms: Terms) -> str:
    return "held-out loss" if terms.settings.held_out else "training loss in the last half of the blocks"


def _within(margin: str) -> Rule:
    """The criterion that the final losses differ by less than a margin, given by its field of `Settings`."""

    def value(terms: Terms) -> float:
        return float(getattr(terms.settings, margin))

    def too_low(terms: Terms) -> str:
        wide = margin == "loss_margin" and terms.statistical
        why = "an optimization of speed explains" if wide else "rounding explains"
        return f": better by more than {why}, which is a defect and not a gain"

    return Rule(
        name=lambda terms: f"loss_within_{value(terms):g}",
        estimand="loss difference",
        unit=lambda terms: terms.settings.loss_unit,
        statistic=_loss_statistic,
        criterion=lambda terms: f"95 % interval within {value(terms):g}",
        applies=lambda terms: _compares(terms) and not (terms.statistical and margin == "tight_loss_margin"),
        quantities=(
            Quantity(
                statistic="final loss, optimized - baseline",
                unit="nats/token",
                measure=samples.loss_difference,
                comparison="within",
                threshold=lambda observed, terms: value(terms),
                target="final losses within {threshold:g}, 95 % interval too",
                actual="{estimate} {interval}, {count}",
                form="+.4f",
                too_low=too_low,
            ),
        ),
        advice={"FAIL": advice.LOSSES_APART, "INCONCLUSIVE": advice.LOSSES_APART},
    )


def _beats(entropy: str) -> Rule:
    """The criterion that the final held-out loss is below the named entropy."""
    return Rule(
        name=f"beats_{entropy}_entropy",
        estimand="learning",
        unit="arm",
        statistic=lambda terms: f"final {_stated_loss(terms)}",
        criterion=f"under the {entropy} entropy of the same targets",
        applies=lambda terms: entropy in terms.settings.beaten,
        quantities=(
            Quantity(
                statistic="final held-out loss",
                unit="nats/token",
                measure=lambda observed: Sample(by_arm(observed, lambda arm: arm.final_heldout_loss)),
                comparison="below",
                threshold=lambda observed, terms: observed.entropies[entropy],
                target=f"final held-out loss under {{threshold:.3f}} nats ({entropy} entropy)",
            ),
        ),
        advice={"FAIL": advice.TRAIN_LONGER},
    )


LEARNING = (
    Rule(
        name="loss_falls",
        estimand="learning",
        unit="arm",
        statistic=lambda terms: f"final {_stated_loss(terms)}",
        criterion=f"{100 * LOSS_FALL:g} % under the loss at step 0",
        quantities=(
            Quantity(
                statistic="share of the loss at step 0 that training took away",
                unit="share",
                measure=lambda observed: Sample(by_arm(observed, samples.fall)),
                comparison="above",
                threshold=LOSS_FALL,
                target="loss falls by more than {threshold:.0%}",
                form="+.1%",
            ),
        ),
        advice={"FAIL": advice.LOWER_THE_RATE},
    ),
    _beats("unigram"),
    _beats("bigram"),
    _beats("chance"),
)

RULES = (
    Rule(
        name="trains_end_to_end",
        estimand="training to the end",
        unit="arm",
        statistic="training steps done",
        criterion="all planned steps in every arm",
        quantities=(
            Quantity(
                statistic="training steps done",
                unit="steps",
                measure=lambda observed: Sample(by_arm(observed, lambda arm: arm.steps)),
                comparison="equal",
                threshold=lambda observed, terms: max(arm.planned_steps for arm in observed.all_arms),
                target="{threshold:.0f} steps in every arm",
                form=".0f",
                suffix=" steps",
            ),
        ),
        advice={"FAIL": advice.LOWER_THE_RATE},
    ),
    *LEARNING,
    Rule(
        name="speedup_above_zero",
        estimand="step-time speed-up",
        unit=lambda terms: terms.settings.speed_unit,
        statistic="geometric mean of baseline / optimized seconds per step, Student t interval on logs, sign-flip p",
        criterion=lambda terms: (
            "95 % interval above 1"
            + (", and the estimate above the placebo's noise floor" if terms.settings.controls else "")
        ),
        applies=_compares,
        quantities=(
            Quantity(
                statistic="step-time speed-up, baseline / optimized seconds",
                unit="ratio",
                measure=samples.speedup,
                comparison="above",
                threshold=1.0,
                target="step-time speed-up above 1, 95 % interval too",
                actual="{estimate} times as fast {interval}, {count}",
                missing="no {over} was measured",
            ),
            Quantity(
                statistic="estimate of the speed-up beside the noise floor of the placebo",
                unit="ratio",
                measure=samples.above_noise,
                comparison="above",
                threshold=lambda observed, terms: 1.0 + (observed.noise_floor or 0.0),
                otherwise="INCONCLUSIVE",
                target="and above the noise floor {threshold:.4f}",
                actual="",
            ),
        ),
        advice={"FAIL": advice.FIND_WHAT_COSTS, "INCONCLUSIVE": advice.MORE_PAIRS},
    ),
    Rule(
        name="throughput_up",
        estimand="throughput",
        unit=lambda terms: terms.settings.speed_unit,
        statistic="targets trained on per second; mean difference of seconds per step, Student t interval",
        criterion="95 % interval of the seconds saved above 0",
        applies=_compares,
        quantities=(
            Quantity(
                statistic="throughput",
                unit="tokens/s",
                measure=lambda observed: Sample(by_arm(observed, lambda arm: arm.tokens_per_second)),
                form=",.0f",
                suffix=" tokens/s",
            ),
            Quantity(
                statistic="time saved per step",
                unit="ms",
                measure=samples.saved,
                comparison="above",
                threshold=0.0,
                target="more tokens/s, interval of the seconds saved per step above 0",
                actual="{estimate} ms saved per step {interval}",
                form=".2f",
                missing="",
            ),
        ),
        advice={"INCONCLUSIVE": advice.MORE_PAIRS},
    ),
    _within("loss_margin"),
    _within("tight_loss_margin"),
    Rule(
        name=lambda terms: f"loss_no_worse_by_{terms.settings.tight_loss_margin:g}",
        estimand="loss difference",
        unit=lambda terms: terms.settings.loss_unit,
        statistic=_loss_statistic,
        criterion=lambda terms: f"95 % interval at most {terms.settings.tight_loss_margin:g} higher",
        applies=lambda terms: _compares(terms) and terms.statistical,
        quantities=(
            Quantity(
                statistic="final loss, optimized - baseline",
                unit="nats/token",
                measure=samples.loss_difference,
                comparison="at most",
                threshold=lambda observed, terms: terms.settings.tight_loss_margin,
                target="optimized final loss at most {threshold:g} higher, 95 % interval too",
                actual="{estimate} {interval}, {count}",
                form="+.4f",
            ),
        ),
        advice={"FAIL": advice.LOSSES_APART, "INCONCLUSIVE": advice.LOSSES_APART},
    ),
    Rule(
        name="no_divergence",
        estimand="stability",
        unit="arm",
        statistic=lambda terms: (
            f"training loss of the last block and of the first step; final {terms.settings.loss_name} and the least"
        ),
        criterion=f"training loss not above its start, loss at most {RISE_LIMIT:g} above its best",
        quantities=(
            Quantity(
                statistic="training loss at the end, held to that at the start",
                unit="nats/token",
                measure=lambda observed: Sample(
                    by_arm(observed, lambda arm: arm.final_train_loss),
                    against=by_arm(observed, lambda arm: arm.first_train_loss),
                ),
                comparison="at most",
                target="training loss not above its start",
                actual="training loss from {against} to {values}",
            ),
            Quantity(
                statistic="final loss above the best one",
                unit="nats/token",
                measure=lambda observed: Sample(by_arm(observed, samples.rise)),
                comparison="at most",
                threshold=RISE_LIMIT,
                target="loss at most {threshold:g} above its best",
                actual="loss above its best by {values}",
            ),
        ),
        advice={"FAIL": advice.LOWER_THE_RATE},
    ),
    Rule(
        name="speculation_changes_no_token",
        estimand="generated text",
        unit="prompt",
        statistic="prompts that are continued by the same tokens with a draft and without",
        criterion="all of them, where the engine promises it (cpu)",
        applies=lambda terms: terms.settings.decodes,
        quantities=(
            Quantity(
                statistic="prompts continued by the same tokens with a draft and without",
                unit="prompts",
                measure=samples.same_tokens,
                comparison="equal",
                threshold=lambda observed, terms: observed.decoding.prompts if observed.decoding else 0,
                target="speculative decoding gives the tokens of plain greedy decoding",
                actual="identical for {values} of {count}",
                form=".0f",
            ),
        ),
        advice={"FAIL": advice.NO_DRAFT},
    ),
)
