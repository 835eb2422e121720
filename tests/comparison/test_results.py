"""`results.json`: complete, of the stated shape, strict JSON, and right in its numbers."""

import copy
import json
import math

import numpy as np
import pytest

from ryot_jax.comparison import results
from ryot_jax.comparison.schema import validate_results


def test_results_have_the_stated_shape_and_survive_the_file(make_arms, assemble, tmp_path):
    found = assemble(make_arms())
    validate_results(found)
    results.write(tmp_path / "results.json", found)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == found
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_faster_arm_of_equal_loss_passes(make_arms, assemble):
    found = assemble(make_arms())
    speed = found["comparison"]["step_time_speedup"]
    assert found["verdict"] == "PASS"
    assert speed["estimate"] == pytest.approx(1.25, rel=0.02)
    assert speed["ci95"][0] < 1.25 < speed["ci95"][1]
    assert speed["pairs"] == len(speed["blocks"]) == 12
    assert found["comparison"]["heldout_loss_difference"]["pairs"] == 40


def test_two_arms_of_one_speed_are_not_called_faster(make_arms, assemble):
    assert assemble(make_arms(step_seconds=0.01))["verdict"] in ("FAIL", "INCONCLUSIVE")


def test_a_slower_arm_and_a_worse_loss_fail(make_arms, assemble):
    verdicts = {c["name"]: c["verdict"] for c in assemble(make_arms(step_seconds=0.02))["criteria"]}
    assert (verdicts["speedup_above_zero"], verdicts["throughput_up"]) == ("FAIL", "FAIL")
    worse = {c["name"]: c["verdict"] for c in assemble(make_arms(loss_offset=0.05))["criteria"]}
    assert (worse["loss_within_0.1"], worse["loss_no_worse_by_0.02"]) == ("PASS", "FAIL")  # bfloat16: statistical


def test_random_labels_fail_the_learning_criteria(make_arms, assemble):
    # Labels without information leave the loss where the unigram entropy is, at best.
    found = assemble(make_arms(end_loss=6.9))
    failed = {c["name"] for c in found["criteria"] if c["verdict"] == "FAIL"}
    assert {"loss_falls", "beats_unigram_entropy", "beats_bigram_entropy"} <= failed
    assert found["verdict"] == "FAIL"


def test_an_arms_numbers_are_sums_over_its_blocks(make_arms, assemble):
    found = assemble(make_arms())
    arm = found["arms"]["baseline"]
    blocks = found["comparison"]["step_time_speedup"]["blocks"]
    assert arm["tokens"] == 100 * 64
    assert arm["train_seconds"] == pytest.approx(sum(b["seconds"]["baseline"] for b in blocks))
    assert arm["tokens_per_second"] == pytest.approx(arm["tokens"] / arm["train_seconds"])
    assert sum(e["seconds"] for e in arm["epochs"]) == pytest.approx(arm["train_seconds"])
    assert arm["compile_seconds"] == 2.75
    assert arm["epochs"][0]["train_loss"] == pytest.approx(3 + 4 * np.mean(0.9 ** np.arange(25)))
    assert (arm["best_step"], arm["best_heldout_loss"]) == (100, pytest.approx(arm["final_heldout_loss"]))


def test_one_arm_alone_has_no_comparison(make_arms, assemble):
    found = assemble(make_arms()[:1])
    validate_results(found)
    assert found["comparison"] is None and found["verdict"] == "PASS"


def test_nan_becomes_null_and_fails(make_arms, assemble, tmp_path):
    found = assemble(make_arms(loss_offset=math.nan))
    assert found["verdict"] == "FAIL"
    assert found["arms"]["optimized"]["final_heldout_loss"] is None
    assert found["arms"]["optimized"]["best_step"] is None
    assert found["comparison"]["heldout_loss_difference"]["estimate"] is None
    results.write(tmp_path / "results.json", found)
    assert "NaN" not in (tmp_path / "results.json").read_text(encoding="utf-8")


def test_plain_turns_numpy_and_non_finite_values_into_json():
    value = {"a": np.float32(1.5), "b": (np.int64(2), math.inf), "c": np.array([1.0, math.nan])}
    assert results.plain(value) == {"a": 1.5, "b": [2, None], "c": [1.0, None]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r.pop("verdict"), "results.verdict is missing"),
        (lambda r: r.update(schema_version=3), "schema_version is 3"),
        (lambda r: r.update(verdict="GREAT"), "verdict 'GREAT'"),
        (lambda r: r["arms"]["baseline"].update(steps=1.5), "arms.baseline.steps is float, not int"),
        (lambda r: r["comparison"]["step_time_speedup"].update(ci95=[2, 1]), "ci95 is"),
        (lambda r: r["criteria"][0].pop("target"), r"criteria\[0\].target is missing"),
        (lambda r: r.update(comparison=None), "comparison is wanted"),
    ],
)
def test_a_damaged_file_is_named_by_field(make_arms, assemble, damage, message):
    found = copy.deepcopy(assemble(make_arms()))
    damage(found)
    with pytest.raises(ValueError, match=message):
        validate_results(found)
