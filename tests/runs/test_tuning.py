"""Tuning of a whole config: winners are confirmed in training steps, stored, and used by the next run."""

import dataclasses
import sys

import numpy as np
import pytest

from ryot_jax.comparison.arms import variants
from ryot_jax.config import get_default
from ryot_jax.kernels import cpu
from ryot_jax.kernels.choice.cache import Entry, TuningCache
from ryot_jax.kernels.choice.tuning import Measurement
from ryot_jax.kernels.declaration import Op
from ryot_jax.kernels.resolution import tunable
from ryot_jax.machine.devices import describe_devices
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import BY_NAME, KernelPlan, resolve
from ryot_jax.runs import plan_steps, tuning
from ryot_jax.runs.session import whole_step
from ryot_jax.runs.tuning import REFERENCE, STATIC, TUNED, choose
from ryot_jax.training.setup import kernel_spec

WITHOUT_ADAMW = BY_NAME["optimizer"].plan_without
WITHOUT_BF16 = BY_NAME["activations"].plan_without


@pytest.fixture
def tiny():
    """A config whose step takes a millisecond."""
    config = get_default()
    config.model.update({"vocab_size": 260, "d_model": 16, "d_ff": 32, "n_layers": 1, "n_heads": 2, "max_len": 8})
    config.training.update({"batch_size": 8, "seq_len": 8})
    return config


needs_cpp = pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="with XLA's kernels nothing wins here")


def work(config):
    devices = describe_devices()
    model = from_config(config.model, devices.platform)
    return model, kernel_spec(config, model, devices)


def tuned(config, cache, said=None):
    model, spec = work(config)
    log = [].append if said is None else said.append
    return tuning.tune(config, model, spec, cache, log=log, op_seconds=0.0, step_seconds=0.0)


def only(config, *ops):
    """Leaves these ops alone to 'auto', and the others to the reference."""
    config.optimizations.update({op: "auto" if op in ops else "off" for op in config.optimizations})
    return config


def rounds(mean, noise=0.01):
    return list(mean * np.exp(np.random.default_rng(int(1e6 * mean)).normal(0, noise, 20)))


@pytest.fixture
def fastest(monkeypatch):
    """`fastest(*names)`: of the implementations or plans in a race the first of these takes half the others' time."""

    def make(*names):
        def race(calls, **_):
            winner = next((name for name in names if name in calls), None)
            slower = list(2.0 * np.exp(np.linspace(-0.01, 0.01, 7)))  # a ratio without any spread has no interval
            return {name: [1.0] * 7 if name == winner else slower for name in calls}

        monkeypatch.setattr(tuning.tuning, "race", race)

    return make


@pytest.mark.parametrize("plan", [TUNED, REFERENCE])
def test_what_is_tuned_is_what_the_next_run_takes(tiny, tmp_path, fastest, plan):
    fastest("xla", plan)  # XLA's rewrites are on every machine, and first in the order on few
    said = []
    cache = TuningCache(tmp_path, said.append)
    outcome = tuned(tiny, cache, said)
    assert outcome.chosen == plan and outcome.steps[plan].milliseconds == 1e3
    assert all(not trial.failure for trials in (*outcome.ops.values(), outcome.steps) for trial in trials.values())
    assert outcome.ops["attention"]["xla"].speedup == pytest.approx(2.0)
    assert "attention" in outcome.ops and "dropout" not in outcome.ops, "the model has no dropout"
    assert sum("tuning" in line for line in said) == len(outcome.ops) + 1 == len(said)
    for op, trials in outcome.ops.items():
        assert outcome.winners[op] == ("xla" if "xla" in trials else "reference"), "which no other is faster than"
        assert outcome.plan[op] == (outcome.winners[op] if plan == TUNED else "reference")

    _, spec = work(tiny)
    of_step = cache.read(whole_step(tiny), spec)
    assert of_step.winner == plan and dict(outcome.plan).items() >= of_step.plan.items()
    assert {"attention", "activations", "optimizer"} <= set(of_step.plan), "so that a session takes no mixture"
    made, resolutions = variants(tiny, spec, TuningCache(tmp_path, said.append).lookup)
    assert made[0].plan == KernelPlan()
    reasons = resolutions["optimized"].reasons
    assert reasons["activations"].startswith("measured: ") and reasons["optimizer"].startswith("measured: ")
    static = variants(tiny, spec)[0][1].plan
    if outcome.plan["activations"] == static["activations"]:
        assert made[1].plan == outcome.plan, "XLA's norm too, whose doubt a measurement overrules"
        assert "xla" in outcome.ops["norm"]
        assert reasons["attention"].startswith(f"measured: {outcome.plan['attention']}")
        found = "xla 2.0 times reference" if plan == TUNED else "reference, which nothing beats; xla is slower"
        assert reasons["attention"].startswith(f"measured: {found}")
    else:  # without bfloat16, between which alone the ops were measured
        assert plan == REFERENCE and static["activations"] == "bfloat16"
        assert reasons["attention"].startswith("auto: first in order")
    assert variants(tiny, spec)[1]["optimized"].reasons["attention"].startswith("auto: first in order")


def test_a_race_of_real_programs_has_an_outcome(tiny, tmp_path):
    """By a real clock, so that any may win."""
    outcome = tuned(only(tiny, "attention"), TuningCache(tmp_path, print))
    assert outcome.chosen in outcome.steps and outcome.steps[outcome.chosen].milliseconds > 0
    assert outcome.plan["attention"] in outcome.ops["attention"]


@pytest.mark.parametrize("plan", [TUNED, REFERENCE])
def test_only_what_is_left_to_auto_is_measured(tiny, tmp_path, fastest, plan):
    fastest("xla", plan)
    only(tiny, "norm").optimizations.attention = "xla"
    outcome = tuned(tiny, TuningCache(tmp_path, print))
    assert list(outcome.ops) == ["norm"]
    expected = {TUNED: KernelPlan(attention="xla", norm=outcome.winners["norm"]), REFERENCE: KernelPlan()}
    if expected[TUNED] != KernelPlan() and TUNED in outcome.steps:
        assert (outcome.chosen, outcome.plan) == (plan, expected[plan])
    assert len(list((tmp_path / "kernels" / "v2").iterdir())) == 2, "the op and the whole step"


@needs_cpp
def test_a_wrong_winner_is_stopped_by_the_whole_step(tiny, tmp_path, monkeypatch):
    from ryot_jax.kernels import norm_dense

    def wrong(x, *arguments, implementation, with_sum, **options):
        y, s = real(x, *arguments, implementation=implementation, with_sum=True, **options)
        y = y if implementation == "reference" else 2 * y
        return (y, s) if with_sum else y

    module = sys.modules[norm_dense.__module__]
    real = module.layer_norm
    monkeypatch.setattr(module, "layer_norm", wrong)
    outcome = tuned(only(tiny, "norm"), TuningCache(tmp_path, print))
    failed = {name for name, measurement in outcome.steps.items() if "is off by" in measurement.failure}
    assert STATIC in failed or TUNED in failed
    assert outcome.chosen not in failed and outcome.plan["norm"] == "reference"


@needs_cpp
def test_a_plan_that_does_not_compile_is_a_failed_measurement(tiny, tmp_path, monkeypatch):
    step_function = plan_steps.step_function

    def fails_but_for_the_reference(config, model, graphdef, optimizer, plan):
        if set(plan.values()) - set(KernelPlan().values()) - {"scan"}:
            raise ExceptionGroup("lowering", [ValueError("no")])
        return step_function(config, model, graphdef, optimizer, plan)

    monkeypatch.setattr(plan_steps, "step_function", fails_but_for_the_reference)
    outcome = tuned(only(tiny, "embedding", "norm"), TuningCache(tmp_path, print))
    assert outcome.chosen == REFERENCE and outcome.plan == KernelPlan()
    assert all("ExceptionGroup: lowering" in outcome.steps[n].failure for n in outcome.steps if n != REFERENCE)
    assert any("failed: ExceptionGroup" in line for line in outcome.table())


def test_the_tuned_plan_stays_unless_another_is_faster_by_more_than_noise():
    slower, same, faster = rounds(1.1), rounds(1.001), rounds(0.9)
    assert choose(TUNED, {REFERENCE: slower, TUNED: rounds(1.0), STATIC: same}) == TUNED
    assert choose(TUNED, {REFERENCE: slower, TUNED: rounds(1.0), STATIC: faster}) == STATIC
    assert choose(TUNED, {REFERENCE: faster, TUNED: rounds(1.0), STATIC: rounds(0.8)}) == STATIC
    assert choose(TUNED, {REFERENCE: faster, TUNED: rounds(1.0), STATIC: rounds(0.95)}) == REFERENCE
    assert choose(TUNED, {REFERENCE: slower, STATIC: same}) == STATIC, "the tuned plan failed"
    assert choose(TUNED, {REFERENCE: slower}) == REFERENCE


def test_each_plan_is_run_once_under_its_first_name(tiny):
    static = KernelPlan(
        activations="bfloat16", linear_cross_entropy="cpu", attention="cpu", dense="cpu", norm="cpu", embedding="cpu"
    )
    _, spec = work(tiny)
    spec = dataclasses.replace(spec, activations="bfloat16")
    same = {"attention": "cpu", "norm": "cpu"}
    assert list(tuning._plans(tiny, spec, static, same)) == [REFERENCE, TUNED, WITHOUT_BF16]
    one = tuning._plans(tiny, spec, static, same | {"norm": "xla"})
    assert list(one) == [REFERENCE, TUNED, STATIC, WITHOUT_BF16]
    two = tuning._plans(tiny, spec, static, {"attention": "xla", "norm": "xla"})
    alone = "static order but attention=xla", "static order but norm=xla"
    assert list(two) == [REFERENCE, TUNED, STATIC, *alone, WITHOUT_BF16]
    assert two[alone[0]] == static.replace(attention="xla")
    assert two[WITHOUT_BF16]["activations"] == ""

    nothing = tuning._plans(tiny, spec, KernelPlan(), {"attention": "reference"})
    assert list(nothing) == [REFERENCE]


def test_the_optimizers_kernel_is_measured_in_whole_steps_and_remembered(tiny, tmp_path):
    _, spec = work(tiny)
    static = KernelPlan(attention="xla", optimizer="cpu")
    plans = tuning._plans(tiny, spec, static, {})
    assert list(plans) == [REFERENCE, TUNED, WITHOUT_ADAMW]
    assert plans[WITHOUT_ADAMW] == KernelPlan(attention="xla")
    cache = TuningCache(tmp_path, print)
    steps = {WITHOUT_ADAMW: Measurement(milliseconds=1.0, speedup=2.0, interval=(1.9, 2.1))}
    tuning._store(tuning.Outcome({}, {}, steps, WITHOUT_ADAMW, plans[WITHOUT_ADAMW]), tiny, spec, cache)
    resolution = resolve(only(tiny, "optimizer").optimizations, spec=spec, lookup=cache.lookup)
    assert resolution.plan["optimizer"] == "reference"
    assert resolution.reasons["optimizer"].startswith("measured: reference in the fastest plan")


def test_how_many_steps_go_into_a_call_is_not_measured_and_no_plan_differs_by_it(tiny):
    _, spec = work(tiny)
    assert not BY_NAME["dispatch"].plan_without and not isinstance(BY_NAME["dispatch"], Op)
    static = KernelPlan(attention="xla", dispatch="scan")
    plans = tuning._plans(tiny, spec, static, {"attention": "reference"})
    assert list(plans) == [REFERENCE, STATIC], "what is tuned is the reference, by its first name"
    assert {plan["dispatch"] for plan in plans.values()} == {"scan"}
    assert list(tuning._plans(tiny, spec, KernelPlan(dispatch="scan"), {})) == [REFERENCE]


def test_rounded_weights_are_in_every_plan_or_in_none_and_change_nothing_that_was_measured(tiny, tmp_path):
    _, spec = work(tiny)
    tiny.optimizations.qat = "round"
    static = resolve(tiny.optimizations, spec=spec).plan
    assert {plan["qat"] for plan in tuning._plans(tiny, spec, static, {"attention": "reference"}).values()} == {"round"}
    cache = TuningCache(tmp_path, print)
    cache.store(
        "attention", dataclasses.replace(spec, activations=static["activations"]), Entry("reference", "nothing")
    )
    for qat in ("auto", "round"):
        resolution = resolve({**tiny.optimizations, "qat": qat}, spec=spec, lookup=cache.lookup)
        assert resolution.reasons["attention"].startswith("measured: nothing")


def test_masks_that_auto_never_takes_are_not_measured_and_steps_with_dropout_by_time_alone(tiny, tmp_path):
    tiny.model.dropout = 0.1
    assert tunable(BY_NAME["dropout"], work(tiny)[1]) == ["reference", "hash"]
    outcome = tuned(only(tiny, "dropout", "norm"), TuningCache(tmp_path, print))
    assert list(outcome.ops) == ["norm"] and {"reference", "xla"} <= set(outcome.ops["norm"])
    assert all(measurement.error is None and not measurement.failure for measurement in outcome.steps.values())


def test_a_plan_that_leaves_bfloat16_out_is_remembered_as_such(tiny, tmp_path):
    _, spec = work(tiny)
    spec = dataclasses.replace(spec, activations="bfloat16")
    steps = {WITHOUT_BF16: Measurement(milliseconds=1.0, speedup=2.0, interval=(1.9, 2.1))}
    plan = KernelPlan(attention="xla")
    ops = {"attention": {"reference": Measurement(), "xla": Measurement(speedup=1.5, interval=(1.4, 1.6))}}
    cache = TuningCache(tmp_path, print)
    tuning._store(tuning.Outcome(ops, {"attention": "xla"}, steps, WITHOUT_BF16, plan), tiny, spec, cache)
    resolution = resolve(tiny.optimizations, spec=work(tiny)[1], lookup=cache.lookup)
    assert resolution.plan["activations"] == ""
    assert resolution.reasons["activations"].startswith("measured: as the model")
    # Its ops were measured between bfloat16 arrays: that says nothing of float32 ones.
    assert resolution.reasons["attention"].startswith("auto")


def test_the_table_marks_winners_and_what_the_whole_step_overruled():
    trials = {
        "reference": Measurement(1e-7, 2e-5, 2.0),
        "xla": Measurement(2e-7, 2e-5, 1.0, 2.0, (1.9, 2.1), 2**20),
        "cpu": Measurement(0.5, 2e-5, failure="error 5.0e-01 above 2e-05"),
    }
    steps = {REFERENCE: Measurement(0.0, 0.05, 9.0), TUNED: Measurement(0.0, 0.05, 10.0, 0.9, (0.85, 0.95))}
    outcome = tuning.Outcome({"norm": trials}, {"norm": "xla"}, steps, REFERENCE, KernelPlan())
    lines = outcome.table()
    assert [line for line in lines if "<-" in line] == [lines[2], lines[4]]
    assert "2.00 (1.90 to 2.10)" in lines[2] and lines[2].split()[:3] == ["norm", "xla", "1.00"]
    assert "failed: error 5.0e-01 above 2e-05" in lines[3]
    assert lines[-1] == "norm: reference, as the whole step is faster with it"
    assert all(line.isascii() for line in lines)
