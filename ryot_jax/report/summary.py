"""What every report says in the same words: the verdict in one sentence, and the findings in one sentence each.

Plain strings in ASCII; layout and escaping are left to `terminal`, `markdown` and `html`. What a reader must not
conclude, and what to do next, is in `limits`.
"""

from collections.abc import Mapping
from typing import Any

from ryot_jax.report import compression, decoding, time_to_loss
from ryot_jax.report.words import (
    Results,
    counted,
    duration,
    interval,
    loss_name,
    loss_unit,
    number,
    of_language_model,
    ordered_arms,
    percent,
    spaced,
)


def headline(results: Results) -> str:
    """The verdict in one sentence, with effect, interval, number of pairs and margin."""
    verdict = results["verdict"]
    because = "" if verdict == "PASS" else f" ({', '.join(_reasons(results))})"
    comparison = results["comparison"]
    if comparison is None:
        return f"{verdict}{because}: {_single_arm(results)}; nothing was compared."
    return f"{verdict}{because}: {_speed(results)}; {_loss(results)}."


def findings(results: Results) -> list[str]:
    """One sentence on each thing that was found beside the headline; what was not measured is left out."""
    sentences = (
        criteria_passed(results),
        noise_floor(results),
        time_to_target(results),
        break_even(results),
        roofline(results),
        attribution(results),
        compressed(results),
        scheduled(results),
        decoded(results),
        seed_noise(results),
    )
    return [sentence for sentence in sentences if sentence]


def criteria_passed(results: Results) -> str:
    """How many criteria and controls passed."""
    criteria = results["criteria"]
    passed = sum(criterion["verdict"] == "PASS" for criterion in criteria)
    text = f"{passed} of {counted_criteria(len(criteria))} passed"
    if results["controls"] is not None:
        controls = results["controls"]["items"]
        passed = sum(control["verdict"] == "PASS" for control in controls)
        text += f", and {passed} of {counted(len(controls), 'control')}"
    return text + "."


def counted_criteria(n: int) -> str:
    """`1 criterion`, `9 criteria`."""
    return "1 criterion" if n == 1 else f"{n} criteria"


def noise_floor(results: Results) -> str | None:
    """How small a speed-up is still told from noise, by the placebo control; None where no controls were run."""
    controls = results["controls"]
    if controls is None:
        return None
    if controls["noise_floor"] is None:
        return "Noise floor: not measured; the placebo gave no interval."
    return (
        f"Noise floor: two arms of one program differed by up to {percent(controls['noise_floor'])}, so a speed-up "
        "under that is noise here."
    )


def time_to_target(results: Results) -> str | None:
    """When each arm reached the baseline's final held-out loss; None for a single arm or no held-out loss."""
    comparison = results["comparison"]
    if comparison is None or comparison["time_to_target"]["target_loss"] is None:
        return None
    found = comparison["time_to_target"]
    reached = "; ".join(_reached(name, found["arms"][name]) for name in ordered_arms(results))
    text = f"Time to target ({loss_name(results)} {found['target_loss']:.4f}, the baseline's final one): {reached}"
    if found["speedup"] is not None:
        text += (
            f"; {found['speedup']:.3f} times as fast, {number(found['speedup_with_compile'])} with compilation counted"
        )
    return text + "."


def _reached(name: str, arm: Mapping[str, Any]) -> str:
    if arm["step"] is None:
        return f"{name} does not reach it"
    return f"{name} at step {arm['step']:,.0f} after {duration(arm['seconds'])} s"


def break_even(results: Results) -> str | None:
    """After how many steps a longer compilation is paid back; None for a single arm."""
    comparison = results["comparison"]
    if comparison is None:
        return None
    steps, names = comparison["break_even_steps"], (comparison["optimized"], comparison["baseline"])
    if steps is None:
        measured = comparison["seconds_per_step_difference"]["estimate"] is not None
        text = "never; no time is saved per step" if measured else "step times were not measured"
    elif steps == 0:
        text = f"at once; {names[0]} takes no longer to compile than {names[1]}"
    else:
        extra = results["arms"][names[0]]["compile_seconds"] - results["arms"][names[1]]["compile_seconds"]
        text = f"after {steps:,.0f} steps the {duration(extra)} s of longer compilation are paid back"
    cached = any(arm["compiled_from_cache"] for arm in results["arms"].values())
    return f"Break-even: {text}{'; programs came from the cache, so that a first run may differ' if cached else ''}."


def compilation_not_measured(results: Results) -> list[str]:
    """What of cold and warm compilation was not measured, one sentence each."""
    arms = ordered_arms(results)
    sentences = []
    cached = [name for name, arm in arms.items() if arm["compiled_from_cache"]]
    if cached:
        sentences.append(
            f"The programs of {' and '.join(cached)} came from the cache of compiled programs: compiling them anew "
            "was not measured."
        )
    no_warm = [name for name, arm in arms.items() if arm["compile_warm_seconds"] is None]
    if no_warm:
        sentences.append(f"Compiling once more, from the cache, was not measured for {' and '.join(no_warm)}.")
    return sentences


def roofline(results: Results) -> str | None:
    """Where each arm stands under its roof; None where it was not measured."""
    if results["roofline"] is None:
        return None
    arms = results["roofline"]["arms"]
    known = [name for name in ordered_arms(results) if name in arms]
    words = "; ".join(f"{name} {_under_roof(arms[name])}" for name in known)
    return f"Roofline: {words}."


def _under_roof(arm: Mapping[str, Any]) -> str:
    if arm["flops_per_second"] is None:
        return "was not measured"
    share = percent(arm["share"], ".0f")
    if arm["above_roof"]:
        return f"is at {share} of its {arm['dtype']} roof: above it, which is a bug of the measurement"
    return f"runs at {arm['flops_per_second'] / 1e9:,.1f} GFLOP/s, {share} of its {arm['dtype']} roof"


def attribution(results: Results) -> str | None:
    """The speed-up of all optimizations and how they interact; None where they were not ablated."""
    found = results["attribution"]
    if found is None:
        return None
    total, interaction = found["total"], found["interaction"]
    text = (
        f"Attribution: all {len(found['players'])} optimizations together are {number(total['estimate'])} times as "
        f"fast (95 % interval {interval(total['ci95'])})"
    )
    if interaction["estimate"] is not None:
        text += (
            f"; that is {interaction['estimate']:.3f} times the product of each alone "
            f"(95 % interval {interval(interaction['ci95'])}; 1 means that they multiply)"
        )
    return text + "."


def compressed(results: Results) -> str | None:
    """Size, cost and name of the compressed file; None where nothing was compressed."""
    found = results.get("compression")
    return None if found is None else compression.in_a_line(found)


def scheduled(results: Results) -> str | None:
    """How soon schedule and recipe reach the baseline's loss; None where none was trained."""
    return None if results.get("time_to_loss") is None else time_to_loss.in_a_line(results)


def decoded(results: Results) -> str | None:
    """How fast the best checkpoint generates; None where nothing was generated."""
    found = results.get("decoding")
    return None if found is None else decoding.in_a_line(found)


def seed_noise(results: Results) -> str | None:
    """Whether other seeds were tried; None for a single arm."""
    comparison = results["comparison"]
    if comparison is None:
        return None
    pairs = comparison["training_pairs"]
    if comparison["seed_noise_measured"]:
        return f"Seed noise was measured: {counted(len(pairs), 'training pair')}, each of its own seed."
    return "Seed noise was not measured: one pair of runs from one seed was trained."


def _reasons(results: Results) -> list[str]:
    """Names of the criteria, and of the controls, that made a verdict what it is."""
    verdict = results["verdict"]
    reasons = [c["name"] for c in results["criteria"] if c["verdict"] == verdict]
    if verdict == "INCONCLUSIVE" and results["controls"] is not None:
        items = results["controls"]["items"]
        reasons = [f"control {spaced(c['name'])}" for c in items if c["verdict"] != "PASS"] + reasons
    return reasons


def _single_arm(results: Results) -> str:
    name, arm = next(iter(results["arms"].items()))
    text = (
        f"{name} trained {arm['steps']:,} steps to a {loss_name(results)} of "
        f"{number(arm['final_heldout_loss'])}{loss_unit(results)}"
    )
    entropies = results["data"]["entropies"]
    return f"{text} (bigram entropy {number(entropies.get('bigram'))})" if of_language_model(results) else text


def _speed(results: Results) -> str:
    comparison, controls = results["comparison"], results["controls"]
    speed, optimized = comparison["step_time_speedup"], comparison["optimized"]
    if speed["estimate"] is None:
        return f"how fast {optimized} is was not measured"
    margin = "no controls" if controls is None else f"noise floor {percent(controls['noise_floor'])}"
    return (
        f"{optimized} is {speed['estimate']:.3f} times as fast per step as {comparison['baseline']} "
        f"(95 % interval {interval(speed['ci95'])}, {counted(speed['pairs'], comparison['unit'])}; {margin})"
    )


def _loss(results: Results) -> str:
    loss, tests = results["comparison"]["heldout_loss_difference"], results["comparison"]["loss_tests"]
    if loss["estimate"] is None:
        return f"the difference of {loss_name(results)}es was not measured"
    return (
        f"its final {loss_name(results)} differs by {loss['estimate']:+.4f}{loss_unit(results)} (95 % interval "
        f"{interval(loss['ci95'], '+.4f')}, {counted(loss['pairs'], loss['unit'])}; "
        f"margins {tests['margin']:g} and {tests['tight_margin']:g})"
    )
