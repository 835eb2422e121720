"""What every report says in the same words: the verdict in one sentence, the deltas, what is not shown.

Plain strings in ASCII; layout and escaping are left to `terminal` and `markdown`.
"""

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Any]
NOTHING = "n/a"


def number(value: float | None, form: str = ".3f", unit: str = "") -> str:
    """`value` in format `form` with `unit` behind it; `n/a` for None."""
    return NOTHING if value is None else f"{value:{form}}{unit}"


def interval(ci95: list[float] | None, form: str = ".3f") -> str:
    """`0.981 to 1.002`, or that there is none."""
    return "no interval" if ci95 is None else f"{ci95[0]:{form}} to {ci95[1]:{form}}"


def ordered_arms(results: Results) -> dict[str, Mapping[str, Any]]:
    """The arms, the baseline first: a JSON file may hold them in any order."""
    comparison = results["comparison"]
    names = list(results["arms"]) if comparison is None else [comparison["baseline"], comparison["optimized"]]
    return {name: results["arms"][name] for name in names}


def headline(results: Results) -> str:
    """The verdict in one sentence, with the effect and its interval."""
    verdict = results["verdict"]
    open_criteria = [c["name"] for c in results["criteria"] if c["verdict"] == verdict]
    because = "" if verdict == "PASS" else f" ({', '.join(open_criteria)})"
    comparison = results["comparison"]
    if comparison is None:
        name, arm = next(iter(results["arms"].items()))
        return (
            f"{verdict}{because}: {name} trained {arm['steps']:,} steps to a held-out loss of "
            f"{number(arm['final_heldout_loss'])} nats/token "
            f"(bigram entropy {number(results['data']['entropies']['bigram'])}); nothing was compared."
        )
    return f"{verdict}{because}: {_speed_words(comparison)}; {_loss_words(comparison)}."


def _speed_words(comparison: Mapping[str, Any]) -> str:
    speed = comparison["step_time_speedup"]
    names = f"{comparison['optimized']} is", f"as {comparison['baseline']}"
    if speed["estimate"] is None:
        return f"how fast {names[0][:-3]} is was not measured"
    effect = f"{names[0]} {speed['estimate']:.3f} times as fast per step {names[1]}"
    certain = f"95 % interval {interval(speed['ci95'])}, {speed['pairs']} block pairs"
    return f"{effect} ({certain})"


def _loss_words(comparison: Mapping[str, Any]) -> str:
    loss = comparison["heldout_loss_difference"]
    if loss["estimate"] is None:
        return "the difference of held-out losses was not measured"
    return (
        f"its final held-out loss differs by {loss['estimate']:+.4f} nats/token "
        f"(95 % interval {interval(loss['ci95'], '+.4f')}, {loss['sequences']} sequences)"
    )


def deltas(results: Results) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the table baseline | optimized | delta (one column for a single arm)."""
    arms = ordered_arms(results)
    rows = [
        _row("final held-out loss (nats/token)", arms, "final_heldout_loss", ".4f", "difference"),
        _row("final training loss (nats/token)", arms, "final_train_loss", ".4f", "difference"),
        _row("best held-out loss (nats/token)", arms, "best_heldout_loss", ".4f", "difference"),
        _row("training time (s, compile apart)", arms, "train_seconds", ",.1f", "percent"),
        _row("throughput (tokens/s)", arms, "tokens_per_second", ",.0f", "percent"),
        _row("step time, median (ms)", arms, "step_ms_median", ",.2f", "percent"),
        _row("compile time (s)", arms, "compile_seconds", ",.1f", "percent"),
        _row("memory of the step (MiB)", arms, "memory_bytes", ",.0f", "percent", 2**20),
        _row("parameters", arms, "parameters", ",d", "percent"),
    ]
    header = ("", *arms, "delta") if len(arms) == 2 else ("", *arms)
    return header, rows


def _row(
    title: str, arms: Mapping[str, Any], key: str, form: str, kind: str, scale: int | None = None
) -> tuple[str, ...]:
    values = [arm[key] if scale is None or arm[key] is None else arm[key] / scale for arm in arms.values()]
    cells = tuple(number(value, form) for value in values)
    return (title, *cells, _delta(values, form, kind)) if len(values) == 2 else (title, *cells)


def _delta(values: list[float | None], form: str, kind: str) -> str:
    baseline, optimized = values
    if baseline is None or optimized is None:
        return NOTHING
    if kind == "difference":
        return f"{optimized - baseline:+{form}}"
    return f"{optimized / baseline - 1:+.1%}" if baseline else NOTHING


def criteria_rows(results: Results) -> list[tuple[str, ...]]:
    """Rows criterion | target | actual | verdict."""
    return [(c["name"].replace("_", " "), c["target"], c["actual"], c["verdict"]) for c in results["criteria"]]


def not_shown(results: Results) -> list[str]:
    """What a reader must not conclude from this run."""
    limits = []
    if results["comparison"] is not None:
        limits += [
            "Seed noise was not measured: one pair of runs from one seed was trained. The interval of the "
            "loss difference holds the choice of held-out sequences only.",
            "The speed-up is that of this machine, this model size and these compiled programs; a recompile "
            "may choose other code.",
            "Compile time is apart from the step times and from the throughput.",
        ]
    limits.append("Held-out loss was measured on text like the training text; other text and tasks were not tried.")
    return limits


def next_steps(results: Results) -> list[str]:
    """What to do next, by what the criteria found."""
    verdicts = {c["name"]: c["verdict"] for c in results["criteria"]}
    steps = []
    if any(verdicts.get(name) == "FAIL" for name in ("no_divergence", "trains_end_to_end", "loss_falls")):
        steps.append("Lower training.learning_rate or lengthen training.warmup_steps, and look at metrics.jsonl.")
    if any(name.startswith("beats_") and verdict == "FAIL" for name, verdict in verdicts.items()):
        steps.append("Train longer (training.epochs): counting words still predicts better than the model.")
    if "INCONCLUSIVE" in (verdicts.get("speedup_above_zero"), verdicts.get("throughput_up")):
        steps.append("Run more block pairs on a quiet machine (more epochs or a smaller comparison.block_steps).")
    if verdicts.get("speedup_above_zero") == "FAIL":
        steps.append("Turn the optimizations off one by one (config.optimizations) to find the one that costs.")
    on_loss = [verdict for name, verdict in verdicts.items() if name.startswith(("loss_within_", "loss_no_worse_by_"))]
    if any(verdict != "PASS" for verdict in on_loss):
        steps.append("Turn off the optimizations of class statistical first: they change the rounding.")
    if results["comparison"] is not None:
        steps.append("Repeat with other seeds (config.seed) before claiming a difference of losses.")
    return steps or ["Train a second arm (comparison.arms) to compare with this one."]
