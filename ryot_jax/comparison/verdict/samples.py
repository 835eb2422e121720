"""The statistics that criteria are judged by, from the observations; None if the run has no such measurement."""

from ryot_jax.comparison.verdict.declaration import Sample
from ryot_jax.comparison.verdict.observations import ArmOutcome, Observations


def fall(arm: ArmOutcome) -> float:
    """Share of the loss at step 0 by which training lowered it."""
    return 1.0 - arm.final_heldout_loss / arm.initial_heldout_loss


def rise(arm: ArmOutcome) -> float:
    """Final held-out loss minus the best one, nats/token."""
    return arm.final_heldout_loss - arm.best_heldout_loss


def speedup(observed: Observations) -> Sample | None:
    """Speed-up of the pair with its interval."""
    if observed.pair is None:
        return None
    speedup = observed.pair.speedup
    return Sample(estimate=speedup.estimate, ci95=speedup.ci95, count=speedup.pairs, over=observed.pair.unit)


def above_noise(observed: Observations) -> Sample | None:
    """Estimate of the speed-up, for runs with a measured noise floor."""
    if observed.pair is None or observed.noise_floor is None:
        return None
    speedup = observed.pair.speedup.estimate
    return Sample() if speedup is None else Sample(values={list(observed.arms)[-1]: (speedup,)})


def saved(observed: Observations) -> Sample | None:
    """Milliseconds saved per step, with the interval."""
    if observed.pair is None:
        return None
    found = observed.pair.seconds_per_step
    ci95 = None if found.ci95 is None else (-found.ci95[1] * 1e3, -found.ci95[0] * 1e3)
    estimate = None if found.estimate is None else -found.estimate * 1e3
    return Sample(estimate=estimate, ci95=ci95, count=found.pairs, over=observed.pair.unit)


def loss_difference(observed: Observations) -> Sample | None:
    """Difference of the final losses, optimized - baseline."""
    if observed.pair is None:
        return None
    found = observed.pair.heldout_loss
    return Sample(estimate=found.estimate, ci95=found.ci95, count=found.pairs, over=observed.pair.loss_unit)


def same_tokens(observed: Observations) -> Sample | None:
    """Number of prompts that get the same tokens with and without a draft.

    None for the reference engine, which promises the same tokens only up to its rounding.
    """
    found = observed.decoding
    if found is None or found.engine != "cpu" or found.identical_prompts is None:
        return None
    return Sample(values={found.arm: (float(found.identical_prompts),)}, count=found.prompts, over="prompt")
