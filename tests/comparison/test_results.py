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


@pytest.fixture
def compression():
    """What a run found that compressed a checkpoint, with values of numpy and tuples as it has them."""
    measured = {"estimate": np.float64(0.01), "ci95": (0.009, 0.011)}
    return {
        "arm": "optimized",
        "step": 100,
        "budget": "perplexity<=1%",
        "kept": np.bool_(False),
        "file": "best.ryot",
        "parameters": 1000,
        "training_tokens": 6400,
        "bytes": np.int64(500),
        "float_bytes": 4000,
        "ratio": 8.0,
        "bits_per_parameter": 4.0,
        "lossless_bytes": 3600,
        "lossless_coder": "lzma",
        "entropy_bytes": 399.5,
        "order0_entropy_bytes": 420.0,
        "codes_bytes": 400,
        "side_bytes": 60,
        "plain_bytes": 0,
        "header_bytes": 40,
        "overhead": 1.001,
        "sequences": 40,
        "float_loss": 3.0,
        "loss": 3.01,
        "loss_change": measured,
        "perplexity_change": measured,
        "kl": measured,
        "agreement": measured,
        "tokens_per_second": 10.0,
        "float_tokens_per_second": 11.0,
        "speed": measured,
        "seconds": 2.0,
        "arrays": [
            {"name": "a", "parameters": 1000, "bits_per_parameter": 3.2, "rise": math.nan, "expected_rise": 0.01}
        ],
        "pareto": [
            {"method": "ours", "setting": "4 bits", "bytes": 600, "perplexity_change": measured, "sequences": 40}
        ],
    }


def test_a_compression_is_passed_on_as_plain_json(make_arms, assemble, compression, tmp_path):
    found = assemble(make_arms(), compression=compression)
    validate_results(found)
    assert found["compression"]["kept"] is False and type(found["compression"]["bytes"]) is int
    assert found["compression"]["loss_change"] == {"estimate": 0.01, "ci95": [0.009, 0.011]}
    assert found["compression"]["arrays"][0]["rise"] is None
    results.write(tmp_path / "results.json", found)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == found


def test_without_a_compression_the_field_is_null_and_older_files_lack_it(make_arms, assemble):
    found = assemble(make_arms())
    assert found["compression"] is None
    del found["compression"]
    validate_results(found)


def test_what_a_compression_may_lack_may_be_null(make_arms, assemble, compression):
    unknown = {"estimate": None, "ci95": None}
    compression.update(speed=None, tokens_per_second=None, float_tokens_per_second=None, overhead=None)
    compression.update(loss=None, loss_change=unknown, kl=unknown, pareto=[], arrays=[])
    validate_results(assemble(make_arms(), compression=compression))


def _without(key):
    return lambda found: found.pop(key)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((_without(key), f"compression.{key} is missing") for key in ("arm", "kept", "speed", "pareto", "seconds")),
        (lambda c: c.update(kept=1), "compression.kept is int, not bool"),
        (lambda c: c.update(bytes=3.5), "compression.bytes is float, not int"),
        (lambda c: c.update(bytes=0), "compression.bytes is 0, not above zero"),
        (lambda c: c.update(parameters=-1), "compression.parameters is -1, not above zero"),
        (lambda c: c.update(ratio=None), "compression.ratio is NoneType"),
        (lambda c: c.update(speed=0.9), "compression.speed is float"),
        (lambda c: c["speed"].pop("ci95"), "compression.speed.ci95 is missing"),
        (lambda c: c["kl"].update(ci95=[2, 1]), r"compression.kl.ci95 is \[2, 1\]"),
        (lambda c: c["arrays"][0].pop("name"), r"compression.arrays\[0\].name is missing"),
        (lambda c: c["arrays"][0].update(expected_rise=None), r"compression.arrays\[0\].expected_rise is NoneType"),
        (lambda c: c["pareto"][0].update(bytes="600"), r"compression.pareto\[0\].bytes is str"),
        (lambda c: c["pareto"][0]["perplexity_change"].pop("estimate"), "perplexity_change.estimate is missing"),
        (lambda c: c.update(pareto=None), "compression.pareto is NoneType, not a list"),
    ],
)
def test_a_damaged_compression_is_named_by_field(make_arms, assemble, compression, damage, message):
    found = assemble(make_arms(), compression=compression)
    damage(found["compression"])
    with pytest.raises(ValueError, match=message):
        validate_results(found)


def test_a_compression_that_is_no_object_is_refused(make_arms, assemble):
    found = assemble(make_arms()) | {"compression": ["best.ryot"]}
    with pytest.raises(ValueError, match="compression is list, not an object"):
        validate_results(found)


@pytest.fixture
def decoding():
    """What a run found that generated with a checkpoint, with values of numpy and tuples as it has them."""
    return {
        "arm": "optimized",
        "step": 100,
        "engine": "cpu",
        "dtype": "bfloat16",
        "prompts": 32,
        "prompt_tokens": 16,
        "new_tokens": 48,
        "draft": "lookup",
        "tokens_per_second": np.float64(30_000.0),
        "speculative_tokens_per_second": 55_000.0,
        "speed": {"estimate": np.float64(1.8), "ci95": (1.7, 1.9)},
        "acceptance": 0.6,
        "tokens_per_step": 2.8,
        "identical": np.bool_(True),
        "identical_prompts": np.int64(32),
        "batch32_tokens_per_second": 90_000.0,
        "seconds": 4.0,
    }


def test_decoding_is_passed_on_as_plain_json(make_arms, assemble, decoding, tmp_path):
    found = assemble(make_arms(), decoding=decoding)
    validate_results(found)
    assert found["decoding"]["identical"] is True and found["decoding"]["speed"]["ci95"] == [1.7, 1.9]
    results.write(tmp_path / "results.json", found)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == found


def _time_to_loss():
    training = {
        "name": "schedule",
        "recipe": [],
        "phases": "50% of B x T",
        "learning_rate": 0.003,
        **dict.fromkeys(("steps", "tokens", "programs", "unplanned_compilations", "checks_failed"), 1),
        **dict.fromkeys(("tokens_share", "seconds", "compile_seconds", "loss", "kernels_seconds"), 0.5),
        "compiled_from_cache": False,
        "loss_difference": {"estimate": np.float64(-0.1), "ci95": (-0.2, -0.1)},
        "reached": True,
        **dict.fromkeys(("share_of_kernels", "share_of_baseline", "share_of_baseline_with_compile"), 0.5),
        "executed": [
            {"first_step": 0, "end_step": 10, "batch_size": 8, "seq_len": 8, "depth": 0, "rate": 1.0},
        ],
        "kinds": [
            {
                **dict.fromkeys(("batch_size", "seq_len", "depth", "steps"), 1),
                **dict.fromkeys(("seconds", "compile_seconds"), 0.5),
                "saved_seconds": None,
                "repaid": None,
            }
        ],
    }
    return {"target_loss": 3.5, "trainings": [training], "seconds": 1.0}


def test_schedule_and_recipe_are_passed_on_as_plain_json(make_arms, assemble):
    found = assemble(make_arms(), time_to_loss=_time_to_loss())
    validate_results(found)
    assert found["time_to_loss"]["trainings"][0]["loss_difference"] == {"estimate": -0.1, "ci95": [-0.2, -0.1]}
    assert found["criteria"] == assemble(make_arms())["criteria"], "they are shown, not judged"
    found = assemble(make_arms())
    assert found["time_to_loss"] is None
    del found["time_to_loss"]  # as older files
    validate_results(found)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("target_loss"), "time_to_loss.target_loss is missing"),
        (lambda t: t["trainings"][0].pop("reached"), r"time_to_loss.trainings\[0\].reached is missing"),
        (lambda t: t["trainings"][0]["executed"][0].update(depth=None), r"executed\[0\].depth is NoneType, not int"),
        (lambda t: t["trainings"][0]["loss_difference"].update(ci95=[1, 0]), r"loss_difference.ci95 is \[1, 0\]"),
    ],
)
def test_a_damaged_time_to_loss_is_no_results_file(make_arms, assemble, damage, message):
    found = assemble(make_arms(), time_to_loss=_time_to_loss())
    damage(found["time_to_loss"])
    with pytest.raises(ValueError, match=message):
        validate_results(found)


def test_without_decoding_the_field_is_null_and_older_files_lack_it(make_arms, assemble):
    found = assemble(make_arms())
    assert found["decoding"] is None
    del found["decoding"]
    validate_results(found)


def test_what_decoding_did_not_measure_may_be_null(make_arms, assemble, decoding):
    unknown = ("tokens_per_second", "speculative_tokens_per_second", "batch32_tokens_per_second", "speed", "acceptance")
    decoding.update(dict.fromkeys((*unknown, "tokens_per_step", "identical", "identical_prompts")))
    found = assemble(make_arms(), decoding=decoding)
    validate_results(found)
    assert found["criteria"] == assemble(make_arms())["criteria"]


@pytest.mark.parametrize(
    ("engine", "same", "verdict"), [("cpu", 32, "PASS"), ("cpu", 31, "FAIL"), ("reference", 31, None)]
)
def test_a_draft_that_changes_a_token_fails_the_run_where_the_engine_forbids_it(
    make_arms, assemble, decoding, engine, same, verdict
):
    decoding.update(engine=engine, identical=same == 32, identical_prompts=same)
    found = assemble(make_arms(), decoding=decoding)
    verdicts = {c["name"]: c["verdict"] for c in found["criteria"]}
    assert verdicts.get("speculation_changes_no_token") == verdict
    assert found["verdict"] == (verdict or "PASS")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *(
            (lambda d, k=key: d.pop(k), f"decoding.{key} is missing")
            for key in ("engine", "identical", "speed", "step")
        ),
        (lambda d: d.update(identical=1), "decoding.identical is int, not bool or NoneType"),
        (lambda d: d.update(prompts=None), "decoding.prompts is NoneType, not int"),
        (lambda d: d.update(speed=1.8), "decoding.speed is float"),
        (lambda d: d["speed"].update(ci95=[2, 1]), r"decoding.speed.ci95 is \[2, 1\]"),
    ],
)
def test_damaged_decoding_is_named_by_field(make_arms, assemble, decoding, damage, message):
    found = assemble(make_arms(), decoding=decoding)
    damage(found["decoding"])
    with pytest.raises(ValueError, match=message):
        validate_results(found)


def test_decoding_that_is_no_object_is_refused(make_arms, assemble):
    found = assemble(make_arms()) | {"decoding": [30_000.0]}
    with pytest.raises(ValueError, match="decoding is list, not an object"):
        validate_results(found)


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
