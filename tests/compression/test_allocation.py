"""Hulls and allocations against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ryot_jax.compression.allocation import Trial, allocate, hull, uniform

# Small integers: points coincide, lie above each other and on one line.
trials = st.lists(st.builds(Trial, st.just(1.0), st.integers(1, 12), st.integers(-3, 12)), min_size=1, max_size=8)


def hull_by_hand(points):
    """(bits, rise) of the corners of the lower convex hull, as far as it falls."""
    points = set(points)

    def is_corner(p):
        for a, b in itertools.product(points - {p}, repeat=2):
            if a[0] <= p[0] and a[1] <= p[1]:
                return False  # no more bits for no more loss
            if a[0] < p[0] < b[0] and p[1] * (b[0] - a[0]) >= a[1] * (b[0] - p[0]) + b[1] * (p[0] - a[0]):
                return False  # a mixture of two others is as good
        return True

    return sorted(filter(is_corner, points))


@settings(deadline=None)
@given(trials)
@example([Trial(1.0, 1, 2), Trial(1.0, 2, 1), Trial(1.0, 3, 0)])  # on one line
def test_the_hull_is_the_lower_convex_one(trials):
    found = hull(trials)
    assert [(trial.bits, trial.rise) for trial in found] == hull_by_hand((t.bits, t.rise) for t in trials)
    assert all(trial in trials for trial in found)


def test_a_hull_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no trials"):
        hull([])


def total(chosen):
    return sum(t.bits for t in chosen), sum(t.rise for t in chosen)


def best(table, bits):
    """The least rise of any combination of trials within the bits."""
    sums = map(total, itertools.product(*table.values()))
    return min(rise for used, rise in sums if used <= bits)


tables = st.dictionaries(st.sampled_from("abcd"), trials, min_size=1)


@settings(deadline=None)
@given(tables, st.integers(-3, 20))
@example({"a": [Trial(3.0, 1, 12), Trial(2.0, 9, 1), Trial(1.0, 10, 0)]}, 2)  # the second step fits, the first does not
def test_an_allocation_keeps_the_budget_and_is_one_of_the_trials(table, spare):
    least = sum(min(t.bits for t in trials) for trials in table.values())
    bits = least + spare
    if spare < 0:
        with pytest.raises(ValueError, match=r"less than the .* of the coarsest"):
            allocate(table, bits)
        return
    found = allocate(table, bits)
    assert found.keys() == table.keys()
    assert all(found[name] in hull(table[name]) for name in table)
    assert total(found.values())[0] <= bits
    assert total(found.values())[1] >= best(table, bits)


@settings(max_examples=200, deadline=None)
@given(tables, st.integers(0, 60))
def test_an_allocation_is_the_best_there_is_where_a_rate_asks_for_all_its_bits(table, sixteenths):
    # No two trials with small integers are worth the same at this rate of loss for bits.
    rate = sixteenths / 16 + 2**-0.5 / 16
    asked = [min(trials, key=lambda t: t.rise + rate * t.bits) for trials in table.values()]
    bits, rise = total(asked)
    assert total(allocate(table, bits).values()) == (bits, rise)
    assert best(table, bits) == rise  # of all combinations, not of those on hulls alone
    # With a few bits more it is at least as good.
    assert total(allocate(table, bits + 2).values())[1] <= rise


def test_bits_go_where_they_save_the_most():
    table = {
        "minds": [Trial(4, 100, 0.9), Trial(2, 200, 0.3), Trial(1, 300, 0.2)],
        "does not": [Trial(4, 100, 0.02), Trial(2, 200, 0.01)],
    }
    assert {name: t.setting for name, t in allocate(table, 200).items()} == {"minds": 4, "does not": 4}
    assert {name: t.setting for name, t in allocate(table, 300).items()} == {"minds": 2, "does not": 4}
    assert {name: t.setting for name, t in allocate(table, 400).items()} == {"minds": 1, "does not": 4}
    assert {name: t.setting for name, t in allocate(table, 10_000).items()} == {"minds": 1, "does not": 2}


def test_uniform_takes_what_is_nearest_to_an_equal_share():
    rng = np.random.default_rng(0)
    sizes = {"a": 100, "b": 400, "c": 50}
    table = {name: [Trial(b, n * b + rng.uniform(-9, 9), 1.0) for b in range(1, 9)] for name, n in sizes.items()}
    assert {t.setting for t in uniform(table, 3.0 * 550, sizes).values()} == {3}
    assert {t.setting for t in uniform(table, 99.0 * 550, sizes).values()} == {8}
    assert {t.setting for t in uniform(table, 5.2 * 550, sizes).values()} == {5}
