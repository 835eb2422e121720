"""A line of phases is laid over a training of any sizes, and what is no such line is refused with its phase."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryot_jax.runtime.errors import ConfigError
from ryot_jax.scaling import ProgramKey, TracedValues
from ryot_jax.scaling.phases import Phase, laid_out, parse

SCALED = {"batch_size": 32, "seq_len": 128, "n_layers": 4, "steps": 800}


def test_a_line_is_read_phase_by_phase():
    line = "31.25% of B*2 x T/4  depth L/4 rate 0.5,12% of B/2 x T/2 depth L, 5% of B x T"
    assert parse(line) == (
        Phase(Fraction(5, 16), Fraction(2), Fraction(1, 4), Fraction(1, 4), 0.5),
        Phase(Fraction(12, 100), Fraction(1, 2), Fraction(1, 2)),
        Phase(Fraction(5, 100)),
    )


def test_the_shares_become_steps_of_the_config():
    line = "31.25% of B x T/4 depth L/4, 12.5% of B/2 x T/2 depth L/2 rate 0.5, 17.5% of B x T"
    schedule = laid_out(parse(line), **SCALED, multiple_of=5)
    assert [(s.first, s.end, s.static, s.dynamic) for s in schedule.segments] == [
        (0, 1000, ProgramKey(32, 32, 1), TracedValues()),
        (1000, 1400, ProgramKey(16, 64, 2), TracedValues(0.5)),
        (1400, 1540, ProgramKey(32, 128), TracedValues()),
    ]
    assert schedule.total_tokens == 1000 * 32 * 32 + 400 * 16 * 64 + 140 * 32 * 128


def test_the_whole_is_the_training_of_the_config():
    schedule = laid_out(parse("100% of B x T"), **SCALED)
    assert schedule.programs() == (ProgramKey(32, 128),) and schedule.total_steps == 800


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(1, 300), st.integers(1, 5))
def test_any_sizes_give_a_schedule_of_sizes_that_exist(batch_size, seq_len, n_layers, steps, multiple_of):
    line = parse("30% of B/4 x T/4 depth L/4, 20% of B x T/2, 0.5% of B x T")
    schedule = laid_out(
        line, batch_size=batch_size, seq_len=seq_len, n_layers=n_layers, steps=steps, multiple_of=multiple_of
    )
    for segment in schedule.segments:
        assert 1 <= segment.static.batch_size <= batch_size and 1 <= segment.static.seq_len <= seq_len
        assert 0 <= segment.static.depth < n_layers and (segment.end - segment.first) % multiple_of == 0
    # No phase is further than half a call from its share, or it is the least that there is.
    sizes = [(max(1, batch_size // 4), max(1, seq_len // 4)), (batch_size, max(1, seq_len // 2)), (batch_size, seq_len)]
    tokens = 0.0
    for phase, (batch, length) in zip(line, sizes, strict=True):
        call = batch * length * multiple_of
        tokens += max(call, float(phase.share) * steps * batch_size * seq_len)
    slack = sum(batch * length * multiple_of for batch, length in sizes)
    assert abs(schedule.total_tokens - tokens) <= slack


@pytest.mark.parametrize(
    "line",
    [
        *(
            "",
            "half of B x T",
            "50% of B",
            "50% of T x B",
            "50% B x T",
            "50% of B x T;",
            "50% of B x T, ",
            "-5% of B x T",
        ),
        *("50% of B x T*2", "50% of B x T depth 2", "50% of B x T rate -1", "50% of B/ x T", "nan% of B x T"),
    ],
)
def test_what_is_no_phase_is_refused_with_the_grammar(line):
    with pytest.raises(ConfigError, match=r"is no phase; give phases such as '50% of B/2 x T/4 depth L/2 rate 0\.5'"):
        parse(line)


@pytest.mark.parametrize(
    "line", ["0% of B x T", "5% of B/0 x T", "5% of B x T/0", "5% of B x T rate 0", "5% of B*0 x T"]
)
def test_a_phase_of_nothing_is_refused(line):
    with pytest.raises(ConfigError, match="must be above zero"):
        parse(line)
