"""What a reader must not conclude from a run, and what to do next: sentences drawn from the results alone."""

from ryot_jax.report.words import Results, counted, loss_name, of_language_model

# What to do next, by what was found: for a run of this package, and for step functions that somebody brought.
_ADVICE = {
    "no_controls": (
        "Run the controls (comparison.controls=True) before claiming anything.",
        "Run the controls (control_blocks) before claiming anything.",
    ),
    "diverged": (
        "Lower training.learning_rate or lengthen training.warmup_steps, and look at metrics.jsonl.",
        "Lower the learning rate, or warm it up for longer.",
    ),
    "noisy": (
        "Run more block pairs on a quiet machine (more epochs or a smaller comparison.block_steps).",
        "Run more block pairs on a quiet machine (more steps, or a smaller block_steps).",
    ),
    "slower": (
        "Find the optimization that costs: ryot ablate --config=FILE tries each alone and left out.",
        "Look for what the second step does beside the first: it costs time.",
    ),
    "losses_apart": (
        "Turn off the optimizations of class statistical first: they change the rounding.",
        "Look for what the second step computes otherwise, before a margin is widened.",
    ),
    "budget_missed": (
        "Compress again with more room in the budget: on held-out text it is missed.",
        "Compress again with more room in the budget: on held-out data it is missed.",
    ),
    "one_seed": (
        "Repeat with other seeds (comparison.pairs=8) before claiming a difference of losses.",
        "Repeat from other initial states and with other batches before claiming a difference of losses.",
    ),
    "one_process": (
        "Time fresh processes too (comparison.processes=3) before claiming a small speed-up.",
        "Repeat in fresh processes, which compile anew, before claiming a small speed-up.",
    ),
}


def not_shown(results: Results) -> list[str]:
    """What a reader must not conclude from this run."""
    limits = [] if results["comparison"] is None else _limits_of_comparison(results)
    if results["roofline"] is None:
        limits.append("How near the arms come to what this machine can do was not measured.")
    else:
        limits.append(
            "The roofline counts the least traffic that a step needs; what really moved between memory and processor "
            "was not measured."
        )
    limits.append("Energy was not measured.")
    if loss_name(results) != "held-out loss":
        limits.append("Nothing was held out: the losses are training losses, and say nothing of other data.")
    elif of_language_model(results):
        limits.append("Held-out loss was measured on text like the training text; other text and tasks were not tried.")
    else:
        limits.append("Held-out loss was measured on the examples that were given; other data were not tried.")
    return limits


def next_steps(results: Results) -> list[str]:
    """What to do next, by what the criteria and the controls found."""
    found = [
        *_after_controls(results),
        *_after_criteria(results),
        *_after_comparison(results),
        *_after_compression(results),
    ]
    return found or [
        "Train a second arm (comparison.arms) to compare with this one."
        if results["comparison"] is None
        else "Repeat on the machine that the speed-up is to be claimed for."
    ]


def _limits_of_comparison(results: Results) -> list[str]:
    comparison = results["comparison"]
    pairs, processes = comparison["training_pairs"], comparison["processes"]
    limits = []
    if comparison["seed_noise_measured"]:
        limits.append(
            f"The loss difference is that of {counted(len(pairs), 'seed')}: what is smaller than its interval is not "
            "shown, and neither is another setting of the training."
        )
    else:
        limits.append(
            "Seed noise was not measured: one pair of runs from one seed was trained. The interval of the loss "
            f"difference holds the choice of {comparison['heldout_loss_difference']['unit']}s only."
        )
    if processes:
        limits.append(
            f"The speed-up is that of this machine and this model size, over {len(processes) + 1} compilations of the "
            "same programs."
        )
    else:
        limits.append(
            "The speed-up is that of this machine, this model size and these compiled programs; a recompile may "
            "choose other code."
        )
    if results["controls"] is None:
        limits.append("No controls were run: nothing shows how large a speed-up the noise of this machine makes up.")
    limits.append("Compile time is apart from the step times and from the throughput.")
    if comparison["time_to_target"]["speedup"] is not None:
        limits.append("Time to target is interpolated between evaluations of one training pair, without an interval.")
    return limits


def _after_controls(results: Results) -> list[str]:
    if results["controls"] is None:
        return [] if results["comparison"] is None else [_advice(results, "no_controls")]
    failed = {control["name"] for control in results["controls"]["items"] if control["verdict"] != "PASS"}
    steps = []
    if failed & {"placebo", "known_delay"}:
        steps.append("Repeat the run on a quiet machine: its clock did not find what was known beforehand.")
    if "shuffled_targets" in failed:
        steps.append("Look for targets that leak into the inputs: training on shuffled targets passed as learning.")
    return steps


def _after_criteria(results: Results) -> list[str]:
    steps = []
    verdicts = {c["name"]: c["verdict"] for c in results["criteria"]}
    if any(verdicts.get(name) == "FAIL" for name in ("no_divergence", "trains_end_to_end", "loss_falls")):
        steps.append(_advice(results, "diverged"))
    if any(name.startswith("beats_") and verdict == "FAIL" for name, verdict in verdicts.items()):
        steps.append("Train longer (training.epochs): counting words still predicts better than the model.")
    if "INCONCLUSIVE" in (verdicts.get("speedup_above_zero"), verdicts.get("throughput_up")):
        steps.append(_advice(results, "noisy"))
    if verdicts.get("speedup_above_zero") == "FAIL":
        steps.append(_advice(results, "slower"))
    on_loss = [verdict for name, verdict in verdicts.items() if name.startswith(("loss_within_", "loss_no_worse_by_"))]
    if any(verdict != "PASS" for verdict in on_loss):
        steps.append(_advice(results, "losses_apart"))
    if verdicts.get("speculation_changes_no_token") == "FAIL":
        steps.append("Generate without a draft (ryot generate --draft=none), and report that one changed a token.")
    return steps


def _after_comparison(results: Results) -> list[str]:
    comparison, roofline = results["comparison"], results["roofline"]
    steps = []
    if roofline is not None and any(arm["above_roof"] for arm in roofline["arms"].values()):
        steps.append("Do not trust these times: an arm is above its roof, so a peak, a count or a clock is wrong.")
    if comparison is not None and not comparison["seed_noise_measured"]:
        steps.append(_advice(results, "one_seed"))
    if comparison is not None and not comparison["processes"]:
        steps.append(_advice(results, "one_process"))
    return steps


def _after_compression(results: Results) -> list[str]:
    found = results.get("compression")
    return [] if found is None or found["kept"] else [_advice(results, "budget_missed")]


def _advice(results: Results, situation: str) -> str:
    ours, brought = _ADVICE[situation]
    return ours if of_language_model(results) else brought
