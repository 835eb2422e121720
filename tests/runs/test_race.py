"""The race of whole steps: who runs, who wins, and that the next run takes it without another."""

import dataclasses
import json

import numpy as np
import pytest

from ryot_jax.config import get_default
from ryot_jax.kernels import cpu
from ryot_jax.kernels.choice.cache import Entry
from ryot_jax.kernels.cpu.library import load
from ryot_jax.kernels.resolution import Choice
from ryot_jax.optimizations import KernelPlan
from ryot_jax.runs import compiled_arms, race
from ryot_jax.runs.race import REFERENCE, laps, plans, winner
from ryot_jax.runs.session import open_session
from ryot_jax.runtime.errors import ConfigError

needs_cpp = pytest.mark.skipif(cpu.unavailable_reason() is not None, reason="without C++ kernels nobody races here")


@pytest.fixture
def session(tmp_path):
    """A session whose step takes a millisecond, with a tuning cache of its own; `session.said` is its log."""
    config = get_default()
    config.model.update({"vocab_size": 260, "d_model": 16, "d_ff": 32, "n_layers": 1, "n_heads": 2, "max_len": 8})
    config.training.update({"batch_size": 8, "seq_len": 8})
    config.data.cache_dir = str(tmp_path)
    said = []
    return open_session(config, said.append, cached_programs=False), said


@pytest.fixture
def clock(monkeypatch):
    """`clock(seconds)`: a call that takes so long by the clock of the race, which nothing else moves."""
    now = [0.0]
    monkeypatch.setattr(race.time, "perf_counter", lambda: now[0])
    rng = np.random.default_rng(0)
    calls = []

    def of(name, seconds, noise=0.01):
        def call():
            calls.append(name)
            now[0] += seconds * np.exp(rng.normal(0, noise))

        return call

    of.calls, of.now = calls, now
    return of


def test_who_is_clearly_behind_drops_out_early(clock):
    field = {"a": clock("a", 1.0), "b": clock("b", 1.1), "slow": clock("slow", 2.0)}
    times = laps(field, seconds=1000.0)
    assert {name: len(rounds) for name, rounds in times.items()} == {"a": 12, "b": 12, "slow": 3}
    assert clock.calls[:9] != ["a", "b", "slow"] * 3, "rounds have orders of their own"


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 2), (10.0, 3), (25.0, 8)])
def test_it_ends_in_time_but_for_two_rounds(clock, seconds, rounds):
    times = laps({"a": clock("a", 1.5, 0.0), "b": clock("b", 1.5, 0.0)}, seconds=seconds)
    assert {len(of_one) for of_one in times.values()} == {rounds}
    assert clock.now[0] <= max(seconds, 2 * 3.0)


def _rounds(mean, noise=0.02, seed=0):
    return list(mean * np.exp(np.random.default_rng(seed).normal(0, noise, 8)))


def test_the_first_wins_unless_another_is_faster_by_more_than_noise():
    assert winner({"a": _rounds(1.0), "b": _rounds(0.999, seed=1)}) == "a"
    assert winner({"a": _rounds(1.0), "b": _rounds(0.5, seed=1), "c": _rounds(0.499, seed=2)}) == "b"
    assert winner({"a": _rounds(1.0), "b": _rounds(0.5, seed=1), "c": _rounds(0.3, seed=2)}) == "c"
    assert winner({"a": _rounds(1.0), "b": _rounds(1.2, seed=1)}) == "a"
    assert winner({"a": _rounds(1.0), "b": _rounds(0.5, seed=1)[:3]}) == "b", "of the rounds that both ran"


def test_of_few_rounds_those_of_one_plan_have_to_be_apart_from_the_others():
    """A t interval of two or three noisy rounds is wide: a plan twice as fast must not lose by it."""
    assert winner({"a": [1.0, 1.3, 1.1], "b": [0.8, 0.8, 0.85]}) == "b"
    assert winner({"a": [3.0, 3.9], "b": [1.5, 1.6]}) == "b"
    assert winner({"a": [1.0, 1.3, 1.1], "b": [0.8, 0.8, 0.98]}) is None, "it seems faster, and may not be"
    assert winner({"a": [1.0, 1.05], "b": [0.99, 1.0]}) == "a", "no more than a few percent"


@needs_cpp
def test_the_plans_are_the_reference_and_the_kernels_by_dtype(session):
    field = plans(session[0].config, session[0].spec)
    assert list(field)[:3] == [REFERENCE, "kernels in float32", "kernels in bfloat16"]
    assert [field[name]["activations"] for name in list(field)[:3]] == ["", "", "bfloat16"]
    assert field[REFERENCE] == KernelPlan(dispatch="scan") and field["kernels in float32"]["dense"] == "cpu"
    assert len(set(field.values())) == len(field)


@needs_cpp
def test_what_the_config_names_is_in_every_plan(session):
    session[0].config.optimizations.update({"dense": "off", "norm": "cpu", "activations": "off"})
    field = plans(session[0].config, session[0].spec)
    assert {plan["norm"] for plan in field.values()} == {"cpu"} and {plan["dense"] for plan in field.values()} == {
        "reference"
    }
    assert not any("bfloat16" in name for name in field)


@pytest.fixture
def timed(monkeypatch, clock):
    """`timed(seconds)`: real steps, which take so long by the clock of the race, or one second where none is given."""
    compiled_steps = race.compiled_steps

    def make(seconds):
        def timed_steps(*arguments):
            measured, calls = compiled_steps(*arguments)

            def with_time(name, call):
                passes = clock(name, seconds.get(name, 1.0))

                def step():
                    passes()
                    return call()

                return step

            return measured, {name: with_time(name, call) for name, call in calls.items()}

        monkeypatch.setattr(race, "compiled_steps", timed_steps)

    return make


@needs_cpp
@pytest.mark.parametrize("slow", ["kernels in float32", "kernels in bfloat16"])
def test_a_plan_made_slow_is_not_taken(session, timed, slow):
    session, said = session
    timed({REFERENCE: 1.5, slow: 2.0})
    assert race.is_needed(session)
    entry = race.race(session, seconds=100.0)
    assert entry.winner not in (slow, REFERENCE)
    assert dict(session.resolve().plan).items() >= entry.plan.items()
    assert not race.is_needed(session)
    assert any(line.startswith(f"  {slow}: ") for line in said) and entry.summary in said[-1]


@needs_cpp
def test_where_nothing_pays_the_reference_is_taken_and_said(session, timed):
    session, said = session
    timed({"kernels in float32": 1.2, "kernels in bfloat16": 1.001, "XLA's rewrites": 1.2})
    entry = race.race(session, seconds=100.0)
    assert entry.winner == REFERENCE and "nothing pays here" in said[-1] and entry.workers == 0
    plan = session.resolve().plan
    assert plan["dense"] == plan["attention"] == "reference" and plan["activations"] == ""
    assert "nothing pays here" in session.resolve().reasons["dense"]


@needs_cpp
def test_a_race_by_a_real_clock_has_an_outcome(session):
    """Of which any plan may be the winner, or none."""
    session, said = session
    entry = race.race(session, seconds=0.5)
    assert all(f"  {name}: " in "\n".join(said) for name in plans(session.config, session.spec))
    assert entry is None or entry.winner in plans(session.config, session.spec)


@needs_cpp
def test_the_next_session_takes_the_outcome_and_another_work_does_not(session):
    first, _ = session
    entry = Entry("kernels in float32", "for a test", plan={"attention": "xla", "activations": ""}, workers=1)
    first.tuning_cache.store(race.whole_step(first.config), first.spec, entry)
    again = open_session(first.config, print, cached_programs=False)
    assert again.raced == entry and not race.is_needed(again)
    assert again.resolve().plan["attention"] == "xla" and again.resolve().reasons["attention"].startswith(
        "measured: for a"
    )
    assert again.resolve_unmeasured().plan["attention"] == "cpu"
    changes = {"training": {"accumulation": 2, "optimizer": "lion"}, "model": {"n_layers": 2, "tie_embeddings": False}}
    for section, fields in changes.items():
        for name, value in fields.items():
            config = first.config.copy_and_resolve_references()
            config[section][name] = value
            assert open_session(config, print, cached_programs=False).raced is None, name
    config = first.config.copy_and_resolve_references()
    config.training.epochs = 3
    assert open_session(config, print, cached_programs=False).raced == entry, "of the same step"
    config = first.config.copy_and_resolve_references()
    config.optimizations.norm = "off"
    assert open_session(config, print, cached_programs=False).raced is None, "raced with another wish"


@needs_cpp
@pytest.mark.parametrize(("workers", "limit"), [(1, 1), (0, None)])
def test_a_run_takes_as_many_threads_as_won_while_that_plan_is_in_use(session, monkeypatch, workers, limit):
    session, _ = session
    limits = []
    monkeypatch.setattr(cpu, "limit_workers", limits.append)
    entry = Entry("kernels in float32", "for a test", plan={"dense": "cpu"}, workers=workers)
    session.tuning_cache.store(race.whole_step(session.config), session.spec, entry)
    compiled_arms.measure_kernels(session)
    assert limits.pop() == limit
    before = lambda op, spec: Choice(KernelPlan()[op], "as before")  # noqa: E731
    dataclasses.replace(session, kernels_before=before).limit_workers()
    assert limits.pop() is None
    session.config.runtime.tune = "off"
    compiled_arms.measure_kernels(session)
    assert limits.pop() is None and session.resolve().reasons["dense"].startswith("auto: first in order")


def test_two_arms_of_one_plan_are_refused_with_what_the_race_found(session):
    session, _ = session
    session.config.optimizations.update(dict.fromkeys(session.config.optimizations, "off") | {"dense": "auto"})
    entry = Entry(REFERENCE, "nothing pays here", plan={"dense": "reference"})
    session.tuning_cache.store(race.whole_step(session.config), session.spec, entry)
    with pytest.raises(ConfigError, match=r"nothing to compare: nothing pays here.*runtime\.tune=off"):
        compiled_arms.measure_kernels(session)
    session.config.comparison.arms = ("optimized",)
    compiled_arms.measure_kernels(session)


def test_an_undecided_race_is_not_kept(session, monkeypatch):
    session, said = session
    monkeypatch.setattr(race, "compiled_steps", lambda config, model, field: ({}, {}))
    monkeypatch.setattr(race, "laps", lambda calls, seconds: {})
    monkeypatch.setattr(race, "winner", lambda times: None)
    assert race.race(session) is None and session.raced is None
    assert "undecided beyond noise: the fixed order holds, and the next run races again" in said[-1]


@needs_cpp
def test_fewer_threads_win_where_the_step_is_faster_with_them(monkeypatch, clock):
    with_all, with_half = clock("all", 1.0), clock("half", 0.4)

    def step():
        with_all() if load().most_workers is None else with_half()

    monkeypatch.setattr(race, "describe_processor", lambda: dataclasses.replace(processor, usable_cores=6))
    assert race._fewer_workers(step, seconds=100.0) == (3, ", with 3 of 6 threads")
    assert load().most_workers is None
    assert race._fewer_workers(clock("same", 0.4), seconds=100.0) == (0, ", with all 6 threads")
    monkeypatch.setattr(race, "describe_processor", lambda: dataclasses.replace(processor, usable_cores=1))
    assert race._fewer_workers(step, seconds=100.0) == (0, "")


processor = race.describe_processor()


@pytest.mark.parametrize(
    ("tune", "before", "held"), [("race", False, True), ("race", True, False), ("off", False, False)]
)
def test_a_run_races_once_and_not_when_resumed(session, monkeypatch, tune, before, held):
    session, _ = session
    session.config.runtime.tune = tune
    if before:
        session = dataclasses.replace(session, kernels_before=lambda op, spec: None)
    races = []
    monkeypatch.setattr(race, "race", races.append)
    monkeypatch.setattr(
        race, "plans", lambda config, spec: {REFERENCE: KernelPlan(), "another": KernelPlan(norm="xla")}
    )
    compiled_arms.measure_kernels(session)
    assert bool(races) == held


def test_an_entry_survives_the_disk(session, tmp_path):
    session, _ = session
    entry = Entry("kernels in float32", "for a test", {}, {"a": {"error": None}}, plan={"dense": "cpu"}, workers=2)
    session.tuning_cache.store(race.whole_step(session.config), session.spec, entry)
    again = open_session(session.config, print, cached_programs=False)
    assert again.raced == entry
    [file] = (tmp_path / "kernels").rglob("*.json")
    for damage in ({"plan": {"dense": 1}}, {"plan": []}, {"workers": "2"}, {"workers": True}):
        file.write_text(json.dumps({**json.loads(file.read_text()), **damage}))
        said = []
        assert open_session(session.config, said.append, cached_programs=False).raced is None
        assert "fields are missing or of another type" in said[0]
