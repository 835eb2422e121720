import itertools
import math

import chex
import numpy as np
import pytest

from ryot_jax.data import batches, entropy


def brute_force(train, contexts, targets, vocab_size):
    """The formulas of the docstring, word by word, in Python floats."""
    unigrams, bigrams = [], []
    for context, target in zip(contexts, targets, strict=True):
        unigram = (sum(w == target for w in train) + 1) / (len(train) + vocab_size)
        after = [w for c, w in itertools.pairwise(train) if c == context]
        if after:
            distinct = len(set(after))
            bigram = (after.count(target) + distinct * unigram) / (len(after) + distinct)
        else:
            bigram = unigram
        unigrams.append(-math.log(unigram))
        bigrams.append(-math.log(bigram))
    return sum(unigrams) / len(unigrams), sum(bigrams) / len(bigrams)


@pytest.fixture
def ids():
    """Ids where the next depends on the one before; some held-out ids and pairs are never trained on."""
    rng = np.random.default_rng(0)
    steps = rng.integers(0, 3, 700)
    return (np.cumsum(steps) % 17).astype(np.uint16), rng.integers(0, 20, 200).astype(np.uint16)


@pytest.mark.parametrize("batch_size", [5, 7])
def test_entropies_are_those_of_the_formula(ids, batch_size):
    train, heldout = ids
    out = batches.heldout_batches(heldout, seq_len=9, batch_size=batch_size, sequences=20)
    counts = out["targets"].ravel() >= 0
    contexts, targets = out["inputs"].ravel()[counts], out["targets"].ravel()[counts]
    unigram, bigram = brute_force(train.tolist(), contexts.tolist(), targets.tolist(), 20)
    found = entropy.ngram_entropies(train, out, 20)
    # Sums of 180 float64 logarithms.
    chex.assert_trees_all_close((found.unigram, found.bigram), (unigram, bigram), rtol=1e-12)
    assert found.counted_tokens == 700


def test_the_bigram_sees_order_and_the_unigram_does_not():
    train = np.tile(np.arange(8, dtype=np.uint16), 500)
    out = batches.heldout_batches(train[:201], seq_len=10, batch_size=2, sequences=10)
    found = entropy.ngram_entropies(train, out, 8)
    assert abs(found.unigram - math.log(8)) < 1e-3
    assert found.bigram < 0.01


def test_probabilities_add_up_to_one(ids):
    train, _ = ids
    for context in (0, 5, 19):  # 19 is never seen
        p = []
        for target in range(20):
            out = {"inputs": np.full((1, 1, 1), context), "targets": np.full((1, 1, 1), target)}
            p.append(math.exp(-entropy.ngram_entropies(train, out, 20).bigram))
        assert abs(sum(p) - 1) < 1e-12


def test_the_largest_vocabulary_does_not_overflow():
    train = np.asarray([65_535, 65_535, 0, 65_535, 65_535], np.uint16)
    out = {"inputs": np.asarray([[[65_535, 65_535]]]), "targets": np.asarray([[[65_535, 3]]])}
    found = entropy.ngram_entropies(train, out, 65_536)
    unigram, bigram = brute_force(train.tolist(), [65_535, 65_535], [65_535, 3], 65_536)
    chex.assert_trees_all_close((found.unigram, found.bigram), (unigram, bigram), rtol=1e-12)


def test_only_the_first_ids_are_counted_of_a_long_text(monkeypatch, ids):
    train, heldout = ids
    out = batches.heldout_batches(heldout, seq_len=9, batch_size=5, sequences=20)
    first = entropy.ngram_entropies(train[:300], out, 20)
    monkeypatch.setattr(entropy, "MAX_COUNTED", 300)
    assert entropy.ngram_entropies(train, out, 20) == first
