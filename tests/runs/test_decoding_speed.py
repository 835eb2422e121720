"""How fast a checkpoint generates, at the end of a training run: measured once, and compared token by token."""

import json
import types

import numpy as np
import pytest

from ryot_jax import decoding
from ryot_jax.comparison.results import convert, settled, to_text
from ryot_jax.comparison.schema import DecodingResult
from ryot_jax.data.pipeline import prepare
from ryot_jax.runs import checkpoint_of_run, decoding_speed, redraw
from ryot_jax.runs.chosen_checkpoint import best_of
from ryot_jax.runs.run import Run
from ryot_jax.runs.session import open_session
from ryot_jax.runs.stage import Stages
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import ConfigError
from tests import command_lines

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")

BEST, OTHER = 5, 9  # steps


@pytest.fixture(autouse=True)
def _one_round(monkeypatch):
    monkeypatch.setattr(decoding_speed, "_SECONDS", 0.0)


def _corpus(run):
    return prepare(run.config.data, run.config.tokenizer, run.config.model.vocab_size, lambda line: None)


def _measured(run):
    chosen = best_of(run.directory, "optimized")
    checkpoint = checkpoint_of_run.restore(open_session(run.config, print, cached_programs=False), chosen)
    found = decoding_speed.measure(checkpoint, chosen, _corpus(run), Console())
    assert settled(found) == convert(json.loads(to_text(found)), DecodingResult)
    return found


def test_what_is_found_has_the_shape_that_reports_read(trained):
    found = _measured(trained)
    assert (found.arm, found.step, found.draft) == ("optimized", BEST, "lookup")
    assert (found.prompts, found.prompt_tokens, found.new_tokens) == (32, 8, 24)
    assert found.engine in ("cpu", "reference") and found.seconds > 0
    for name in ("tokens_per_second", "speculative_tokens_per_second", "batch32_tokens_per_second"):
        assert getattr(found, name) > 0, name
    assert found.speed.ci95[0] < found.speed.estimate < found.speed.ci95[1]
    assert 0 <= found.acceptance <= 1 <= found.tokens_per_step <= 1 + decoding.DRAFT_LENGTH
    if found.engine == "cpu":
        assert found.identical and found.identical_prompts == 32


def test_a_token_that_a_draft_changes_is_found(trained, monkeypatch):
    calls, generate = [], decoding.generate

    def changed(decoder, prompt_BS, *, speculation=None, **arguments):
        made = generate(decoder, prompt_BS, **arguments)
        if speculation is not None:
            calls.append(np.asarray(prompt_BS))
            if (calls[-1] == calls[0]).all():
                made = made._replace(ids_BN=made.ids_BN.at[0, -1].add(1))
        return made

    monkeypatch.setattr(decoding, "generate", changed)
    found = _measured(trained)
    assert len(calls) == 1 + 32, "one call to compile, one round"
    assert not found.identical
    assert found.identical_prompts == 32 - sum((prompt_BS == calls[0]).all() for prompt_BS in calls[1:]) < 32
    assert found.acceptance is None and found.tokens_per_step == 1.0, "no draft was checked"


def test_a_model_without_room_for_a_new_token_is_not_timed(make_run, trained):
    fields = {"data.source": "text", "data.path": trained.config.data.path, "data.cache_dir": ""}
    run = make_run("20260101T000001Z-short", **fields, **{"model.max_len": 1, "training.seq_len": 1})
    found = _measured(run)
    assert (found.prompt_tokens, found.new_tokens) == (1, 0)
    assert found.tokens_per_second is found.speed is found.identical is None


def test_of_little_text_there_are_as_many_prompts_as_it_has(trained):
    prompt_BS = decoding_speed._prompts(np.arange(3 * 17 + 5, dtype=np.uint16), trained.config, 8)
    np.testing.assert_array_equal(prompt_BS, np.add.outer([0, 17, 34], np.arange(8)))


@pytest.mark.parametrize(
    ("seconds_of_a_round", "rounds"), [(10.0, 1), (2.0, 2), (1.4, 4), (1.0, 4), (0.15, 16), (0.01, 16)]
)
def test_each_way_goes_first_as_often_as_the_other_where_there_is_time(monkeypatch, seconds_of_a_round, rounds):
    monkeypatch.setattr(decoding_speed, "_SECONDS", 3.0)
    done = next(n for n in range(100) if decoding_speed._enough(n, n * seconds_of_a_round))
    assert done == rounds


def _end_of(run, *, resumed):
    session = open_session(run.config, print, cached_programs=False)
    stages = Stages(Run(session, run.directory, Console(), command_lines.UNTOUCHED, resumed))
    return stages(decoding_speed.STAGE, "optimized"), stages.warnings


def _before(**changes):
    """What an earlier end of the run found."""
    fields = dict.fromkeys(DecodingResult.__struct_fields__)
    return DecodingResult(**{**fields, "arm": "optimized", "step": BEST, "tokens_per_second": 1.0, **changes})


def _has_results(monkeypatch, decoding):
    monkeypatch.setattr(redraw, "read", lambda path: types.SimpleNamespace(decoding=decoding))


def test_a_run_that_is_resumed_takes_what_was_measured_before(trained, monkeypatch):
    _has_results(monkeypatch, _before())
    assert _end_of(trained, resumed=True) == (_before(), [])
    measured, _ = _end_of(trained, resumed=False)
    assert measured.tokens_per_second > 1.0


@pytest.mark.parametrize("before", [None, _before(step=OTHER), _before(arm="baseline")])
def test_what_another_checkpoint_came_to_does_not_count(trained, monkeypatch, before):
    _has_results(monkeypatch, before)
    found, warnings = _end_of(trained, resumed=True)
    assert found.prompts == 32 and warnings == []


def test_results_that_are_damaged_do_not_keep_a_run_from_its_end(trained):
    trained.directory.results.write_text("{", encoding="utf-8")
    assert _end_of(trained, resumed=True)[0].prompts == 32


def test_what_fails_is_a_warning_and_what_is_off_is_none(trained, monkeypatch):
    def fail(*arguments):
        raise ConfigError("no engine")

    monkeypatch.setattr(decoding_speed, "measure", fail)
    assert _end_of(trained, resumed=False) == (None, ["Decoding was not measured: no engine."])
    for field in ("decoding", "checkpoint"):
        trained.config[field].enabled = False
        assert _end_of(trained, resumed=False) == (None, [])
        trained.config[field].enabled = True
