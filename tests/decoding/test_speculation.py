"""Drafts change how fast tokens come, and no token: whatever is drafted, however much of it is checked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ryot_jax.decoding import (
    ByAcceptance,
    Draft,
    Sampling,
    Speculation,
    bigram_draft,
    bigrams,
    fixed,
    generate,
    lookup_draft,
    model_draft,
    stream,
)
from ryot_jax.decoding.loop import check, start
from ryot_jax.decoding.request import Request, checked_request
from ryot_jax.runtime.errors import ConfigError

pytestmark = pytest.mark.usefixtures("file_compiled_quickly")

PROMPTS = [[3, 1, 4, 1], [5], [9, 2, 6], [3, 1, 3, 1]]
N = 24
SAMPLINGS = [Sampling(), Sampling(1.0, top_k=9, top_p=0.9, min_p=0.02)]


@functools.cache
def decoder_of(make_model, engine):
    return make_model(max_len=40).decoder(engine)


def settings_of(sampling):
    return {"max_new_tokens": N, "sampling": sampling, "key": jax.random.key(7)}


def constant_draft(token):
    """Always the same token: wrong, but by accident."""
    return bigram_draft(jnp.full(31, token, jnp.int32), length=3)


def knowing_draft(plain, shift, length=4):
    """Knows what is generated without drafts; its guesses are that, plus `shift`."""
    lengths_B = jnp.array([len(prompt) for prompt in PROMPTS])
    answers_BN = jnp.pad((plain.ids_BN + shift) % 31, [(0, 0), (0, length)])

    def propose(state, text):
        at_BK = jnp.add.outer(text.known_B - lengths_B, jnp.arange(length))
        return jnp.take_along_axis(answers_BN, at_BK, axis=1), jnp.full(len(lengths_B), length), state

    return Draft(length, lambda text: (), propose)


def every_draft(decoder, plain):
    """By name, one of each kind."""
    successor_V = bigrams(decoder)
    return {
        "always right": knowing_draft(plain, 0),
        "always wrong": knowing_draft(plain, 1),
        "constant": constant_draft(4),
        "lookup": lookup_draft(31, length=5, successor_V=successor_V),
        "lookup alone": lookup_draft(31, length=3),
        "lookup of two": lookup_draft(31, length=3, order=2, successor_V=successor_V),
        "bigram": bigram_draft(successor_V, length=2),
        "model": model_draft(decoder, length=3),
        "model of one": model_draft(decoder, length=1),
    }


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_no_draft_and_no_length_changes_a_token(make_model, kernel, sampling):
    decoder = decoder_of(make_model, kernel)
    plain = generate(decoder, PROMPTS, **settings_of(sampling))
    assert len(np.unique(plain.ids_BN)) > 6
    for name, draft in every_draft(decoder, plain).items():
        for schedule in (
            None,
            lambda observed: jnp.full(len(PROMPTS), observed.step * 5 % 7),
        ):  # 0 to 6, too many at times
            found = generate(decoder, PROMPTS, speculation=Speculation(draft, schedule), **settings_of(sampling))
            np.testing.assert_array_equal(found.ids_BN, plain.ids_BN, err_msg=name)
            assert (found.accepted_B <= found.drafted_B).all()


def test_drafts_are_counted_and_spare_steps(make_model, kernel):
    decoder = decoder_of(make_model, kernel)
    plain = generate(decoder, PROMPTS, max_new_tokens=N)
    drafts = every_draft(decoder, plain)
    right, wrong, own = (
        generate(decoder, PROMPTS, max_new_tokens=N, speculation=Speculation(drafts[name], fixed(length)))
        for name, length in (("always right", 4), ("always wrong", 4), ("model", 3))
    )
    # 23 tokens behind the first: four times four drafted ones and the model's own, and then two and one.
    assert plain.steps == 23 and right.steps == 5
    np.testing.assert_array_equal(right.drafted_B, right.accepted_B)
    np.testing.assert_array_equal(right.accepted_B, [18] * 4)
    assert wrong.steps == 23 and not wrong.accepted_B.any() and (wrong.drafted_B > 60).all()
    np.testing.assert_array_equal(own.drafted_B, own.accepted_B)  # a model is its own best draft
    assert own.steps == 6


def test_the_length_follows_the_acceptance(make_model, kernel):
    decoder = decoder_of(make_model, kernel)
    plain = generate(decoder, PROMPTS, max_new_tokens=N)
    drafts = every_draft(decoder, plain)
    schedule = ByAcceptance(cost=0.2, longest=4)
    right, wrong = (
        generate(decoder, PROMPTS, max_new_tokens=N, speculation=Speculation(drafts[name], schedule))
        for name in ("always right", "always wrong")
    )
    assert right.steps <= 8
    assert wrong.steps == 23 and (wrong.drafted_B <= 6).all()


def test_the_kernel_does_the_bookkeeping_of_the_functions(make_model, kernel):
    """Round by round, every number of the state."""
    decoder = decoder_of(make_model, kernel)
    draft = lookup_draft(31, length=5, successor_V=bigrams(decoder))
    schedule = ByAcceptance(0.1, 5)
    by_kernel, by_functions = (
        checked_request(decoder, PROMPTS, None, N, Sampling(), (4, 30), Speculation(draft, each), None)
        for each in (schedule, lambda observed: schedule(observed))
    )
    assert Request(*by_kernel).has_kernel() and not Request(*by_functions).has_kernel()
    first, second = start(*by_kernel), start(*by_functions)
    rounds = 0
    while not first.is_done_B.all():
        first, second = check(by_kernel, first), check(by_functions, second)
        rounds += 1
        for b, known in enumerate(np.asarray(first.text.known_B)):
            np.testing.assert_array_equal(first.text.ids_BT[b, :known], second.text.ids_BT[b, :known])
        for name in ("count_B", "is_done_B", "drafted_B", "accepted_B"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
        np.testing.assert_array_equal(first.text.known_B, second.text.known_B)
        np.testing.assert_array_equal(first.draft.place_BM, second.draft.place_BM)
        for b, count in enumerate(np.asarray(first.count_B)):
            np.testing.assert_array_equal(first.pending_BS[b, :count], second.pending_BS[b, :count])
        np.testing.assert_allclose(first.observed.acceptance_B, second.observed.acceptance_B, rtol=1e-6)
    assert second.is_done_B.all() and 2 < rounds < 23
    assert int(first.accepted_B.sum()) > 2 and int(first.drafted_B.sum()) > 10


def test_a_stop_token_among_drafted_ones_ends_the_text(make_model, kernel):
    decoder = decoder_of(make_model, kernel)
    plain = generate(decoder, PROMPTS, max_new_tokens=N)
    stops = [int(plain.ids_BN[0, 7]), int(plain.ids_BN[2, 3])]
    stopped = generate(decoder, PROMPTS, max_new_tokens=N, stop_tokens=stops)
    assert int(stopped.length_B.min()) < N
    for name, draft in every_draft(decoder, plain).items():
        found = generate(decoder, PROMPTS, max_new_tokens=N, stop_tokens=stops, speculation=Speculation(draft))
        np.testing.assert_array_equal(found.ids_BN, stopped.ids_BN, err_msg=name)
        np.testing.assert_array_equal(found.length_B, stopped.length_B, err_msg=name)


def test_up_to_the_models_last_position(make_model, kernel):
    """Drafted tokens would lie beyond it."""
    decoder = decoder_of(make_model, kernel)
    prompts = [[3, 1, 4, 1], [5, 9, 2, 6]]
    plain = generate(decoder, prompts, max_new_tokens=36)
    for draft in (lookup_draft(31, length=6, successor_V=bigrams(decoder)), model_draft(decoder, length=6)):
        found = generate(decoder, prompts, max_new_tokens=36, speculation=Speculation(draft, fixed(6)))
        np.testing.assert_array_equal(found.ids_BN, plain.ids_BN)


@pytest.mark.parametrize("which", ["all tokens", "pairs of tokens"])
def test_ties_fall_alike(make_model, engine, which):
    """Equal logits: the lowest id, with a draft of any of the others."""
    model = make_model(max_len=40)
    if which == "all tokens":
        model.params = jax.tree.map(jnp.zeros_like, model.params)
    else:
        head_VD = model.params["head"]
        model.params = {**model.params, "head": head_VD.at[16:].set(head_VD[:15])}
    decoder = model.decoder(engine)
    plain = generate(decoder, PROMPTS, max_new_tokens=N)
    assert (plain.ids_BN < 16).all()
    for token in (0, 1, 17, 30):
        draft = Speculation(constant_draft(token), fixed(3))
        np.testing.assert_array_equal(
            generate(decoder, PROMPTS, max_new_tokens=N, speculation=draft).ids_BN, plain.ids_BN
        )
    twins = knowing_draft(plain, 16)  # the token that ties with the right one
    found = generate(decoder, PROMPTS, max_new_tokens=N, speculation=Speculation(twins, fixed(4)))
    np.testing.assert_array_equal(found.ids_BN, plain.ids_BN)


def test_of_the_reference_engine_a_draft_changes_no_token_of_the_same_program(make_model):
    """Its products may round otherwise for other numbers of rows: what it equals is the same width with length 0."""
    decoder = decoder_of(make_model, ("reference", "float32"))
    draft = lookup_draft(31, length=4, successor_V=bigrams(decoder))
    plain = generate(decoder, PROMPTS, max_new_tokens=N, speculation=Speculation(draft, fixed(0)))
    found = generate(decoder, PROMPTS, max_new_tokens=N, speculation=Speculation(draft))
    np.testing.assert_array_equal(found.ids_BN, plain.ids_BN)
    assert not plain.drafted_B.any() and found.steps < plain.steps


def test_a_stream_with_drafts_is_what_generate_gives(make_model, engine):
    decoder = decoder_of(make_model, engine)
    speculation = Speculation(lookup_draft(31, successor_V=bigrams(decoder)))
    whole = generate(decoder, PROMPTS, max_new_tokens=N, speculation=speculation)
    *_, last = stream(decoder, PROMPTS, max_new_tokens=N, every=5, speculation=speculation)
    np.testing.assert_array_equal(last.ids_BN, whole.ids_BN)


def test_bigrams_are_what_the_model_says_after_one_token(make_model, engine):
    model = make_model(vocab_size=70, tie_embeddings=False)
    successor_V = bigrams(model.decoder(engine))
    assert successor_V.shape == (70,) and len(np.unique(successor_V)) > 8
    if engine[1] == "float32":
        np.testing.assert_array_equal(successor_V, model.logits(np.arange(70)[:, None])[:, 0].argmax(-1))


@pytest.mark.parametrize("length", [1, 2])
def test_what_is_drawn_with_drafts_has_the_models_distribution(make_model, engine, length):
    """The joint distribution of three tokens of five, against the product of the model's softmaxes."""
    model = make_model(vocab_size=5, d_model=8, d_ff=8)
    model.params = jax.tree.map(lambda x: 0.4 * x, model.params)
    decoder, draws = model.decoder(engine), 6000
    speculation = Speculation(bigram_draft(bigrams(decoder), length=length), fixed(length))
    found = generate(
        decoder,
        np.full((draws, 1), 2, np.int32),
        max_new_tokens=3,
        sampling=Sampling(0.9),
        key=jax.random.key(0),
        speculation=speculation,
    )
    rate = float(found.accepted_B.sum() / found.drafted_B.sum())
    assert 0.1 < rate < 0.9, "both outcomes of a check"
    counts = np.bincount(np.asarray(found.ids_BN) @ [25, 5, 1], minlength=125)
    texts = np.array([[2, a, b, c] for a in range(5) for b in range(5) for c in range(5)])

    def probabilities(temperature):
        log_p_NTV = jax.nn.log_softmax(model.logits(texts[:, :3]) / temperature, axis=-1)
        return np.exp(np.take_along_axis(np.asarray(log_p_NTV), texts[:, 1:, None], axis=2).sum((1, 2)), dtype=float)

    def p_value(probability_N):
        expected_N = draws * probability_N / probability_N.sum()
        rare = expected_N < 5  # together one cell, as the test's approximation needs
        pooled = [np.append(x[~rare], x[rare].sum() if rare.any() else []) for x in (counts, expected_N)]
        return scipy.stats.chisquare(*pooled).pvalue

    assert p_value(probabilities(0.9)) > 1e-3
    assert p_value(probabilities(1.2)) < 1e-6, "a test that could not tell a temperature of 0.9 from 1.2"


def test_what_cannot_be_scheduled_is_named():
    with pytest.raises(ConfigError, match="cost = -1"):
        ByAcceptance(-1, 3)
    with pytest.raises(ConfigError, match="cost = nan"):
        ByAcceptance(float("nan"), 3)
    with pytest.raises(ConfigError, match="draft length -1"):
        fixed(-1)
    with pytest.raises(ConfigError, match="length = 0"):
        lookup_draft(5, length=0)
    with pytest.raises(ConfigError, match="order = 0"):
        lookup_draft(5, order=0)


def test_thresholds_are_where_one_more_token_begins_to_pay():
    schedule = ByAcceptance(cost=0.1, longest=4)
    for k, threshold in enumerate(schedule.thresholds()):
        for acceptance, pays in ((threshold - 0.01, False), (threshold + 0.01, True)):
            gain = [sum(acceptance**i for i in range(n + 1)) / (1 + 0.1 * n) for n in (k, k + 1)]
            assert (gain[1] > gain[0]) == pays
    np.testing.assert_array_equal(ByAcceptance(0.0, 3).thresholds()[1:] < 0.01, [True, True])
    assert np.isinf(ByAcceptance(2.0, 3).thresholds()[-1])
