"""Files of version 2, as the program wrote them before, are still read and drawn as they were."""

import json
from pathlib import Path

import pytest

from ryot_jax.comparison import results
from ryot_jax.comparison.verdict import rules
from ryot_jax.report.formats import markdown

FILE = Path(__file__).parent / "results_v2.json"


@pytest.fixture
def older():
    """The JSON values of a file of version 2: two arms, three processes, controls and everything beside them."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def test_a_file_of_version_2_becomes_one_of_version_3(older):
    found = results.read(FILE)
    assert older["schema_version"] == 2 and found.schema_version == 3
    assert found.comparison.step_time_speedup.estimate == older["comparison"]["step_time_speedup"]["estimate"]
    assert [c.actual for c in found.criteria] == [c["actual"] for c in older["criteria"]]
    assert all(criterion.readings == () for criterion in found.criteria), "it had words alone"
    assert all(estimand.decides == "" for estimand in found.estimands.items)
    assert found.settings.arms == 2
    assert results.decode(json.loads(results.to_text(found))) == found


def test_its_report_is_the_one_that_was_drawn_then():
    drawn = (FILE.parent / "results_v2.md").read_text(encoding="utf-8")
    assert markdown.render(results.read(FILE), {}) == drawn


@pytest.mark.parametrize(
    ("name", "verdict", "advice"),
    [
        ("loss_no_worse_by_0.02", "FAIL", "class statistical"),
        ("loss_within_0.1", "INCONCLUSIVE", "class statistical"),
        ("speedup_above_zero", "FAIL", "ryot ablate"),
        ("speedup_above_zero", "INCONCLUSIVE", "more block pairs"),
        ("beats_bigram_entropy", "FAIL", "Train longer"),
        ("speedup_above_zero", "PASS", None),
    ],
)
def test_its_criteria_get_the_advice_of_today(older, name, verdict, advice):
    for criterion in older["criteria"]:
        if criterion["name"] == name:
            criterion["verdict"] = verdict
    (found,) = (c for c in results.decode(older).criteria if c.name == name)
    assert found.advice is None if advice is None else advice in found.advice


def test_a_single_arm_is_read_too(older):
    del older["arms"]["baseline"]
    older.update(comparison=None)
    assert results.decode(older).settings.arms == 1


def test_a_criterion_that_is_no_longer_declared_is_kept_without_advice(older):
    older["criteria"][0].update(name="of_another_time", verdict="FAIL")
    found = results.decode(older).criteria[0]
    assert (found.name, found.verdict, found.advice) == ("of_another_time", "FAIL", None)
    assert not any(rule.name == "of_another_time" for rule in rules.RULES)


def test_damage_in_an_older_file_is_named_too(older):
    del older["comparison"]["unit"]
    with pytest.raises(ValueError, match=r"results\.comparison\.unit is missing"):
        results.decode(older)
