"""A schedule is a pure function of the step, counts its tokens in closed form, and is refused before anything runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryot_jax.runtime.errors import ConfigError
from ryot_jax.scaling import ProgramKey, TracedValues, check, compose, constant, linear_ramp, per_phase, piecewise

PHASES = st.lists(st.tuples(st.integers(1, 7), st.sampled_from([2, 4, 8])), min_size=1, max_size=5)


def test_the_parts_are_followed_at_once():
    schedule = compose(
        batch_size=per_phase([(2, 16), (3, 32)]),
        seq_len=linear_ramp(32, 64, steps=3, multiple_of=32),
        depth=per_phase([(4, 2), (1, 0)]),
        rate=0.5,
    )
    assert [schedule(step) for step in range(5)] == [
        (ProgramKey(16, 32, 2), TracedValues(0.5)),
        (ProgramKey(16, 32, 2), TracedValues(0.5)),
        (ProgramKey(32, 32, 2), TracedValues(0.5)),
        (ProgramKey(32, 64, 2), TracedValues(0.5)),
        (ProgramKey(32, 64), TracedValues(0.5)),
    ]
    assert schedule.total_steps == 5 and schedule.total_tokens == 2 * 512 + 1024 + 2 * 2048
    assert schedule.programs() == (
        ProgramKey(16, 32, 2),
        ProgramKey(32, 32, 2),
        ProgramKey(32, 64, 2),
        ProgramKey(32, 64),
    )
    assert schedule.to_json()[1] == {
        "first_step": 2,
        "end_step": 3,
        "batch_size": 32,
        "seq_len": 32,
        "depth": 2,
        "rate": 0.5,
    }


def test_a_rate_that_changes_is_no_other_program():
    schedule = compose(batch_size=8, seq_len=16, rate=per_phase([(2, 1.0), (2, 0.1)]))
    assert len(schedule.segments) == 2 and schedule.programs() == (ProgramKey(8, 16),)


@given(PHASES, PHASES)
def test_tokens_before_a_step_are_the_sum_over_the_steps_before(batches, lengths):
    total = min(sum(steps for steps, _ in part) for part in (batches, lengths))

    def cut(part):
        ranges, first = [], 0
        for steps, value in part:
            if first < total:
                ranges.append((first, min(first + steps, total), value))
            first += steps
        return piecewise(ranges)

    schedule = compose(batch_size=cut(batches), seq_len=cut(lengths))
    tokens = 0
    for step in range(schedule.total_steps):
        assert schedule.tokens_before(step) == tokens
        tokens += schedule(step)[0].tokens
    assert schedule.total_tokens == schedule.tokens_before(schedule.total_steps) == tokens
    neighbours = zip(schedule.segments, schedule.segments[1:], strict=False)
    assert all(a.static != b.static and a.end == b.first for a, b in neighbours)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compose(batch_size=8, seq_len=16), "never ends"),
        (
            lambda: compose(batch_size=constant(8, 3), seq_len=constant(16, 5)),
            "step 3: batch_size ends here, but the schedule continues to step 5",
        ),
        (lambda: compose(batch_size=constant(8, 3), seq_len=16)(3), "step 3"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_step(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("parts", "settings", "message"),
    [
        ({"seq_len": per_phase([(4, 16), (4, 33)])}, {}, "step 4: seq_len = 33 must lie in 1 to model.max_len = 32"),
        ({"seq_len": per_phase([(4, 0), (4, 32)])}, {}, "step 0: seq_len = 0"),
        ({"depth": per_phase([(4, 4), (4, 5)])}, {}, "step 4: depth = 5 must lie in 0 to model.n_layers = 4"),
        ({"depth": per_phase([(4, -1), (4, 0)])}, {}, "step 0: depth = -1"),
        ({"batch_size": per_phase([(4, 8), (4, 6)])}, {"n_devices": 4}, "step 4: batch_size = 6 .* multiple of 4"),
        ({"batch_size": constant(8, 8)}, {"n_devices": 2, "accumulation": 8}, "step 0: batch_size = 8 .* of 16"),
        ({"batch_size": per_phase([(4, 8), (4, 0)])}, {}, "step 4: batch_size = 0"),
        ({"rate": per_phase([(6, 1.0), (2, 0.0)])}, {}, "step 6: rate = 0.0"),
        ({"rate": per_phase([(6, 1.0), (2, float("nan"))])}, {}, "step 6: rate = nan"),
        ({"batch_size": per_phase([(3, 8), (5, 16)])}, {"steps_per_call": 5}, "step 0: 3 steps .* a call takes 5"),
        ({"batch_size": per_phase([(1, 2 * n) for n in range(1, 9)])}, {}, "step 6: .* program number 7; at most 6"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_step(parts, settings, message):
    schedule = compose(**{"batch_size": 8, "seq_len": constant(32, 8)} | parts)
    with pytest.raises(ConfigError, match=message):
        check(schedule, max_len=32, n_layers=4, **settings)


def test_what_can_be_trained_is_not_refused():
    schedule = compose(batch_size=per_phase([(5, 8), (10, 16)]), seq_len=per_phase([(5, 16), (10, 32)]))
    check(schedule, max_len=32, n_layers=4, n_devices=4, accumulation=2, steps_per_call=5)
