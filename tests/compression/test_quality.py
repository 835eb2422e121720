"""Every figure of a judgement against its definition in float64, sequence by sequence."""

import math

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from ryot_jax.compression.quality import Estimate, Judge
from ryot_jax.compression.quantize import quantize

V, T = 7, 6


def logits(params, batch):
    return params["w"][batch["inputs"]] * params["scale"]


@pytest.fixture(scope="module")
def params():
    return {"w": jnp.asarray(np.random.default_rng(0).normal(size=(11, V)) * 2, jnp.float32), "scale": jnp.float32(1.5)}


@pytest.fixture(scope="module")
def compressed(params):
    return quantize(2)(params)


def batches(*sizes, seed=1, ignored=0.3):
    rng = np.random.default_rng(seed)
    made = []
    for n in sizes:
        targets = rng.integers(0, V, (n, T))
        targets[rng.random((n, T)) < ignored] = -1
        made.append({"inputs": rng.integers(0, 11, (n, T)), "targets": targets})
    return made


def by_hand(params, compressed, batches):
    """(loss before, after, divergence, agreement) of every token that counts, one array a sequence; float64."""
    sequences = []
    w, scale = np.float64(params["w"]), float(params["scale"])
    for batch in batches:
        for inputs, targets in zip(batch["inputs"], batch["targets"], strict=True):
            tokens = []
            for token, target in zip(inputs, targets, strict=True):
                if target >= 0:
                    rows = w[token] * scale, np.float64(compressed["w"].decode())[token] * scale
                    p, q = (np.exp(row) / np.exp(row).sum() for row in rows)
                    kl = np.sum(p * np.log(p / q))
                    tokens.append((-np.log(p[target]), -np.log(q[target]), kl, p.argmax() == q.argmax()))
            if tokens:
                sequences.append(np.array(tokens, float))
    return sequences


def interval(values):
    # 2.5705818 is the 97.5 % quantile of Student's t with 5 degrees of freedom, from a table.
    assert len(values) == 6
    half = 2.5705818 * np.std(values, ddof=1) / math.sqrt(6)
    return np.mean(values) - half, np.mean(values) + half


def test_every_figure_matches_its_definition_in_float64(params, compressed):
    made = batches(4, 3)
    made[0]["targets"][1] = -1  # a sequence that is all padding
    made[1]["targets"][2, 1:] = -1  # and one of a single token
    made[1]["targets"][2, 0] = 3
    found, sequences = Judge(logits, params, made)(compressed), by_hand(params, compressed, made)
    assert found.sequences == len(sequences) == 6
    tokens = np.concatenate(sequences)
    means = np.array([sequence.mean(0) for sequence in sequences])
    # float32 logs of softmaxes: a few roundings of numbers up to 10.
    assert found.float_loss == pytest.approx(tokens[:, 0].mean(), abs=1e-5)
    assert found.loss == pytest.approx(tokens[:, 1].mean(), abs=1e-5)
    change = means[:, 1] - means[:, 0]
    for estimate, values in (
        (found.loss_change, change),
        (found.kl, means[:, 2]),
        (found.agreement, means[:, 3]),
    ):
        assert estimate.estimate == pytest.approx(values.mean(), abs=1e-5)
        chex.assert_trees_all_close(estimate.ci95, interval(values), atol=3e-5)
    assert found.perplexity_change.estimate == pytest.approx(math.exp(change.mean()) - 1, abs=3e-5)
    chex.assert_trees_all_close(
        found.perplexity_change.ci95, tuple(math.exp(end) - 1 for end in interval(change)), rtol=1e-4
    )
    # The arms differ: two bits are not enough.
    assert found.kl.estimate > 0.01 and 0 < found.agreement.estimate < 1


def test_targets_below_zero_do_not_count(params, compressed):
    (made,) = batches(5, ignored=0.4)
    other = {**made, "targets": np.where(made["targets"] < 0, -100, made["targets"])}
    # Nor does what stands before them.
    other["inputs"] = np.where(made["targets"] < 0, 0, made["inputs"])
    assert (other["inputs"] != made["inputs"]).any()
    assert Judge(logits, params, [other])(compressed) == Judge(logits, params, [made])(compressed)


def test_how_sequences_are_cut_into_batches_does_not_matter(params, compressed):
    (made,) = batches(6)
    parts = [{name: array[start:end] for name, array in made.items()} for start, end in ((0, 1), (1, 5), (5, 6))]
    whole, cut = (Judge(logits, params, b)(compressed) for b in ([made], parts))
    assert cut.sequences == whole.sequences
    for name in ("loss_change", "kl", "agreement"):
        # Programs of other shapes: float32 roundings.
        chex.assert_trees_all_close(getattr(cut, name).ci95, getattr(whole, name).ci95, atol=1e-5)


def test_nothing_changes_where_nothing_is_compressed(params):
    found = Judge(logits, params, batches(4, 3))(params)
    nothing = Estimate(0.0, (0.0, 0.0))
    assert (found.loss_change, found.perplexity_change, found.kl) == (nothing, nothing, nothing)
    assert found.agreement == Estimate(1.0, (1.0, 1.0))
    assert found.loss == found.float_loss > 0


def test_one_sequence_says_nothing_about_others(params, compressed):
    made = batches(3)[0]
    made["targets"][1:] = -1
    found = Judge(logits, params, [made])(compressed)
    assert found.sequences == 1
    assert found.loss_change.ci95 is found.kl.ci95 is None
    assert found.perplexity_change.ci95 is None
    assert math.isfinite(found.loss_change.estimate)


def test_divergence_is_of_the_originals_predictions(params):
    flat = {"w": params["w"], "scale": jnp.float32(0.0)}
    (made,) = batches(4, ignored=0.0)
    found, back = Judge(logits, params, [made])(flat), Judge(logits, flat, [made])(params)
    w = np.float64(params["w"])[made["inputs"]] * 1.5
    p = np.exp(w) / np.exp(w).sum(-1, keepdims=True)
    assert found.kl.estimate == pytest.approx(np.sum(p * np.log(p * V), -1).mean(), rel=1e-5)  # not symmetric:
    assert back.kl.estimate == pytest.approx(np.mean(-np.log(p * V)), rel=1e-5)
    assert back.float_loss == pytest.approx(math.log(V), rel=1e-6)


def test_a_figure_under_an_increasing_function_keeps_its_interval():
    assert Estimate(1.0, (0.5, 2.0)).map(lambda x: 3 * x) == Estimate(3.0, (1.5, 6.0))
