"""The programs that are compared are one model: the same weights, loss and training, from the same task."""

import jax
import numpy as np
import pytest

from experiments import random_tokens
from experiments.gradient_accuracy import compare, exact_gradient
from experiments.peers import compare as peers
from experiments.peers import task
from experiments.plain_flax_baseline import ATTENTIONS, plain_program, require_plain
from experiments.random_tokens import batches_of, draw_tokens
from ryot_jax.comparison.statistics import SpeedUp
from ryot_jax.config import get_default
from ryot_jax.model import functional
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import KernelPlan
from ryot_jax.runtime.errors import ConfigError


@pytest.fixture(scope="module")
def config():
    config = get_default()
    config.model.update(vocab_size=64, d_model=16, n_layers=2, n_heads=2, d_ff=24, max_len=8)
    config.training.update(batch_size=2, seq_len=8, epochs=1, steps_per_epoch=20, warmup_steps=4)
    config.evaluation.update(sequences=4, batch_size=2)
    config.runtime.update(compilation_cache=False, check_programs=False)
    return config


def test_tokens_are_in_the_vocabulary_and_uneven_as_words_are(config):
    tokens_nBT = draw_tokens(config, 40)
    assert tokens_nBT.shape == (40, 2, 9)
    assert tokens_nBT.min() == 0 and tokens_nBT.max() < 64
    counts_V = np.bincount(tokens_nBT.reshape(-1), minlength=64)
    assert counts_V[0] > 4 * counts_V[8] > 0


def test_a_task_gives_back_the_weights_that_it_was_written_from(config, tmp_path):
    expected = task.write(tmp_path, config)
    _, params = functional.init(from_config(config.model, "cpu"), config.seed)
    read = task.read_weights(tmp_path)
    assert jax.tree.structure(read) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, read, params)
    assert expected["parameters"] == sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize("program", sorted(ATTENTIONS))
def test_plain_programs_train_as_the_baseline_arm_does(config, program, tmp_path):
    expected = task.write(tmp_path, config)
    tokens_nBT = np.load(tmp_path / "tokens.npy")
    batches = batches_of(tokens_nBT)
    arm = random_tokens.setting(config, tokens_nBT, arms=("baseline",)).arm("baseline")
    ours = arm.run_block(8).losses
    weights = task.read_weights(tmp_path)
    # nnx's layers add biases of rank 1 to arrays of rank 3.
    with jax.numpy_rank_promotion("allow"):
        step, state, first_loss = plain_program(ATTENTIONS[program], config, weights, batches[0])
        losses = []
        for batch in batches[:8]:
            state, loss = step(state, batch)
            losses.append(float(loss))
    np.testing.assert_allclose(first_loss, expected["initial_loss"], rtol=1e-5)
    np.testing.assert_allclose(losses, ours, rtol=1e-4)
    assert ours[-1] < ours[0] - 0.01


def test_plain_programs_refuse_a_model_that_they_do_not_have(config):
    other = config.copy_and_resolve_references()
    other.model.norm = "rms"
    with pytest.raises(ConfigError, match="plain programs"):
        require_plain(other)


def test_the_float64_definition_agrees_with_the_reference_kernels(config):
    setting = random_tokens.setting(config, arms=("baseline",))
    params, batch = setting.setup.state.params, setting.setup.dataset[0]
    with jax.numpy_rank_promotion("raise"):
        loss, exact = exact_gradient(params, batch, setting.model.n_heads)

        def mean_loss(params):
            loss_sum, n = functional.loss(setting.setup.graphdef, params, batch, plan=KernelPlan())
            return loss_sum / n

        value, found = jax.jit(jax.value_and_grad(mean_loss))(params)
    np.testing.assert_allclose(value, loss, rtol=1e-6)
    accuracy = compare(jax.device_get(found), exact)
    assert accuracy.error < 2e-6  # some tens of float32 roundings of 6e-8
    assert accuracy.cosine > 1 - 1e-10
    rounded = jax.tree.map(lambda x: np.asarray(x.astype(jax.numpy.bfloat16)), found)
    assert 1e-4 < compare(rounded, exact).error < 4e-3  # a rounding to bfloat16: at most 2^-9 for each number


def test_the_goal_is_against_the_faster_of_two_programs():
    def ratio(estimate):
        return SpeedUp(estimate, (estimate - 0.1, estimate + 0.1), 8, None, None, None)

    ratios = {"plain-fused": ratio(5.0), "plain-mha": ratio(3.0), "torch-compiled": ratio(3.0)}
    flax, torch = peers.judge("scaled", ratios, {"torch-explicit": "not installed"}, {})
    assert (flax.verdict, torch.verdict) == ("FAIL", "INCONCLUSIVE")
    assert "not installed" in torch.actual
    assert peers.judge("wide", {**ratios, "torch-explicit": ratio(1.4)}, {}, {})[0].verdict == "PASS"


@pytest.mark.parametrize(("estimate", "verdict"), [(2.0, "INCONCLUSIVE"), (1.0, "FAIL")])
def test_no_goal_is_reached_against_a_peer_that_was_held_back(estimate, verdict):
    ratio = SpeedUp(estimate, (estimate - 0.1, estimate + 0.1), 8, None, None, None)
    ratios = {"torch-compiled": ratio, "torch-explicit": ratio}
    handicaps = dict.fromkeys(ratios, "without jemalloc")
    assert peers.judge("wide", ratios, {}, handicaps)[0].verdict == verdict
