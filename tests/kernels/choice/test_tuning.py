"""Measuring implementations: wrong ones are never timed, and none wins by noise."""

import dataclasses
import itertools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.kernels import Spec, cpu
from ryot_jax.kernels.choice import tuning
from ryot_jax.kernels.plan import tunable

SPEC = Spec(
    platform="cpu", n_devices=1, compute_dtype="float32", rows=64, d_model=16, d_ff=24, vocab_size=50,
    seq_len=16, n_heads=2, dropout=0.25,
)  # fmt: skip


@pytest.mark.parametrize("activations", ["", "bfloat16"])
@pytest.mark.parametrize("kind", [{}, {"mlp": "swiglu", "norm": "rms", "rotary": True}], ids=["gpt2", "llama"])
@pytest.mark.parametrize("op", tuning.BENCHMARKS)
def test_every_implementation_passes_the_gate_and_is_timed(op, kind, activations):
    spec = dataclasses.replace(SPEC, activations=activations, **kind)
    winner, trials = tuning.tune(op, spec, seconds=0.0)
    assert list(trials) == tunable(op, spec) and winner in trials
    for name, trial in trials.items():
        assert not trial.failure and trial.milliseconds > 0, name
        assert trial.error <= trial.tolerance
        assert (trial.speedup is None) == (name == "reference")


def test_there_is_a_benchmark_for_every_op_with_gradients():
    from ryot_jax.kernels import plan

    measured_in_whole_steps, never_measured = {"activations", "optimizer", "dispatch"}, {"qat"}
    assert set(tuning.BENCHMARKS) == set(plan._CANDIDATES) - measured_in_whole_steps - never_measured


@pytest.fixture
def square(monkeypatch):
    """An op with candidates of known speed: `square({name: function})` makes 'attention' be x * x computed by these."""

    def make(functions):
        def benchmark(spec, rng):
            def function(implementation, x):
                return functions[implementation](x)

            return tuning.Benchmark(function, (jnp.asarray(rng.standard_normal(1000), jnp.float32),))

        monkeypatch.setitem(tuning.BENCHMARKS, "attention", benchmark)
        monkeypatch.setattr(tuning, "tunable", lambda op, spec: list(functions))

    return make


class Clock:
    """`time` for the tuner: it stands still but for what a candidate adds to it."""

    def __init__(self):
        self.seconds = 0.0

    def perf_counter(self):
        return self.seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(tuning, "time", clock)
    return clock


@jax.custom_vjp
def slow_reference(x):
    return x * x


slow_reference.defvjp(
    # Some hundred times the work, which no compiler can leave out.
    lambda x: (x * x + 1e-30 * jax.lax.fori_loop(0, 200, lambda i, y: jnp.sin(y) + 1, x), x),
    lambda x, dy: (2 * x * dy,),
)


def test_the_fastest_wins(square):
    square({"reference": slow_reference, "xla": lambda x: x * x})
    winner, trials = tuning.tune("attention", SPEC, seconds=0.2)
    assert winner == "xla" and trials["xla"].interval[0] > 1
    assert trials["xla"].speedup == pytest.approx(
        trials["reference"].milliseconds / trials["xla"].milliseconds, rel=0.5
    )


def test_a_slower_one_does_not_win(square):
    square({"reference": lambda x: x * x, "xla": slow_reference})
    winner, trials = tuning.tune("attention", SPEC, seconds=0.2)
    assert winner == "reference" and trials["xla"].speedup < 1


@pytest.mark.parametrize("order", list(itertools.permutations(["reference", "xla", "cpu"])), ids="-".join)
def test_the_fastest_by_a_clock_without_noise_wins_whatever_its_place_in_the_order(square, clock, monkeypatch, order):
    """Candidates that cost 2, 3 and 4 ms of a clock that only they move: `order` from the fastest on."""
    square({name: lambda x: x * x for name in ("reference", "xla", "cpu")})
    milliseconds = {name: 2.0 + place for place, name in enumerate(order)}
    compiled = tuning.compiled

    def taking_time(benchmark, name):
        program, memory = compiled(benchmark, name)

        def call():
            clock.seconds += milliseconds[name] / 1e3
            return program()

        return call, memory

    monkeypatch.setattr(tuning, "compiled", taking_time)
    winner, trials = tuning.tune("attention", SPEC, seconds=0.0)
    assert winner == order[0]
    for name, trial in trials.items():
        assert trial.milliseconds == pytest.approx(milliseconds[name])
        if name != "reference":
            ratio = milliseconds["reference"] / milliseconds[name]
            assert trial.speedup == pytest.approx(ratio) and trial.interval == pytest.approx((ratio, ratio))


def test_one_that_is_faster_on_average_but_not_by_more_than_noise_does_not_win(square, monkeypatch):
    square({"reference": lambda x: x * x, "xla": lambda x: x * x})
    times = {"reference": [1.0, 1.3, 1.0, 1.3, 1.0], "xla": [1.2, 1.0, 1.2, 1.0, 1.0]}
    monkeypatch.setattr(tuning, "race", lambda calls, **_: {name: times[name] for name in calls})
    winner, trials = tuning.tune("attention", SPEC, seconds=0.0)
    assert winner == "reference" and trials["xla"].speedup > 1 > trials["xla"].interval[0]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda x: x * x * 1.001, "error 1.0e-03 above"),
        (lambda x: jax.lax.stop_gradient(x * x) + 0 * x, "error 1.0e+00 above"),
        (lambda x: x * x / jnp.where(jnp.arange(1000) == 7, 0, 1), "error inf above"),
        (lambda x: jnp.reshape(x, (3, 5)), "TypeError: "),
    ],
    ids=["value", "gradient", "infinite", "raises"],
)
def test_a_wrong_candidate_is_not_timed_however_fast_it_is(square, wrong, reason):
    square({"reference": slow_reference, "xla": wrong, "cpu": lambda x: x * x})
    winner, trials = tuning.tune("attention", SPEC, seconds=0.0)
    assert winner == "cpu" and trials["xla"].milliseconds is None and reason in trials["xla"].failure


def test_a_mask_that_is_not_that_of_the_forward_pass_or_of_the_rate_is_an_error():
    x = jnp.ones(10_000)
    kept = jax.random.bernoulli(jax.random.key(0), 0.75, x.shape)
    other = jax.random.bernoulli(jax.random.key(1), 0.75, x.shape)
    assert tuning._mask_error((x * kept, (x * kept,)), 0.25) < 5
    assert tuning._mask_error((x * kept, (x * other,)), 0.25) == math.inf
    assert tuning._mask_error((x * kept, (x * kept,)), 0.3) > 5


def test_rounds_are_interleaved_and_their_order_is_drawn_anew():
    turns = []

    def call(name):
        def work():
            turns.append(name)
            time.sleep(0.011)  # longer than the shortest time that is measured: no call is repeated

        return work

    found = tuning.race({name: call(name) for name in "abc"}, seconds=0.0)
    assert {len(times) for times in found.values()} == {7} and min(map(min, found.values())) >= 0.011
    rounds = [tuple(turns[i : i + 3]) for i in range(9, len(turns), 3)]  # after a warm-up and two measurements
    assert len(rounds) == 7 and {frozenset(order) for order in rounds} == {frozenset("abc")}
    assert len(set(rounds)) > 1


def test_no_candidate_no_race():
    assert tuning.race({}, seconds=0.0) == {}


def test_a_speed_up_by_noise_has_an_interval_that_holds_one():
    rng = np.random.default_rng(0)
    base, other = rng.lognormal(0, 0.1, (2, 400, 20))
    holds_one = [low < 1 < high for _, (low, high) in map(tuning.paired_speedup, base, other)]
    assert 0.92 < np.mean(holds_one) < 0.98  # a 95 % interval; three standard errors of 400 draws are 3.3 %
    speedup, (low, high) = tuning.paired_speedup(1.5 * base[0], base[0] * np.exp(rng.normal(0, 0.01, 20)))
    assert low < 1.5 < high and speedup == pytest.approx(1.5, rel=0.02) and low > 1.4


def test_tokens_are_used_as_unevenly_as_words():
    tokens = tuning.zipf_tokens(np.random.default_rng(0), 1000, (100_000,))
    counts = np.bincount(tokens, minlength=1000)
    assert tokens.dtype == np.int32 and tokens.min() == 0 and tokens.max() < 1000
    # P(k) = log((k + 2) / (k + 1)) / log V
    assert counts[0] / 1e5 == pytest.approx(math.log(2) / math.log(1000), rel=0.05)
    assert counts[9] / 1e5 == pytest.approx(math.log(11 / 10) / math.log(1000), rel=0.15)


def test_several_devices_share_the_rows():
    spec = dataclasses.replace(SPEC, n_devices=2)
    assert tuning._one_device(spec).rows == 32
    assert tuning._one_device(dataclasses.replace(SPEC, n_devices=3)).rows == 16, "whole sequences"


def test_the_gate_compares_with_float32():
    _, trials = tuning.tune("dense", dataclasses.replace(SPEC, activations="bfloat16"), seconds=0.0)
    # XLA has bfloat16 on every machine; the C++ kernels on those that have its instructions.
    assert set(trials) == {"reference", *(["cpu"] if cpu.unavailable_reason("bfloat16") is None else [])}
    # A rounding to bfloat16 is 2^-9: an error far below would mean that the truth was rounded too.
    assert all(1e-3 < trial.error < 2e-2 for trial in trials.values())
