"""Entropies of prediction by counting alone: unigram and bigram cross-entropies of the held-out targets.

A language model has to beat them; they are in nats per token on the same targets that it is evaluated on.
"""

import dataclasses

import numpy as np

# Ids that are counted, from the start of the training part: it bounds the time and the memory (about 12 bytes
# an id) that a start takes. More would make the bigram a little better.
MAX_COUNTED = 2**25


@dataclasses.dataclass(frozen=True)
class NgramEntropies:
    """Mean cross-entropy (nats per token) of held-out targets under models that count training ids.

    Attributes:
      unigram: each id by its frequency, add-one smoothed.
      bigram: each id by its frequency after the id before, interpolated with the unigram.
      counted_tokens: training ids that were counted.
    """

    unigram: float
    bigram: float
    counted_tokens: int


def ngram_entropies(train: np.ndarray, heldout_batches: dict[str, np.ndarray], vocab_size: int) -> NgramEntropies:
    """Entropies of the targets of `heldout_batches` under counts of `train`.

    With counts N over the training ids and V the vocabulary size,

        unigram  p(w)   = (N(w) + 1) / (N + V)
        bigram   p(w|c) = (N(c, w) + U(c) p(w)) / (N(c) + U(c))

    where U(c) is the number of distinct ids seen after c: Witten and Bell 1991, method C, as interpolation
    (Chen and Goodman 1998, 2.5). The weights come from the training ids alone. Contexts never seen fall back
    to the unigram.

    Args:
      train: uint16[n] token ids.
      heldout_batches: int32 'inputs' and 'targets' of the same shape; targets below 0 do not count.
      vocab_size: V.
    """
    counted = np.asarray(train[:MAX_COUNTED])
    unigram_V = (np.bincount(counted, minlength=vocab_size) + 1.0) / (len(counted) + vocab_size)

    counts = heldout_batches["targets"].ravel() >= 0
    contexts_N = heldout_batches["inputs"].ravel()[counts].astype(np.int64)
    targets_N = heldout_batches["targets"].ravel()[counts].astype(np.int64)

    # A pair of ids as one sorted number, which takes less than V * V cells. uint16 ids: it fits 32 bits.
    pairs = np.sort(counted[:-1].astype(np.uint32) * np.uint32(vocab_size) + counted[1:])
    starts = np.flatnonzero(np.concatenate(([True], pairs[1:] != pairs[:-1])))
    seen_pairs, pair_counts = pairs[starts], np.diff(starts, append=len(pairs))
    seen_contexts = (seen_pairs // np.uint32(vocab_size)).astype(np.int64)
    context_counts_V = np.bincount(seen_contexts, weights=pair_counts, minlength=vocab_size)
    successors_V = np.bincount(seen_contexts, minlength=vocab_size)

    wanted = (contexts_N * vocab_size + targets_N).astype(np.uint32)
    place = np.minimum(np.searchsorted(seen_pairs, wanted), len(seen_pairs) - 1)
    pair_counts_N = np.where(seen_pairs[place] == wanted, pair_counts[place], 0)

    unigram_N = unigram_V[targets_N]
    total_N = context_counts_V[contexts_N] + successors_V[contexts_N]
    interpolated_N = (pair_counts_N + successors_V[contexts_N] * unigram_N) / np.maximum(total_N, 1)
    bigram_N = np.where(total_N > 0, interpolated_N, unigram_N)
    return NgramEntropies(
        unigram=float(-np.log(unigram_N).mean()),
        bigram=float(-np.log(bigram_N).mean()),
        counted_tokens=len(counted),
    )
