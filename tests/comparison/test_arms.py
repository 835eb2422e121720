"""Arms that dispatch several steps a call: what they are built of, what they report, and that they train alike."""

import dataclasses

import jax
import numpy as np
import pytest

from ryot_jax.comparison.arms import Arm, variants
from ryot_jax.comparison.variants import Variant, check_active
from ryot_jax.config import get_default
from ryot_jax.data.pipeline import Corpus
from ryot_jax.data.tokenizer import NoTokenizer
from ryot_jax.machine.devices import describe_devices
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import KernelPlan
from ryot_jax.optimizations.dispatch import STEPS_PER_CALL
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.training import program_check, step_programs
from ryot_jax.training.setup import build_setup, kernel_spec

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")

PLANS = {"baseline": KernelPlan(), "optimized": KernelPlan(dispatch="scan")}


def tiny_config():
    """A config whose step takes a millisecond."""
    config = get_default()
    config.model.update({"vocab_size": 260, "d_model": 16, "d_ff": 32, "n_layers": 1, "n_heads": 2, "max_len": 8})
    config.training.update({"batch_size": 8, "seq_len": 8})
    config.optimizations.update({op: "off" for op in config.optimizations if op != "dispatch"})
    return config


def spec_of(config):
    devices = describe_devices()
    return kernel_spec(config, from_config(config.model, devices.platform), devices)


@pytest.fixture(scope="module")
def arms():
    """One arm that takes a step a call and one that takes several, from the same weights and text."""
    config = tiny_config()
    ids = np.random.default_rng(0).integers(0, 260, size=5000).astype(np.uint16)
    corpus = Corpus(ids, ids[:1000], NoTokenizer(260), "", {})
    setup = build_setup(config, from_config(config.model, describe_devices().platform), corpus)
    return {name: Arm(setup, Variant(name, plan)) for name, plan in PLANS.items()}


def test_the_baseline_takes_one_step_a_call_whatever_is_asked_for():
    config = tiny_config()
    config.optimizations.dispatch = "scan"
    made, resolutions = variants(config, spec_of(config))
    assert [variant.plan for variant in made] == list(PLANS.values())
    assert resolutions["baseline"].reasons["dispatch"] == "the baseline has every optimization off"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"training.parallelism": "pmap"}, "pmap takes one step a call"),
        (
            {"comparison.block_steps": 4},
            "half a block of comparison.block_steps = 4 steps is over before a call of 5 is",
        ),
    ],
)
def test_a_call_that_can_take_one_step_alone_is_told_with_its_reason(change, reason):
    config = tiny_config()
    config.update_from_flattened_dict(change)
    _, resolutions = variants(config, spec_of(config))
    assert resolutions["optimized"].lines()[-1] == f"dispatch: step (not scan: {reason})"
    config.optimizations.dispatch = "scan"
    with pytest.raises(ConfigError, match=f"optimizations.dispatch = 'scan': {reason}"):
        variants(config, spec_of(config))


def test_a_training_with_another_optimizer_cannot_have_the_kernel_of_adamw():
    config = tiny_config()
    config.training.optimizer = "lion"
    config.optimizations.optimizer = "cpu"
    with pytest.raises(
        ConfigError, match=r"optimizations\.optimizer = 'cpu': the kernel takes steps of adamw, not of lion"
    ):
        variants(config, spec_of(config))


def test_an_arm_reports_both_of_its_programs(arms):
    baseline, optimized = arms["baseline"], arms["optimized"]
    assert list(baseline.programs) == ["step"] and list(optimized.programs) == ["step", "scan"]
    step, scan = optimized.programs.values()
    assert (step.steps, scan.steps) == (1, STEPS_PER_CALL)
    assert baseline.compile_seconds == baseline.programs["step"].seconds
    assert optimized.compile_seconds == {part: step.seconds[part] + scan.seconds[part] for part in step.seconds}
    assert optimized.memory_bytes == max(step.memory_bytes, scan.memory_bytes)
    assert baseline.hlo_text() == baseline.programs["step"].hlo_text()
    assert optimized.hlo_text() == scan.hlo_text() != step.hlo_text()


def test_both_programs_are_checked_at_the_start(arms):
    checks = arms["optimized"].program_checks
    assert list(arms["baseline"].program_checks) == ["step"] and list(checks) == ["step", "scan"]
    assert all(check.ok for check in checks.values())
    assert [check.steps for check in checks.values()] == [1, STEPS_PER_CALL]


def test_the_switch_is_proven_from_the_program_that_takes_most_of_the_steps(arms):
    made = [arm.variant for arm in arms.values()]
    texts = {name: arm.hlo_text() for name, arm in arms.items()}
    evidence = check_active(made, texts, spec_of(tiny_config()))["optimized"]
    assert list(evidence) == ["dispatch"] and evidence["dispatch"].active
    with pytest.raises(ConfigError, match="same program"):
        check_active(made, texts | {"optimized": arms["optimized"].programs["step"].hlo_text()}, spec_of(tiny_config()))


def test_arms_train_alike_and_nothing_compiles_once_they_are_warm(arms):
    for arm in arms.values():
        before = arm.params_hash()
        arm.warm_up()
        assert arm.params_hash() == before and arm.step == 0
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiles.append(event) if event.endswith("backend_compile_duration") else None
    )
    results = {name: [arm.run_block(12), arm.run_block(3)] for name, arm in arms.items()}
    jax.monitoring.clear_event_listeners()
    assert compiles == []
    for single, scanned in zip(results["baseline"], results["optimized"], strict=True):
        assert dataclasses.replace(single, seconds=0.0) == dataclasses.replace(scanned, seconds=0.0)
    assert arms["baseline"].params_hash() == arms["optimized"].params_hash()
    assert arms["baseline"].batches_hash() == arms["optimized"].batches_hash()
    assert {arm.step for arm in arms.values()} == {15}


@pytest.fixture(scope="module")
def rounding():
    """A config of ten steps, of which the last three see rounded weights, and what its arms share."""
    config = tiny_config()
    config.training.update({"epochs": 2, "steps_per_epoch": 5, "warmup_steps": 0})
    config.compression.update({"qat_bits": 2, "qat_fraction": 0.3})
    ids = np.random.default_rng(0).integers(0, 260, size=5000).astype(np.uint16)
    corpus = Corpus(ids, ids[:1000], NoTokenizer(260), "", {})
    return build_setup(config, from_config(config.model, describe_devices().platform), corpus)


@pytest.mark.parametrize("dispatch", ["step", "scan"])
def test_the_last_part_of_training_sees_rounded_weights_and_nothing_before_it_changes(rounding, dispatch):
    arms = {qat: Arm(rounding, Variant(qat, KernelPlan(qat=qat, dispatch=dispatch))) for qat in ("float", "round")}
    for arm in arms.values():
        arm.warm_up()
        assert arm.step == 0 == int(arm.trainer.state.step), "the step that warms up is no step of training"
    float_losses, round_losses = (arm.run_block(10).losses for arm in arms.values())
    assert [a == b for a, b in zip(float_losses, round_losses, strict=True)] == [True] * 7 + [False] * 3
    losses = {name: arm.evaluate().mean_loss for name, arm in arms.items()}
    assert losses["float"] != losses["round"]
    # What is judged are the float weights: nobody has rounded those.
    kernel = np.asarray(arms["round"].trainer.state.params["blocks"]["layer_000"]["mlp"]["up"]["kernel"])
    assert len(np.unique(kernel)) > 0.9 * kernel.size


def test_rounded_weights_are_checked_warmed_up_and_proven(rounding, monkeypatch):
    numbers = []

    def noted(step_fn, state, *arguments, **options):
        numbers.append(int(state.step))
        return program_check.checked(step_fn, state, *arguments, **options)

    monkeypatch.setattr(step_programs, "checked", noted)
    made = [Variant("baseline", KernelPlan()), Variant("optimized", KernelPlan(qat="round"))]
    arms = [Arm(rounding, variant) for variant in made]
    assert numbers == [0, 7] and all(check.ok for arm in arms for check in arm.program_checks.values())
    texts = {arm.name: arm.hlo_text() for arm in arms}
    evidence = check_active(made, texts, spec_of(rounding.config))["optimized"]
    assert list(evidence) == ["qat"] and evidence["qat"].active and evidence["qat"].text.endswith("0 in the baseline")
    with pytest.raises(ConfigError, match=r"optimizations\.qat=round is on .* does not show it: 0 roundings"):
        other = Arm(rounding, Variant("optimized", KernelPlan(norm="xla")))
        check_active(made, texts | {"optimized": other.hlo_text()}, spec_of(rounding.config))
