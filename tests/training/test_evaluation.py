"""The held-out loss: every target once, in float64, by one program."""

import jax
import numpy as np
import pytest

from ryot_jax.training.evaluation import make_evaluator


@pytest.fixture
def heldout(tiny):
    """Three batches of eight; the last three rows are padding."""
    batch = tiny.make_batch(rows=24)
    batch["targets"][batch["targets"] < 0] = 0
    batch["targets"][:, -1] = np.where(np.arange(24) % 2, -1, 3)
    batch["targets"][-3:] = -1
    return {name: x.reshape(3, 8, -1) for name, x in batch.items()}


@pytest.fixture
def sequence_losses(tiny):
    def sums(params, batch):
        losses_BT, valid_BT = tiny.token_losses(params, batch)
        return losses_BT.sum(1), valid_BT.sum(1)

    return sums


def test_mean_is_over_targets_and_padding_is_left_out(tiny, heldout, sequence_losses):
    params = tiny.init_params()
    evaluation = make_evaluator(sequence_losses, heldout, params)(params)
    flat = {name: x.reshape(24, -1) for name, x in heldout.items()}
    losses_NT, valid_NT = (np.asarray(x, np.float64) for x in tiny.token_losses(params, flat))
    np.testing.assert_allclose(evaluation.mean_loss, losses_NT.sum() / valid_NT.sum(), rtol=1e-6)
    expected = losses_NT[:21].sum(1) / valid_NT[:21].sum(1)
    assert evaluation.sequence_losses.dtype == np.float64 and evaluation.sequence_losses.shape == (21,)
    np.testing.assert_allclose(evaluation.sequence_losses, expected, rtol=1e-6)
    # Rows have different numbers of targets, so that the mean of the means is another number.
    assert abs(expected.mean() - evaluation.mean_loss) > 1e-4


def test_other_parameters_of_the_same_shape_need_no_other_program(tiny, heldout, sequence_losses):
    evaluate = make_evaluator(sequence_losses, heldout, tiny.init_params())
    first = evaluate(tiny.init_params(0)).mean_loss
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiles.append(event) if event.endswith("backend_compile_duration") else None
    )
    second, again = (evaluate(p).mean_loss for p in (tiny.init_params(1), tiny.init_params(0)))
    jax.monitoring.clear_event_listeners()
    # Making parameters compiles nothing either: they are copied from numpy.
    assert compiles == []
    assert second != first == again


def test_on_a_cpu_the_yardstick_is_compiled_without_the_suspect_fusions(tiny, heldout, sequence_losses):
    evaluate = make_evaluator(sequence_losses, heldout, tiny.init_params())
    assert "ynn_fusion" not in evaluate.executable.as_text()
    assert evaluate.compile_seconds > 0
