import numpy as np

from ryot_jax.comparison.interleaving import interleave


def test_a_round_visits_every_arm_there_and_back_and_gives_seconds_per_step():
    visits = []

    def arm(name, seconds_per_step):
        def run(n_steps):
            visits.append(name)
            return seconds_per_step * n_steps

        return run

    arms = {"a": arm("a", 1.0), "b": arm("b", 2.0), "c": arm("c", 3.0)}
    done = []
    seconds = interleave(arms, {"a": 1, "b": 2, "c": 5}, rounds=20, on_round=done.append)
    for first in range(0, len(visits), 6):
        there, back = visits[first : first + 3], visits[first + 3 : first + 6]
        assert sorted(there) == ["a", "b", "c"]
        assert there == back[::-1]
    assert len({tuple(visits[first : first + 3]) for first in range(0, len(visits), 6)}) > 1
    for name, expected in {"a": 1.0, "b": 2.0, "c": 3.0}.items():
        np.testing.assert_allclose(seconds[name], np.full(20, expected))
    assert done == list(range(1, 21))


def test_the_order_is_that_of_the_seed():
    def visited(seed):
        visits = []
        arms = {name: lambda n, name=name: visits.append(name) or 1.0 for name in "abcd"}
        interleave(arms, dict.fromkeys("abcd", 1), rounds=4, seed=seed)
        return visits

    assert visited(0) == visited(0) != visited(1)


def test_a_drift_within_the_rounds_leaves_ratios_alone():
    clock = 0.0

    def run(n_steps):
        nonlocal clock
        clock += 1.0
        return n_steps * (100.0 + clock)

    seconds = interleave({"a": run, "b": run}, {"a": 1, "b": 1}, rounds=10)
    np.testing.assert_array_equal(seconds["a"], seconds["b"])
