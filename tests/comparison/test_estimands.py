"""What is stated before a run is what decides it, whatever kind of run it is."""

import itertools

import pytest
from msgspec.structs import replace

from ryot_jax.comparison import criteria, estimands
from ryot_jax.comparison.criteria import ArmOutcome, Criterion, Observations, PairOutcome, Terms
from ryot_jax.comparison.schema import DecodingResult, Settings
from ryot_jax.comparison.statistics import Difference, SpeedUp
from ryot_jax.comparison.verdict import rules
from ryot_jax.comparison.verdict.declaration import Quantity, Rule, Sample
from ryot_jax.runtime.errors import RyotError

ARM = ArmOutcome(800, 800, 7.6, 3.2, 7.6, 3.4, 3.4, 1000.0)
ENTROPIES = {"unigram": 6.3, "bigram": 4.0, "chance": 5.0}
DECODED = DecodingResult(
    arm="optimized", step=800, engine="cpu", dtype="float32", prompts=32, prompt_tokens=8, new_tokens=8, draft="lookup",
    tokens_per_second=1.0, speculative_tokens_per_second=1.0, speed=None, acceptance=None, tokens_per_step=None,
    identical=True, identical_prompts=32, batch32_tokens_per_second=1.0, seconds=1.0,
)  # fmt: skip
KINDS = [
    Settings(0.1, 0.02, beat, pairs, processes, controls, held_out, arms, decodes)
    for beat, pairs, processes, controls, held_out, arms, decodes in itertools.product(
        ("", "unigram", "bigram", "chance"), (1, 8), (1, 3), (False, True), (False, True), (1, 2), (False, True)
    )
]
SMALL = Rule(
    name="memory_not_higher",
    estimand="memory",
    unit="arm",
    statistic="bytes of the compiled step",
    criterion="none higher than the first",
    quantities=(Quantity("memory", "bytes", lambda observed: Sample({"optimized": (1.0,)}), comparison="at most"),),
)


def _observed(settings):
    """Everything that such a run may measure."""
    names = ("baseline", "optimized")[-settings.arms :]
    pair = PairOutcome(
        SpeedUp(1.2, (1.18, 1.22), 16, 1.2, 1e-4, 0.03),
        Difference(-0.02, (-0.03, -0.01), 16, 0.5),
        Difference(0.001, (-0.002, 0.004), 512, 0.99),
        settings.speed_unit,
        settings.loss_unit,
    )
    return Observations(
        {name: [ARM] * settings.training_pairs for name in names},
        pair if settings.arms == 2 else None,
        ENTROPIES,
        noise_floor=0.01 if settings.controls else None,
        decoding=DECODED if settings.decodes else None,
        memory_bytes=dict.fromkeys(names, 1),
    )


def _decided(settings, statistical):
    return [criterion.name for criterion in criteria.judge(_observed(settings), Terms(settings, statistical))]


def _stated(settings, statistical):
    stated = estimands.describe_estimands(settings, statistical=statistical)
    return [estimand.decides for estimand in stated if estimand.decides]


@pytest.mark.parametrize("statistical", [False, True])
def test_what_decides_is_what_was_stated_for_every_kind_of_run(statistical):
    for settings in KINDS:
        assert _decided(settings, statistical) == _stated(settings, statistical), settings


def test_the_three_that_were_not_stated_once_are():
    stated = _stated(Settings(0.1, 0.02, "bigram"), statistical=False)
    assert {"trains_end_to_end", "no_divergence", "speculation_changes_no_token"} <= set(stated)


def test_a_criterion_that_was_added_is_stated_and_decides(monkeypatch):
    monkeypatch.setattr(rules, "RULES", (*rules.RULES, SMALL))
    settings = Settings(0.1, 0.02, "")
    assert "memory_not_higher" in _decided(settings, statistical=False)
    assert "memory_not_higher" in _stated(settings, statistical=False)
    names = [e.name for e in estimands.describe_estimands(settings, statistical=False)]
    assert names.count("memory") == 1, "it is no longer only reported"


def test_nothing_decides_a_run_that_was_not_stated(make_arms, assemble, monkeypatch):
    judge = criteria.judge
    unstated = Criterion("a_surprise", "", "", "FAIL")
    monkeypatch.setattr(criteria, "judge", lambda *arguments: (*judge(*arguments), unstated))
    with pytest.raises(RyotError, match="a_surprise would decide the run and was not stated"):
        assemble(make_arms())


def test_the_statement_of_a_run_stands_in_its_results(make_arms, assemble):
    found = assemble(make_arms())
    assert {c.name for c in found.criteria} <= {estimand.decides for estimand in found.estimands.items}
    assert found.estimands.sha256 == estimands.digest(found.estimands.items)


def test_another_margin_is_another_statement():
    settings = Settings(0.1, 0.02, "bigram")
    digests = {
        estimands.digest(estimands.describe_estimands(changed, statistical=statistical))
        for changed in (settings, replace(settings, loss_margin=0.2), replace(settings, controls=True))
        for statistical in (False, True)
    }
    assert len(digests) == 6


def test_what_is_only_reported_decides_nothing():
    stated = estimands.describe_estimands(Settings(0.1, 0.02, ""), statistical=False)
    reported = [estimand.name for estimand in stated if not estimand.decides]
    assert reported == ["time to target", "break-even", "memory"]
    assert {e.criterion for e in stated if not e.decides} == {"none: reported"}
    alone = estimands.describe_estimands(Settings(0.1, 0.02, "", arms=1), statistical=False)
    assert [estimand.name for estimand in alone if not estimand.decides] == ["memory"]


def test_an_entropy_that_no_criterion_is_declared_for_is_refused():
    with pytest.raises(ValueError, match="beat is 'trigram', not one of unigram, bigram, chance"):
        Settings(0.1, 0.02, "trigram")
