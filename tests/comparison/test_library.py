"""`compare` on programs that are not ours: softmax regression on made-up data, with steps that somebody brings."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.comparison import compare
from ryot_jax.comparison.results import decode
from ryot_jax.runtime.errors import ConfigError, NonFiniteLossError

CLASSES, WIDTH, BATCH = 5, 8, 64
FAST = {"steps": 40, "block_steps": 10, "control_blocks": 4, "control_steps": 10}


def _batch(step):
    rng = np.random.default_rng((1, step))
    labels = rng.integers(0, CLASSES, BATCH)
    return {"x": np.eye(CLASSES, WIDTH, dtype=np.float32)[labels] + rng.normal(0, 0.1, (BATCH, WIDTH)), "y": labels}


def _losses(w, batch):
    logits = jnp.asarray(batch["x"], jnp.float32) @ w
    return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, batch["y"][:, None], axis=-1)[:, 0]


def _step(w, batch, rate=0.5):
    loss, gradient = jax.value_and_grad(lambda w: jnp.mean(_losses(w, batch)))(w)
    return w - rate * gradient, {"loss": loss}


def _slow_step(w, batch, rounds=60):
    """The same with work that comes to nothing but cannot be left out."""
    waste = jax.lax.fori_loop(0, rounds, lambda _, a: jnp.tanh(a @ a), jnp.eye(96) * 0.5 + jnp.sum(w))
    w, metrics = _step(w, batch)
    return w + 1e-20 * jnp.sum(waste), metrics


def _very_slow_step(w, batch):
    return _slow_step(w, batch, rounds=400)


def _evaluate(w):
    return _losses(w, _batch(10_000))


STATE = jnp.zeros((WIDTH, CLASSES))


@pytest.fixture(scope="module")
def compared():
    lines = []
    found = compare(
        _slow_step, _step, STATE, _batch, evaluate=_evaluate, items_per_step=BATCH, log=lines.append, **FAST
    )
    return found, lines


def test_a_faster_step_of_the_same_numbers_is_found(compared):
    found, lines = compared
    verdicts = {c.name: c.verdict for c in found.results.criteria}
    assert found.speedup > 1  # by some ten times
    certain = {verdicts[name] for name in ("trains_end_to_end", "loss_falls", "loss_within_0.1", "no_divergence")}
    assert certain == {"PASS"}
    assert verdicts["speedup_above_zero"] in ("PASS", "INCONCLUSIVE")  # as the noise floor of a busy machine wants it
    assert found.results.comparison.heldout_loss_difference.pairs == BATCH
    assert any(line.startswith("block pair 4 of 4") for line in lines)


def test_the_outcome_is_a_results_file_and_has_a_summary(compared):
    found, _ = compared
    assert decode(json.loads(found.to_json())) == found.results
    assert found.verdict in found.summary() and "speed" in found.summary()
    assert {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}[found.verdict] == found.exit_code
    assert [control.name for control in found.results.controls.items] == ["placebo", "known_delay"]


def test_the_report_is_one_file(compared, tmp_path):
    path = compared[0].report(tmp_path / "new" / "report.html")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and compared[0].verdict in text
    assert compared[0].verdict in compared[0]._repr_html_()


def test_losses_of_training_stand_in_where_nothing_is_held_out():
    found = compare(_slow_step, _step, STATE, [_batch(0), _batch(1)], **{**FAST, "control_blocks": 0})
    difference = found.results.comparison.heldout_loss_difference
    assert (difference.unit, difference.pairs) == ("block pair", 2)
    assert found.results.controls is None
    assert found.results.comparison.time_to_target.target_loss is None


def test_a_better_loss_from_a_step_that_promises_the_same_numbers_is_a_defect():
    def better(w, batch):
        return _step(w, batch, rate=2.0)

    promised = compare(_step, better, STATE, _batch, evaluate=_evaluate, same_numerics=True, **FAST)
    worded = {c.name: c for c in promised.results.criteria}["loss_within_0.02"]
    assert worded.verdict == "FAIL" and "a defect and not a gain" in worded.actual
    assert promised.verdict in ("FAIL", "INCONCLUSIVE")


def test_shuffled_labels_are_one_more_control():
    def shuffle(rng, batch):
        return {**batch, "y": rng.permutation(batch["y"])}

    found = compare(_slow_step, _step, STATE, _batch, shuffle=shuffle, evaluate=_evaluate, **FAST)
    control = found.results.controls.items[2]
    assert (control.name, control.verdict) == ("shuffled_targets", "PASS")
    no_shuffle = compare(_slow_step, _step, STATE, _batch, shuffle=lambda rng, batch: batch, evaluate=_evaluate, **FAST)
    assert no_shuffle.results.controls.items[2].verdict == "FAIL"
    assert no_shuffle.verdict == "INCONCLUSIVE"


def test_guessing_is_no_learning():
    """A loss that falls from a bad start to what guessing gives has fallen by far more than 5 %."""
    bad_start = jnp.eye(WIDTH, CLASSES) * -4
    chance = float(np.log(CLASSES))

    def shuffle(rng, batch):
        return {**batch, "y": rng.permutation(batch["y"])}

    found = [
        compare(_slow_step, _step, bad_start, _batch, evaluate=_evaluate, shuffle=shuffle, chance_loss=limit, **FAST)
        for limit in (None, chance)
    ]
    assert [one.results.controls.items[2].verdict for one in found] == ["FAIL", "PASS"]
    assert "beats_chance_entropy" in {criterion.name for criterion in found[1].results.criteria}


def test_steps_may_be_jitted_already_and_may_donate_their_state():
    donating = jax.jit(_step, donate_argnums=0)
    compare(jax.jit(_slow_step), donating, STATE, _batch, **{**FAST, "control_blocks": 0})
    assert not STATE.is_deleted()


def test_steps_that_cannot_be_compiled_are_called_as_they_are():
    def python_step(w, batch):
        return w - 0.1 * np.ones_like(w), float(np.mean(batch["x"]) + 2)

    found = compare(python_step, python_step, np.zeros(3), _batch, jit=False, **{**FAST, "control_blocks": 0})
    assert any("were not compiled" in warning for warning in found.results.warnings)


def test_two_steps_that_compile_to_one_program_are_an_error():
    with pytest.raises(ConfigError, match="compile to the same program"):
        compare(_step, lambda w, batch: _step(w, batch), STATE, _batch, **FAST)


def test_a_loss_that_is_not_finite_is_an_error():
    with pytest.raises(NonFiniteLossError, match="'optimized', step 1"):
        compare(_step, lambda w, batch: _step(w, batch, rate=jnp.inf), STATE, _batch, **FAST)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 10}, "steps=10 must be two or more times block_steps=10"),
        ({"steps": 45}, "steps=45"),
        ({"items_per_step": 0}, "items_per_step=0"),
        ({"names": ("a", "a")}, "two different names"),
        ({"tight_margin": 0.2}, "tight_margin=0.2"),
        ({"control_blocks": 1}, "control_blocks=1"),
        ({"evaluate": lambda w: jnp.zeros(())}, r"losses\[n\]"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        compare(_slow_step, _step, STATE, _batch, **{**FAST, **changes})


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda w, batch: w, "must return two things"),
        (lambda w, batch: (w, {"nll": jnp.zeros(())}), "must have 'loss'"),
        (lambda w, batch: (w, jnp.zeros(3)), "must be a scalar"),
        (lambda w, batch: (w[:1], jnp.zeros(())), "of the structure, shapes and dtypes"),
    ],
)
def test_steps_that_are_no_training_steps_are_named(step, message):
    with pytest.raises(ConfigError, match=message):
        compare(_step, step, STATE, _batch, **FAST)


@pytest.mark.parametrize("batches", [[], 3])
def test_batches_must_be_a_function_or_a_sequence(batches):
    with pytest.raises(ConfigError, match="batches must be"):
        compare(_slow_step, _step, STATE, batches, **FAST)


def test_a_state_without_arrays_is_refused():
    with pytest.raises(ConfigError, match="no array"):
        compare(_slow_step, _step, {}, _batch, **FAST)


def test_a_step_that_is_many_times_as_fast_passes_through_the_whole_comparison():
    """For real, and certain: the first step does hundreds of times the work of the second, for the same numbers."""
    found = compare(
        _very_slow_step, _step, STATE, _batch, evaluate=_evaluate, steps=80, block_steps=10, control_blocks=0,
        same_numerics=True,
    )  # fmt: skip
    assert {criterion.name: criterion.verdict for criterion in found.results.criteria} == dict.fromkeys(
        ("trains_end_to_end", "loss_falls", "speedup_above_zero", "throughput_up", "loss_within_0.1",
         "loss_within_0.02", "no_divergence"),
        "PASS",
    )  # fmt: skip
    assert (found.verdict, found.exit_code) == ("PASS", 0)
    assert found.summary().startswith("PASS: optimized is ")
    stated = {estimand.decides for estimand in found.results.estimands.items} - {""}
    assert stated == {criterion.name for criterion in found.results.criteria}
