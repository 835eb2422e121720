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
from ryot_jax.kernels.choice import benchmark as benchmarking
from ryot_jax.kernels.choice import tuning
from ryot_jax.kernels.declaration import Implementation, Op
from ryot_jax.kernels.resolution import tunable
from ryot_jax.machine.processor import cpu_flags
from ryot_jax.optimizations import BY_NAME, OPTIMIZATIONS
from ryot_jax.runtime.statistics import CONFIDENCE, ratio_interval

SPEC = Spec(
    platform="cpu", n_devices=1, compute_dtype="float32", rows=64, d_model=16, d_ff=24, vocab_size=50,
    seq_len=16, n_heads=2, dropout=0.25,
)  # fmt: skip
BENCHMARKED = [o.name for o in OPTIMIZATIONS if isinstance(o, Op) and o.is_benchmarked]


@pytest.mark.parametrize("activations", ["", "bfloat16"])
@pytest.mark.parametrize("kind", [{}, {"mlp": "swiglu", "norm": "rms", "rotary": True}], ids=["gpt2", "llama"])
@pytest.mark.parametrize("op", BENCHMARKED)
def test_every_implementation_passes_the_gate_and_is_timed(op, kind, activations):
    spec = dataclasses.replace(SPEC, activations=activations, **kind)
    winner, measured = tuning.tune(BY_NAME[op], spec, seconds=0.0)
    assert list(measured) == tunable(BY_NAME[op], spec) and winner in measured
    for name, outcome in measured.items():
        assert not outcome.failure and outcome.milliseconds > 0, name
        assert outcome.error <= outcome.tolerance
        assert (outcome.speedup is None) == (name == "reference")


def test_dropout_is_compared_by_statistics():
    assert tunable(BY_NAME["dropout"], SPEC) == ["reference", "hash"]
    _, measured = tuning.tune(BY_NAME["dropout"], SPEC, seconds=0.0)
    assert {"reference", "hash"} == set(measured) and measured["hash"].tolerance == 5.0


def test_those_that_are_named_are_measured_alone():
    _, measured = tuning.tune(BY_NAME["norm"], SPEC, ["reference", "xla"], seconds=0.0)
    assert list(measured) == ["reference", "xla"]


def test_there_is_a_benchmark_for_every_op_with_gradients():
    measured_in_whole_steps, never_measured = {"activations", "optimizer"}, {"dispatch", "qat"}
    assert set(BENCHMARKED) == set(BY_NAME) - measured_in_whole_steps - never_measured
    assert measured_in_whole_steps == {o.name for o in OPTIMIZATIONS if o.plan_without}


class Square(Op):
    """An op with implementations of known speed: `square({name: function})` is x * x computed by these."""

    def benchmark(self, spec, rng):
        def function(implementation, x):
            return self.implementations[implementation].function(x)

        return benchmarking.Benchmark(function, (jnp.asarray(rng.standard_normal(1000), jnp.float32),))


def square(functions):
    implementations = {name: Implementation(function) for name, function in functions.items()}
    return Square(name="square", description="", package="", functions=(), implementations=implementations)


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


def test_the_fastest_wins():
    op = square({"reference": slow_reference, "xla": lambda x: x * x})
    winner, measured = tuning.tune(op, SPEC, seconds=0.2)
    assert winner == "xla" and measured["xla"].interval[0] > 1
    assert measured["xla"].speedup == pytest.approx(
        measured["reference"].milliseconds / measured["xla"].milliseconds, rel=0.5
    )


def test_a_slower_one_does_not_win():
    op = square({"reference": lambda x: x * x, "xla": slow_reference})
    winner, measured = tuning.tune(op, SPEC, seconds=0.2)
    assert winner == "reference" and measured["xla"].speedup < 1


@pytest.mark.parametrize("order", list(itertools.permutations(["reference", "xla", "cpu"])), ids="-".join)
def test_the_fastest_by_a_clock_of_little_noise_wins_whatever_its_place_in_the_order(clock, monkeypatch, order):
    """Implementations that cost 2, 3 and 4 ms of a clock that only they move: `order` from the fastest on."""
    op = square({name: lambda x: x * x for name in ("reference", "xla", "cpu")})
    milliseconds = {name: 2.0 + place for place, name in enumerate(order)}
    compiled, noise = tuning.compiled, np.random.default_rng(0)

    def taking_time(benchmark, name):
        program, memory = compiled(benchmark, name)

        def call():
            # Ratios without any spread would have no interval.
            clock.seconds += milliseconds[name] / 1e3 * (1 + 1e-3 * noise.standard_normal())
            return program()

        return call, memory

    monkeypatch.setattr(tuning, "compiled", taking_time)
    winner, measured = tuning.tune(op, SPEC, seconds=0.0)
    assert winner == order[0]
    for name, measurement in measured.items():
        assert measurement.milliseconds == pytest.approx(milliseconds[name], rel=0.01)
        if name != "reference":
            ratio = milliseconds["reference"] / milliseconds[name]
            assert measurement.speedup == pytest.approx(ratio, rel=0.01)
            assert measurement.interval == pytest.approx((ratio, ratio), rel=0.02)


def test_one_that_is_faster_on_average_but_not_by_more_than_noise_does_not_win(monkeypatch):
    op = square({"reference": lambda x: x * x, "xla": lambda x: x * x})
    times = {"reference": [1.0, 1.3, 1.0, 1.3, 1.0], "xla": [1.2, 1.0, 1.2, 1.0, 1.0]}
    monkeypatch.setattr(tuning, "race", lambda calls, **_: {name: times[name] for name in calls})
    winner, measured = tuning.tune(op, SPEC, seconds=0.0)
    assert winner == "reference" and measured["xla"].speedup > 1 > measured["xla"].interval[0]


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
def test_a_wrong_implementation_is_not_timed_however_fast_it_is(wrong, reason):
    op = square({"reference": slow_reference, "xla": wrong, "cpu": lambda x: x * x})
    winner, measured = tuning.tune(op, SPEC, seconds=0.0)
    assert winner == "cpu" and measured["xla"].milliseconds is None and reason in measured["xla"].failure


def test_a_mask_that_is_not_that_of_the_forward_pass_or_of_the_rate_is_an_error():
    x = jnp.ones(10_000)
    kept = jax.random.bernoulli(jax.random.key(0), 0.75, x.shape)
    other = jax.random.bernoulli(jax.random.key(1), 0.75, x.shape)

    def error(rate, mask, mask_backward):
        spec = dataclasses.replace(SPEC, dropout=rate)
        benchmark = BY_NAME["dropout"].benchmark(spec, np.random.default_rng(0))
        assert benchmark.largest_error == 5
        return benchmark.error((x * mask, (x * mask_backward,)))

    assert error(0.25, kept, kept) < 5
    assert error(0.25, kept, other) == math.inf
    assert error(0.3, kept, kept) > 5


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


def test_no_implementation_no_race():
    assert tuning.race({}, seconds=0.0) == {}


def test_a_speed_up_by_noise_has_an_interval_that_holds_one():
    def ratio(base, other):
        return ratio_interval(base, other, CONFIDENCE)

    rng = np.random.default_rng(0)
    base, other = rng.lognormal(0, 0.1, (2, 400, 20))
    holds_one = [low < 1 < high for _, (low, high) in map(ratio, base, other)]
    assert 0.92 < np.mean(holds_one) < 0.98  # a 95 % interval; three standard errors of 400 draws are 3.3 %
    speedup, (low, high) = ratio(1.5 * base[0], base[0] * np.exp(rng.normal(0, 0.01, 20)))
    assert low < 1.5 < high and speedup == pytest.approx(1.5, rel=0.02) and low > 1.4


def test_tokens_are_used_as_unevenly_as_words():
    tokens = benchmarking.zipf_tokens(np.random.default_rng(0), 1000, (100_000,))
    counts = np.bincount(tokens, minlength=1000)
    assert tokens.dtype == np.int32 and tokens.min() == 0 and tokens.max() < 1000
    # P(k) = log((k + 2) / (k + 1)) / log V
    assert counts[0] / 1e5 == pytest.approx(math.log(2) / math.log(1000), rel=0.05)
    assert counts[9] / 1e5 == pytest.approx(math.log(11 / 10) / math.log(1000), rel=0.15)


def test_several_devices_share_the_rows():
    spec = dataclasses.replace(SPEC, n_devices=2)
    assert benchmarking._one_device(spec).rows == 32
    assert benchmarking._one_device(dataclasses.replace(SPEC, n_devices=3)).rows == 16, "whole sequences"


def test_the_gate_compares_with_float32():
    _, measured = tuning.tune(BY_NAME["dense"], dataclasses.replace(SPEC, activations="bfloat16"), seconds=0.0)
    # XLA has bfloat16 on every machine; the C++ kernels on those that have its instructions.
    expected = {"reference"} | ({"xla"} if "avx512_bf16" in cpu_flags() else set())
    assert set(measured) == expected | ({"cpu"} if cpu.unavailable_reason("bfloat16") is None else set())
    # A rounding to bfloat16 is 2^-9: an error far below would mean that the truth was rounded too.
    assert all(1e-3 < outcome.error < 2e-2 for outcome in measured.values())
