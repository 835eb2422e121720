import json

import jax
import numpy as np
import pytest

from ryot_jax.data.tokenizer import byte_tokenizer
from ryot_jax.model import functional
from ryot_jax.runs.checkpoint_of_run import restore
from ryot_jax.runs.session import open_session
from ryot_jax.runtime.errors import CheckpointError
from ryot_jax.training.optimizer import evaluation_params
from tests import command_lines


def restored(run, *words):
    command = command_lines.parse(["generate", f"--run={run.directory.path}", "--prompt=x", *words])
    return restore(open_session(command.config, print, cached_programs=False), command.chosen)


@pytest.mark.parametrize(
    ("words", "arm", "step"),
    [
        ([], "optimized", 5),
        (["--checkpoint=latest"], "optimized", 9),
        (["--arm=baseline", "--checkpoint=best"], "baseline", 5),
    ],
)
def test_the_checkpoint_that_was_asked_for(make_run, words, arm, step):
    run = make_run()
    found = restored(run, *words)
    assert found.step == step
    assert found.directory == run.directory
    assert found.tokenizer.encode("def value") and found.require_tokenizer() is found.tokenizer
    assert (found.model.d_model, found.model.compute_dtype) == (16, "float32")
    jax.tree.map(np.testing.assert_array_equal, found.params, run.states[arm, step].params)
    shapes = jax.eval_shape(lambda: functional.init(found.model, 0)[1])
    assert jax.tree.structure(found.params) == jax.tree.structure(shapes)
    assert hash(found.graphdef) == hash(functional.graph(found.model))


def test_stacked_layers_stay_stacked(make_run):
    run = make_run(**{"model.scan_layers": True})
    found = restored(run)
    assert found.params["blocks"]["mlp"]["up"]["kernel"].shape == (2, 16, 24)
    jax.tree.map(np.testing.assert_array_equal, found.params, run.states["optimized", 5].params)


def test_the_parameters_of_schedule_free_are_its_average(make_run):
    run = make_run(**{"training.optimizer": "schedule_free", "training.schedule": "constant"})
    found, state = restored(run), run.states["optimized", 5]
    assert not np.allclose(found.params["embedding"], state.params["embedding"], atol=0.01)
    average = evaluation_params("schedule_free", state)
    jax.tree.map(np.testing.assert_array_equal, found.params, average)


def test_a_run_without_a_tokenizer_has_none(make_run):
    found = restored(make_run(tokenizer=None))
    assert found.tokenizer is None
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json.*tokenizer\.kind = 'file'"):
        found.require_tokenizer()


def test_another_tokenizer_is_refused(make_run):
    run = make_run()
    run.directory.tokenizer.write_text(byte_tokenizer(300).to_json(), encoding="utf-8")
    with pytest.raises(CheckpointError, match="is not the tokenizer that the run was trained with; restore it"):
        restored(run)


def test_another_model_and_a_checkpoint_that_is_not_there_are_named(make_run):
    run = make_run()
    config = json.loads(run.directory.config.read_text(encoding="utf-8"))
    config["model"]["d_ff"] = 32
    run.directory.config.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"of another model or optimizer: params\..*mlp\.down\.kernel"):
        restored(run)
    (run.directory.checkpoints / "baseline").rename(run.directory.path / "aside")
    with pytest.raises(CheckpointError, match=r"no checkpoint directory .*baseline"):
        restored(run, "--arm=baseline")
