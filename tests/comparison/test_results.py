"""`results.json`: complete, of the stated shape, strict JSON, and right in its numbers."""

import json
import math

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from ryot_jax.comparison import results
from ryot_jax.comparison.outcomes import TrainingPair
from ryot_jax.comparison.schema import (
    CompressedGroup,
    CompressionResult,
    DecodingResult,
    ExecutedSteps,
    Measured,
    Results,
    Settings,
    StepKind,
    TimeToLoss,
    TradeOffPoint,
    Training,
)
from ryot_jax.runtime.json_values import plain


def test_results_have_the_stated_shape_and_survive_the_file(make_arms, assemble, tmp_path):
    found = assemble(make_arms())
    results.write(tmp_path / "results.json", found)
    assert results.read(tmp_path / "results.json") == found
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["schema_version"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_faster_arm_of_equal_loss_passes(make_arms, assemble):
    found = assemble(make_arms())
    speed = found.comparison.step_time_speedup
    assert found.verdict == "PASS"
    assert speed.estimate == pytest.approx(1.25, rel=0.02)
    assert speed.ci95[0] < 1.25 < speed.ci95[1]
    assert speed.pairs == len(speed.blocks) == 12
    assert found.comparison.heldout_loss_difference.pairs == 40


def test_two_arms_of_one_speed_are_not_called_faster(make_arms, assemble):
    assert assemble(make_arms(step_seconds=0.01)).verdict in ("FAIL", "INCONCLUSIVE")


def test_a_slower_arm_and_a_worse_loss_fail(make_arms, assemble):
    verdicts = {c.name: c.verdict for c in assemble(make_arms(step_seconds=0.02)).criteria}
    assert (verdicts["speedup_above_zero"], verdicts["throughput_up"]) == ("FAIL", "FAIL")
    worse = {c.name: c.verdict for c in assemble(make_arms(loss_offset=0.05)).criteria}
    assert (worse["loss_within_0.1"], worse["loss_no_worse_by_0.02"]) == ("PASS", "FAIL")  # bfloat16: statistical


def test_random_labels_fail_the_learning_criteria(make_arms, assemble):
    # Labels without information leave the loss where the unigram entropy is, at best.
    found = assemble(make_arms(end_loss=6.9))
    failed = {c.name for c in found.criteria if c.verdict == "FAIL"}
    assert {"loss_falls", "beats_unigram_entropy", "beats_bigram_entropy"} <= failed
    assert found.verdict == "FAIL"


def test_an_arms_numbers_are_sums_over_its_blocks(make_arms, assemble):
    found = assemble(make_arms())
    arm = found.arms["baseline"]
    blocks = found.comparison.step_time_speedup.blocks
    assert arm.tokens == 100 * 64
    assert arm.train_seconds == pytest.approx(sum(b.seconds["baseline"] for b in blocks))
    assert arm.tokens_per_second == pytest.approx(arm.tokens / arm.train_seconds)
    assert sum(e.seconds for e in arm.epochs) == pytest.approx(arm.train_seconds)
    assert arm.compile_seconds == 2.75
    assert arm.epochs[0].train_loss == pytest.approx(3 + 4 * np.mean(0.9 ** np.arange(25)))
    assert (arm.best_step, arm.best_heldout_loss) == (100, pytest.approx(arm.final_heldout_loss))


def test_one_arm_alone_has_no_comparison(make_arms, assemble):
    found = assemble(make_arms()[:1])
    assert found.comparison is None and found.verdict == "PASS"


def test_nan_becomes_null_and_fails(make_arms, assemble, tmp_path):
    found = assemble(make_arms(loss_offset=math.nan))
    assert found.verdict == "FAIL"
    assert found.arms["optimized"].final_heldout_loss is None
    assert found.arms["optimized"].best_step is None
    assert found.comparison.heldout_loss_difference.estimate is None
    results.write(tmp_path / "results.json", found)
    assert "NaN" not in (tmp_path / "results.json").read_text(encoding="utf-8")


def test_plain_turns_numpy_and_non_finite_values_into_json():
    value = {"a": np.float32(1.5), "b": (np.int64(2), math.inf), "c": np.array([1.0, math.nan])}
    assert plain(value) == {"a": 1.5, "b": [2, None], "c": [1.0, None]}


def values(found):
    """The content of the file, for damaging it."""
    return json.loads(results.to_text(found))


@pytest.fixture
def compression():
    """What a run found that compressed a checkpoint, with values of numpy as it has them."""
    measured = Measured(estimate=np.float64(0.01), ci95=(0.009, 0.011))
    return CompressionResult(
        arm="optimized",
        step=100,
        budget="perplexity<=1%",
        kept=np.bool_(False),
        file="best.ryot",
        parameters=1000,
        training_tokens=6400,
        bytes=np.int64(500),
        float_bytes=4000,
        ratio=8.0,
        bits_per_parameter=4.0,
        lossless_bytes=3600,
        lossless_coder="lzma",
        entropy_bytes=399.5,
        order0_entropy_bytes=420.0,
        codes_bytes=400,
        side_bytes=60,
        plain_bytes=0,
        header_bytes=40,
        overhead=1.001,
        sequences=40,
        float_loss=3.0,
        loss=3.01,
        loss_change=measured,
        perplexity_change=measured,
        kl=measured,
        agreement=measured,
        tokens_per_second=10.0,
        float_tokens_per_second=11.0,
        speed=measured,
        seconds=2.0,
        arrays=(CompressedGroup(name="a", parameters=1000, bits_per_parameter=3.2, rise=math.nan, expected_rise=0.01),),
        pareto=(TradeOffPoint(method="ours", setting="4 bits", bytes=600, perplexity_change=measured, sequences=40),),
    )


def test_a_compression_is_passed_on_as_plain_json(make_arms, assemble, compression, tmp_path):
    found = assemble(make_arms(), compression=compression)
    assert found.compression.kept is False and type(found.compression.bytes) is int
    assert values(found)["compression"]["loss_change"] == {"estimate": 0.01, "ci95": [0.009, 0.011]}
    assert found.compression.arrays[0].rise is None
    results.write(tmp_path / "results.json", found)
    assert results.read(tmp_path / "results.json") == found


@pytest.mark.parametrize("field", ["compression", "decoding", "time_to_loss"])
def test_what_was_not_done_is_null_and_older_files_lack_it(make_arms, assemble, field):
    found = assemble(make_arms())
    assert getattr(found, field) is None
    older = values(found)
    del older[field]
    assert results.decode(older) == found


def test_what_a_compression_may_lack_may_be_null(make_arms, assemble, compression):
    unknown = Measured(estimate=None, ci95=None)
    compression = replace(
        compression, speed=None, tokens_per_second=None, float_tokens_per_second=None, overhead=None,
        loss=None, loss_change=unknown, kl=unknown, pareto=(), arrays=(),
    )  # fmt: skip
    found = assemble(make_arms(), compression=compression)
    assert results.decode(values(found)) == found


def _without(key):
    return lambda found: found.pop(key)


def _refused(found, damage):
    """The error about a file that was damaged."""
    damaged = values(found)
    damage(damaged)
    with pytest.raises(ValueError, match=r"not a results file of this program: |schema_version") as caught:
        results.decode(damaged)
    return str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((_without(key), f"compression.{key} is missing") for key in ("arm", "kept", "speed", "pareto", "seconds")),
        (lambda c: c.update(kept=1), "compression.kept is int, not bool"),
        (lambda c: c.update(bytes=3.5), "compression.bytes is float, not int"),
        (lambda c: c.update(bytes=0), "compression.bytes is 0, not above zero"),
        (lambda c: c.update(parameters=-1), "compression.parameters is -1, not above zero"),
        (lambda c: c.update(ratio=None), "compression.ratio is null"),
        (lambda c: c.update(speed=0.9), "compression.speed is float"),
        (lambda c: c["speed"].pop("ci95"), "compression.speed.ci95 is missing"),
        (lambda c: c["kl"].update(ci95=[2, 1]), "compression.kl.ci95 is [2.0, 1.0]"),
        (lambda c: c["arrays"][0].pop("name"), "compression.arrays[0].name is missing"),
        (lambda c: c["arrays"][0].update(expected_rise=None), "compression.arrays[0].expected_rise is null"),
        (lambda c: c["pareto"][0].update(bytes="600"), "compression.pareto[0].bytes is str"),
        (lambda c: c["pareto"][0]["perplexity_change"].pop("estimate"), "perplexity_change.estimate is missing"),
        (lambda c: c.update(pareto=None), "compression.pareto is null, not a list"),
    ],
)
def test_a_damaged_compression_is_named_by_field(make_arms, assemble, compression, damage, message):
    found = assemble(make_arms(), compression=compression)
    assert message in _refused(found, lambda file: damage(file["compression"]))


@pytest.mark.parametrize("field", ["compression", "decoding"])
def test_what_is_no_object_is_refused(make_arms, assemble, field):
    said = _refused(assemble(make_arms()), lambda file: file.update({field: ["best.ryot"]}))
    assert f"{field} is a list, not an object" in said


@pytest.fixture
def decoding():
    """What a run found that generated with a checkpoint, with values of numpy as it has them."""
    return DecodingResult(
        arm="optimized",
        step=100,
        engine="cpu",
        dtype="bfloat16",
        prompts=32,
        prompt_tokens=16,
        new_tokens=48,
        draft="lookup",
        tokens_per_second=np.float64(30_000.0),
        speculative_tokens_per_second=55_000.0,
        speed=Measured(estimate=np.float64(1.8), ci95=(1.7, 1.9)),
        acceptance=0.6,
        tokens_per_step=2.8,
        identical=np.bool_(True),
        identical_prompts=np.int64(32),
        batch32_tokens_per_second=90_000.0,
        seconds=4.0,
    )


def test_decoding_is_passed_on_as_plain_json(make_arms, assemble, decoding, tmp_path):
    found = assemble(make_arms(), decoding=decoding)
    assert found.decoding.identical is True and values(found)["decoding"]["speed"]["ci95"] == [1.7, 1.9]
    results.write(tmp_path / "results.json", found)
    assert results.read(tmp_path / "results.json") == found


@pytest.fixture
def time_to_loss():
    """One training by a schedule."""
    training = Training(
        name="schedule",
        recipe=(),
        phases="50% of B x T",
        learning_rate=0.003,
        **dict.fromkeys(("steps", "tokens", "programs", "unplanned_compilations", "checks_failed"), 1),
        **dict.fromkeys(("tokens_share", "seconds", "compile_seconds", "loss", "kernels_seconds"), 0.5),
        compiled_from_cache=False,
        loss_difference=Measured(estimate=np.float64(-0.1), ci95=(-0.2, -0.1)),
        reached=True,
        **dict.fromkeys(("share_of_kernels", "share_of_baseline", "share_of_baseline_with_compile"), 0.5),
        executed=(ExecutedSteps(first_step=0, end_step=10, batch_size=8, seq_len=8, depth=0, rate=1.0),),
        kinds=(
            StepKind(
                **dict.fromkeys(("batch_size", "seq_len", "depth", "steps"), 1),
                **dict.fromkeys(("seconds", "compile_seconds"), 0.5),
                saved_seconds=None,
                repaid=None,
            ),
        ),
    )
    return TimeToLoss(target_loss=3.5, trainings=(training,), seconds=1.0)


def test_schedule_and_recipe_are_passed_on_as_plain_json(make_arms, assemble, time_to_loss):
    found = assemble(make_arms(), time_to_loss=time_to_loss)
    assert results.decode(values(found)) == found
    difference = values(found)["time_to_loss"]["trainings"][0]["loss_difference"]
    assert difference == {"estimate": -0.1, "ci95": [-0.2, -0.1]}
    assert found.criteria == assemble(make_arms()).criteria, "they are shown, not judged"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("target_loss"), "time_to_loss.target_loss is missing"),
        (lambda t: t["trainings"][0].pop("reached"), "time_to_loss.trainings[0].reached is missing"),
        (lambda t: t["trainings"][0]["executed"][0].update(depth=None), "executed[0].depth is null, not int"),
        (lambda t: t["trainings"][0]["loss_difference"].update(ci95=[1, 0]), "loss_difference.ci95 is [1.0, 0.0]"),
    ],
)
def test_a_damaged_time_to_loss_is_no_results_file(make_arms, assemble, time_to_loss, damage, message):
    found = assemble(make_arms(), time_to_loss=time_to_loss)
    assert message in _refused(found, lambda file: damage(file["time_to_loss"]))


def test_what_decoding_did_not_measure_may_be_null(make_arms, assemble, decoding):
    unknown = ("tokens_per_second", "speculative_tokens_per_second", "batch32_tokens_per_second", "speed", "acceptance")
    decoding = replace(decoding, **dict.fromkeys((*unknown, "tokens_per_step", "identical", "identical_prompts")))
    found = assemble(make_arms(), decoding=decoding)
    assert results.decode(values(found)) == found
    assert found.criteria == assemble(make_arms()).criteria


@pytest.mark.parametrize(
    ("engine", "same", "verdict"), [("cpu", 32, "PASS"), ("cpu", 31, "FAIL"), ("reference", 31, None)]
)
def test_a_draft_that_changes_a_token_fails_the_run_where_the_engine_forbids_it(
    make_arms, assemble, decoding, engine, same, verdict
):
    decoding = replace(decoding, engine=engine, identical=same == 32, identical_prompts=same)
    found = assemble(make_arms(), decoding=decoding)
    verdicts = {c.name: c.verdict for c in found.criteria}
    assert verdicts.get("speculation_changes_no_token") == verdict
    assert found.verdict == (verdict or "PASS")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((_without(key), f"decoding.{key} is missing") for key in ("engine", "identical", "speed", "step")),
        (lambda d: d.update(identical=1), "decoding.identical is int, not bool or null"),
        (lambda d: d.update(prompts=None), "decoding.prompts is null, not int"),
        (lambda d: d.update(speed=1.8), "decoding.speed is float"),
        (lambda d: d["speed"].update(ci95=[2, 1]), "decoding.speed.ci95 is [2.0, 1.0]"),
    ],
)
def test_damaged_decoding_is_named_by_field(make_arms, assemble, decoding, damage, message):
    found = assemble(make_arms(), decoding=decoding)
    assert message in _refused(found, lambda file: damage(file["decoding"]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r.pop("verdict"), "results.verdict is missing"),
        (lambda r: r.update(schema_version=4), "schema_version is 4, not 3"),
        (lambda r: r.update(verdict="GREAT"), "verdict 'GREAT' is none of PASS, FAIL, INCONCLUSIVE"),
        (lambda r: r["arms"]["baseline"].update(steps=1.5), "results.arms.baseline.steps is float, not int"),
        (lambda r: r["arms"]["optimized"].pop("tokens"), "results.arms.optimized.tokens is missing"),
        (lambda r: r["comparison"]["step_time_speedup"].update(ci95=[2, 1]), "step_time_speedup.ci95 is"),
        (lambda r: r["criteria"][0].pop("target"), "criteria[0].target is missing"),
        (lambda r: r["criteria"][0]["readings"][0].pop("unit"), "criteria[0].readings[0].unit is missing"),
        (lambda r: r["data"].pop("entropies"), "data.entropies is missing"),
        (lambda r: r.update(comparison=None), "comparison is wanted"),
        (lambda r: r["comparison"].update(baseline="x"), "comparison is of other arms than baseline, optimized"),
    ],
)
def test_a_damaged_file_is_named_by_field(make_arms, assemble, damage, message):
    assert message in _refused(assemble(make_arms()), damage)


def test_the_schema_is_json_schema_and_names_every_field(make_arms, assemble):
    schema = msgspec.json.schema(Results)
    assert set(schema["$defs"]["Results"]["properties"]) == set(values(assemble(make_arms())))
    assert "estimate" in schema["$defs"]["StepTimeSpeedup"]["required"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_has_to_be_finite_is_refused(make_arms, assemble, decoding, value):
    with pytest.raises(ValueError, match=r"decoding\.seconds is null, not float"):
        assemble(make_arms(), decoding=replace(decoding, seconds=value))


def test_settings_of_another_number_of_arms_are_refused(make_arms, run, schedule):
    measured = results.Measurements([TrainingPair(0, run(make_arms()))])
    facts = [results.ArmFacts(name, 1, {}, None) for name in ("baseline", "optimized")]
    with pytest.raises(ValueError, match=r"settings\.arms is 1, and there are 2 arms"):
        results.assemble(
            measured, facts, schedule, Settings(0.1, 0.02, "", arms=1),
            name="", data={}, entropies={}, manifest={}, artifacts={},
        )  # fmt: skip
