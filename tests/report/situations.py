"""Results such as runs leave: one a situation that a report must hold."""

import dataclasses

import numpy as np

from ryot_jax.comparison.attribution import Attribution, Effect, EffectWithP, PlayerEffects
from ryot_jax.comparison.results import settled
from ryot_jax.comparison.schema import (
    MeasuredPeaks,
    ProcessResult,
    TimeToTarget,
)
from tests.report import beside
from tests.report.factories import NOT_REACHED, SPEEDUP, criterion, edit, passed, training_pair


def _failed(results):
    """A speed-up that is a slow-down; every number is there."""
    slower = [
        edit(edit(block, ratio=block.ratio / 1.3), "seconds", optimized=1.3 * block.seconds["optimized"])
        for block in results.comparison.step_time_speedup.blocks
    ]
    speed = {"estimate": 0.962, "ci95": (0.948, 0.977), "median": 0.963, "blocks": tuple(slower)}
    results = edit(results, "comparison.step_time_speedup", **speed)
    results = edit(results, "comparison.seconds_per_step_difference", estimate=0.0062, ci95=(0.0041, 0.0083))
    results = edit(results, "comparison", break_even_steps=None)
    failed = criterion(
        "speedup_above_zero",
        "FAIL",
        results.criteria[1].target,
        "0.962 times as fast (0.948 to 0.977), 16 block pairs",
    )
    return edit(results, verdict="FAIL", criteria=(results.criteria[0], failed, results.criteria[2]))


def _placebo_failed(results):
    """Two arms of one program that seem to differ: nothing that was measured counts."""
    results = edit(
        results,
        "controls.items.0",
        verdict="FAIL",
        estimate=1.062,
        ci=(1.021, 1.104),
        actual="1.0620 (1.0210 to 1.1040), 8 block pairs",
        ratios=tuple(1.062 + 0.03 * (i - 3.5) / 3.5 for i in range(8)),
    )
    warning = "The control placebo did not pass: what this run measured proves nothing."
    return edit(edit(results, "controls", noise_floor=0.094), warnings=(warning,), verdict="INCONCLUSIVE")


def _single_arm(results):
    """One arm alone: nothing is compared and nothing is controlled."""
    return edit(
        edit(results, "settings", arms=1),
        arms={"optimized": results.arms["optimized"]},
        criteria=results.criteria[:1],
        **dict.fromkeys(("comparison", "controls", "roofline")),
        config_differences=(),
    )


def _ablated(results):
    """With what each of three optimizations brings, the last of which costs."""

    def value(estimate: float) -> Effect:
        return Effect(estimate, (estimate - 0.012, estimate + 0.012))

    def tested(estimate: float, p: float) -> EffectWithP:
        return EffectWithP(**dataclasses.asdict(value(estimate)), p=p, p_holm=min(1.0, 3 * p))

    players = [("dense", 1.18, 1.15, 1.165), ("attention", 1.11, 1.09, 1.101), ("norm", 0.98, 0.97, 0.9753)]
    attribution = Attribution(
        rounds=12,
        baseline_ms=161.0,
        full_ms=128.7,
        total=value(1.251),
        players=tuple(
            PlayerEffects(
                name=name,
                switch=f"optimizations.{name}",
                implementation="xla",
                alone=tested(alone, 4e-4),
                left_out=tested(left_out, 6e-4),
                shapley=value(shapley),
            )
            for name, alone, left_out, shapley in players
        ),
        interaction=value(0.974),
    )
    return edit(results, attribution=attribution)


def _many_seeds(results):
    """Eight training pairs, each of its own seed, and three fresh processes."""
    rng = np.random.default_rng(1)
    pairs = tuple(
        training_pair(i, float(SPEEDUP + 0.01 * rng.normal()), float(3.47 + 0.01 * rng.normal()), float(d))
        for i, d in enumerate(0.003 + 0.008 * rng.normal(size=8))
    )
    processes = tuple(
        ProcessResult(index=i + 1, block_pairs=8, speedup=r, compile_seconds={"baseline": 7.7, "optimized": 13.1})
        for i, r in enumerate((1.244, 1.263, 1.238))
    )
    results = edit(
        results, "comparison", training_pairs=pairs, unit="process", seed_noise_measured=True, processes=processes
    )
    results = edit(results, "comparison.step_time_speedup", pairs=4, ci95=(1.221, 1.282))
    loss = {"unit": "training pair", "pairs": 8, "estimate": 0.003, "ci95": (-0.004, 0.010)}
    results = edit(results, "comparison.heldout_loss_difference", **loss)
    return edit(results, "comparison.loss_tests", unit="training pair")


def _compressed(results):
    """With a compressed checkpoint whose interval reaches over its budget, and files of other methods beside it."""
    return edit(results, compression=beside.compression())


def _compressed_alone(results):
    """The compressed checkpoint of a single arm, with no other files and without what may be left out."""
    return edit(
        _compressed(_single_arm(results)),
        "compression",
        budget="ratio>=12",
        kept=True,
        pareto=(),
        arrays=(),
        **dict.fromkeys(("speed", "tokens_per_second", "float_tokens_per_second")),
    )


def _decoded(results):
    """With what generating with the best checkpoint came to."""
    return edit(results, decoding=beside.decoding())


def _scheduled(results):
    """With trainings by a schedule, a recipe and both; the recipe's ends above the baseline's loss."""
    return edit(results, time_to_loss=beside.time_to_loss())


def _nothing_measured(results):
    """None wherever the schema allows it: a run that ended before it had measured anything."""
    losses = ("initial_heldout_loss", "first_train_loss", "final_train_loss", "final_heldout_loss")
    rest = ("best_heldout_loss", "best_step", "tokens_per_second", "step_ms_median", "memory_bytes")
    unknown = dict.fromkeys((*losses, *rest, "compile_warm_seconds", "compiled_from_cache"))
    for name in results.arms:
        results = edit(results, f"arms.{name}", **unknown, epochs=(), compile_parts={}, train_seconds=0.0)
        unplaced = dict.fromkeys(("flops", "bytes", "seconds", "flops_per_second", "roof", "share"))
        results = edit(results, f"roofline.arms.{name}", **unplaced)
    speed = dict.fromkeys(("estimate", "ci95", "median", "p_sign_flip", "log_ratio_sd"))
    results = edit(results, "comparison.step_time_speedup", **speed, pairs=0, blocks=())
    results = edit(results, "comparison.seconds_per_step_difference", estimate=None, ci95=None)
    loss = dict.fromkeys(("estimate", "ci95", "correlation"))
    results = edit(results, "comparison.heldout_loss_difference", **loss, pairs=0)
    results = edit(results, "comparison.loss_tests", **dict.fromkeys(("p_tost", "p_tost_tight", "p_no_worse")))
    pair = dict.fromkeys(("speedup", "baseline_loss", "optimized_loss", "loss_difference"))
    results = edit(results, "comparison.training_pairs.0", **pair, block_pairs=0)
    results = edit(results, "comparison", time_to_target=_no_target(results), break_even_steps=None)
    for i in range(len(results.controls.items)):
        results = edit(results, f"controls.items.{i}", verdict="INCONCLUSIVE", estimate=None, ci=None, ratios=())
    results = edit(results, "controls", noise_floor=None)
    results = edit(results, "roofline", peaks=MeasuredPeaks(matmul_flops={}, copy_bytes=None))
    results = edit(results, "estimands", stated_at=None)
    open_ = tuple(criterion(c.name, "INCONCLUSIVE", c.target, "not measured") for c in results.criteria)
    return edit(
        results,
        criteria=open_,
        verdict="INCONCLUSIVE",
        batches_hash=None,
        optimizations=(),
        config_differences=(),
        artifacts={},
    )


def _no_target(results):
    arms = dict.fromkeys(results.arms, NOT_REACHED)
    return TimeToTarget(target_loss=None, arms=arms, speedup=None, speedup_with_compile=None)


def renamed(results, names):
    """With arms of other names; `names` gives the new one of each old one."""

    def keys(mapping):
        return {names.get(name, name): value for name, value in mapping.items()}

    comparison = results.comparison
    blocks = tuple(
        edit(block, order=tuple(names.get(name, name) for name in block.order), seconds=keys(block.seconds))
        for block in comparison.step_time_speedup.blocks
    )
    comparison = edit(comparison, "step_time_speedup", blocks=blocks)
    comparison = edit(comparison, "time_to_target", arms=keys(comparison.time_to_target.arms))
    roles = {
        role: names.get(getattr(comparison, role), getattr(comparison, role)) for role in ("baseline", "optimized")
    }
    roofline = results.roofline and edit(results.roofline, arms=keys(results.roofline.arms))
    return edit(results, arms=keys(results.arms), comparison=edit(comparison, **roles), roofline=roofline)


def _brought(results):
    """Two user-supplied step functions, with nothing held out and names of their own."""
    results = renamed(results, {"baseline": "adam", "optimized": "muon"})
    for name in results.arms:
        results = edit(results, f"arms.{name}", epochs=(), compile_warm_seconds=None, compiled_from_cache=None, plan={})
    results = edit(results, "comparison.heldout_loss_difference", unit="block pair", pairs=8)
    results = edit(results, "comparison.loss_tests", unit="block pair")
    results = edit(results, "comparison", time_to_target=_no_target(results))
    results = edit(results, "settings", beat="", held_out=False)
    return edit(
        results,
        name="two optimizers",
        data={"items_per_step": 32, "held_out": False, "entropies": {}},
        manifest={"versions": {"jax": "0.10.2"}},
        roofline=None,
        optimizations=(),
        config_differences=(),
        artifacts={},
    )


SITUATIONS = {
    "passed": lambda results: results,
    "failed": _failed,
    "placebo_failed": _placebo_failed,
    "single_arm": _single_arm,
    "ablated": _ablated,
    "many_seeds": _many_seeds,
    "compressed": _compressed,
    "compressed_alone": _compressed_alone,
    "decoded": _decoded,
    "scheduled": _scheduled,
    "nothing_measured": _nothing_measured,
    "brought": _brought,
}


def situation(name):
    """The results of that situation, as they are read back from their file."""
    return settled(SITUATIONS[name](passed()))
