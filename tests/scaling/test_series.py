"""Series are what was asked for at every step, and what cannot be is refused with the step's number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryot_jax.runtime.errors import ConfigError
from ryot_jax.scaling import constant, linear_ramp, per_phase, piecewise


def values(series, n=None):
    return [series(step) for step in range(series.end if n is None else n)]


def test_a_constant_is_the_same_at_every_step():
    assert values(constant(7, 3)) == [7, 7, 7]
    assert constant(7).end is None and constant(7)(10**9) == 7


def test_pieces_hold_up_to_their_ends():
    series = piecewise([(0, 2, "a"), (2, 3, "b"), (3, None, "a")])
    assert values(series, 6) == ["a", "a", "b", "a", "a", "a"]
    assert series.end is None


def test_phases_follow_each_other():
    assert values(per_phase([(2, 8), (1, 16), (3, 8)])) == [8, 8, 16, 8, 8, 8]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (dict(first_value=32, last_value=128, steps=6, multiple_of=32, then=2), [32, 32, 64, 64, 96, 96, 128, 128]),
        (dict(first_value=3, last_value=1, steps=4, then=1), [3, 3, 2, 2, 1]),
        (dict(first_value=3, last_value=1, steps=4, then=0), [3, 3, 2, 2]),
        (dict(first_value=5, last_value=5, steps=0, then=2), [5, 5]),
        (dict(first_value=0, last_value=3, steps=7, then=1), [0, 0, 1, 1, 2, 2, 2, 3]),
    ],
)
def test_a_ramp_spends_equal_stretches_on_its_stages(arguments, wanted):
    assert values(linear_ramp(**arguments)) == wanted


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=8))
def test_every_step_of_a_phase_has_its_value(phases):
    assert values(per_phase(phases)) == [value for steps, value in phases for _ in range(steps)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: piecewise([(0, 2, 1), (3, 4, 2)]), "step 2: belongs to no range; the next one begins at step 3"),
        (lambda: piecewise([(1, 2, 1)]), "step 0: belongs to no range"),
        (lambda: piecewise([(0, 3, 1), (2, 4, 2)]), "step 2: belongs to two ranges; the one before ends at step 3"),
        (lambda: piecewise([(0, 3, 1), (3, 3, 2)]), "step 3: the range that begins here ends at step 3"),
        (lambda: piecewise([(0, None, 1), (3, 4, 2)]), "step 3: .* the one before never ends"),
        (lambda: piecewise([]), "at least one range"),
        (lambda: per_phase([(3, 1), (0, 2)]), "step 3: .* no steps"),
        (lambda: constant(1, 0), "steps = 0"),
        (lambda: linear_ramp(32, 100, steps=9, multiple_of=32), "multiples of 32"),
        (lambda: linear_ramp(0, 9, steps=3), "9 stages"),
        (lambda: constant(1, 3)(3), "step 3"),
        (lambda: constant(1)(-1), "step -1"),
    ],
)
def test_what_is_no_series_is_refused_with_the_step(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
