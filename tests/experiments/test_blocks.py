from experiments.lib.blocks import steps_within


def test_steps_fill_the_seconds_and_are_at_least_one():
    assert steps_within(lambda n: 0.1 * n, 2.0) == 20
    assert steps_within(lambda n: 60.0 * n, 2.0) == 1
