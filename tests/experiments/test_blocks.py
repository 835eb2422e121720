import numpy as np

from experiments.blocks import interleave, steps_within


def test_a_round_visits_every_arm_there_and_back_and_gives_seconds_per_step():
    visits = []

    def arm(name, seconds_per_step):
        def run(n_steps):
            visits.append(name)
            return seconds_per_step * n_steps

        return run

    arms = {"a": arm("a", 1.0), "b": arm("b", 2.0), "c": arm("c", 3.0)}
    seconds = interleave(arms, {"a": 1, "b": 2, "c": 5}, rounds=20)
    for first in range(0, len(visits), 6):
        there, back = visits[first : first + 3], visits[first + 3 : first + 6]
        assert sorted(there) == ["a", "b", "c"]
        assert there == back[::-1]
    assert len({tuple(visits[first : first + 3]) for first in range(0, len(visits), 6)}) > 1
    for name, expected in {"a": 1.0, "b": 2.0, "c": 3.0}.items():
        np.testing.assert_allclose(seconds[name], np.full(20, expected))


def test_a_drift_within_the_rounds_leaves_ratios_alone():
    clock = 0.0

    def run(n_steps):
        nonlocal clock
        clock += 1.0
        return n_steps * (100.0 + clock)

    seconds = interleave({"a": run, "b": run}, {"a": 1, "b": 1}, rounds=10)
    np.testing.assert_array_equal(seconds["a"], seconds["b"])


def test_steps_fill_the_seconds_and_are_at_least_one():
    assert steps_within(lambda n: 0.1 * n, 2.0) == 20
    assert steps_within(lambda n: 60.0 * n, 2.0) == 1
