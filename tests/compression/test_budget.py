"""What a budget says, and what is none."""

import math

import pytest

from ryot_jax.compression.budget import Budget, parse


@pytest.mark.parametrize(
    ("text", "kind", "limit"),
    [
        ("ratio>=8", "ratio", 8.0),
        ("ratio >= 7.5", "ratio", 7.5),
        ("bytes<=500000", "bytes", 500_000.0),
        (" bytes <= 5e5 ", "bytes", 500_000.0),
        ("loss<=0.01", "loss", 0.01),
        ("loss<=1e-3", "loss", 0.001),
        ("perplexity<=1%", "loss", math.log(1.01)),
        ("perplexity <= 0.5 %", "loss", math.log(1.005)),
    ],
)
def test_every_form_is_read(text, kind, limit):
    found = parse(text)
    assert (found.kind, found.text) == (kind, text.strip())
    assert found.limit == pytest.approx(limit, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read"),
        ("8", "cannot be read"),
        ("ratio=8", "cannot be read"),
        ("ratio>8", "cannot be read"),
        ("size<=8", "cannot be read"),
        ("loss<=nan", "cannot be read"),
        ("loss<=0.01 nats", "cannot be read"),
        ("loss<=0.01\nratio>=8", "cannot be read"),
        ("ratio<=8", "write one of"),
        ("bytes>=8", "write one of"),
        ("loss>=0.01", "write one of"),
        ("perplexity>=1%", "write one of"),
        ("perplexity<=1", "write one of"),
        ("loss<=1%", "write one of"),
        ("ratio>=8%", "write one of"),
        ("loss<=1.2.3", "is no number"),
        ("loss<=-", "is no number"),
        ("loss<=0", "above zero"),
        ("loss<=-0.1", "above zero"),
        ("bytes<=1e999", "finite"),
        ("perplexity<=-1%", "above zero"),
    ],
)
def test_what_is_no_budget_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason) as raised:
        parse(text)
    assert repr(text) in str(raised.value)


def test_bytes_and_ratios_limit_the_file_and_losses_do_not():
    # A thousand parameters take 4000 bytes in float32.
    assert parse("ratio>=8").bytes_of(1000) == 500.0
    assert parse("bytes<=700").bytes_of(1000) == 700.0
    assert parse("loss<=0.1").bytes_of(1000) is None


@pytest.mark.parametrize(
    ("text", "kept", "missed"),
    [
        ("ratio>=8", (500, 9.9), (501, 0.0)),
        ("bytes<=700", (700, 9.9), (701, 0.0)),
        ("loss<=0.1", (10**9, 0.1), (1, 0.1001)),
        ("perplexity<=10%", (10**9, 0.0953), (1, 0.0954)),  # ln(1.1) = 0.09531
    ],
)
def test_a_budget_is_kept_up_to_its_limit_and_cares_for_nothing_else(text, kept, missed):
    for (n_bytes, rise), wanted in ((kept, True), (missed, False)):
        assert parse(text).kept(n_bytes, 1000, rise) is wanted
    # A rise that nobody knows keeps no limit of the loss.
    assert parse(text).kept(kept[0], 1000, None) is (parse(text).kind != "loss")


def test_budgets_are_values():
    assert parse("loss<=0.5") == Budget("loss", 0.5, "loss<=0.5")
