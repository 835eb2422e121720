"""The loop of generation over a cache, with or without drafts that are checked several tokens at once.

Speculative decoding changes no token. A step computes what the model would choose after the last known token and
after each drafted one; drafted tokens count as far as they are what the model chose, and behind the last of them stands
the model's own choice. For sampled tokens the choice is a draw with a number that belongs to the position: a drafted
token d is taken with probability p(d); where it is not, the draw is one of p without d. That is rejection sampling
(arXiv:2211.17192, 2.3) for a draft that is sure of itself; here it also is, draw for draw, what sampling without a
draft gives.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ryot_jax.decoding import draft_length
from ryot_jax.decoding.draft_length import ByAcceptance, Observed, nothing_observed, observe
from ryot_jax.decoding.drafts import DraftState, Text
from ryot_jax.decoding.engine import AnyCache, new_cache, step
from ryot_jax.decoding.request import Request
from ryot_jax.decoding.sampling import sample, uniforms
from ryot_jax.kernels.decoding.speculation import Round, speculation_round
from ryot_jax.model.cache import write_at


class Generated(NamedTuple):
    """Generated tokens and the number of steps that they took.

    Attributes:
      ids_BN: int32, the new tokens; zeros behind a sequence's end.
      length_B: int32, number of new tokens; a stop token is the last of them.
      steps: int32[], passes through the model behind the prompt.
      drafted_B: int32, number of drafted tokens that were checked.
      accepted_B: int32, number of those that the model chose too.
    """

    ids_BN: jax.Array
    length_B: jax.Array
    steps: jax.Array
    drafted_B: jax.Array
    accepted_B: jax.Array


class LoopState(NamedTuple):
    """The loop's carry. The cache holds all known tokens but the last, which is the first of `pending_BS`."""

    cache: AnyCache
    text: Text  # the prompts and what follows
    pending_BS: jax.Array  # the last known token, and drafted ones
    count_B: jax.Array  # of the pending tokens that are to be checked; 0 for a sequence that has ended
    is_done_B: jax.Array
    draft: DraftState
    observed: Observed
    drafted_B: jax.Array
    accepted_B: jax.Array


def start(*request: Any) -> LoopState:
    """Runs the prompt through the model and chooses the first token after it."""
    r = Request(*request)
    B, S = r.prompt_BS.shape
    capacity = (
        S + r.compiled_for.max_new_tokens + r.compiled_for.drafted
    )  # with what a step may write behind the last token
    zeros_B = jnp.zeros(B, jnp.int32)
    best_B1, logits_B1V, cache = step(
        r.decoder,
        r.prompt_BS,
        zeros_B,
        r.prompt_length_B,
        new_cache(r.decoder, B, capacity),
        with_logits=not r.compiled_for.filters.is_greedy,
        last_only=True,
    )
    text = Text(jnp.pad(r.prompt_BS, [(0, 0), (0, capacity + 1 - S)]), r.prompt_length_B)
    state = LoopState(
        cache=cache,
        text=text,
        pending_BS=jnp.zeros((B, 1 + r.compiled_for.drafted), jnp.int32),
        count_B=zeros_B,
        is_done_B=zeros_B > 0,
        draft=() if r.compiled_for.speculation is None else r.compiled_for.speculation.draft.init(text),
        observed=nothing_observed(B),
        drafted_B=zeros_B,
        accepted_B=zeros_B,
    )
    return _settle(r, state, _choose(r, best_B1, logits_B1V, text.known_B), zeros_B + 1)


def _choose(r: Request, best_BS: jax.Array, logits_BSV: jax.Array | None, known_B: jax.Array) -> jax.Array:
    """The tokens chosen by greedy choice or sampling; the first is each text's token number `known_B`."""
    if logits_BSV is None:
        return best_BS
    B, S = best_BS.shape
    made_BS = jnp.add.outer(known_B - r.prompt_length_B, jnp.arange(S))
    return sample(
        logits_BSV, uniforms(r.key, r.first_sequence + jnp.arange(B), made_BS), r.compiled_for.filters, r.temperature
    )


def _settle(r: Request, state: LoopState, chosen_BS: jax.Array, new_B: jax.Array) -> LoopState:
    """Takes the first `new_B` chosen tokens as known, and asks for the next draft."""
    room_B = r.prompt_length_B + r.compiled_for.max_new_tokens - state.text.known_B
    new_B = jnp.where(state.is_done_B, 0, jnp.minimum(new_B, room_B))
    is_stop_BS = jnp.any(chosen_BS[:, :, None] == r.stop_Z[None, None], axis=2)
    is_stop_BS &= jnp.arange(chosen_BS.shape[1])[None] < new_B[:, None]
    stops_B = jnp.any(is_stop_BS, axis=1)
    new_B = jnp.where(stops_B, jnp.argmax(is_stop_BS, axis=1).astype(jnp.int32) + 1, new_B)
    is_done_B = state.is_done_B | stops_B | (new_B == room_B)
    text = Text(
        write_at(state.text.ids_BT, chosen_BS, state.text.known_B, axis=0),
        state.text.known_B + new_B,
    )
    state = state._replace(text=text, is_done_B=is_done_B)
    last_B1 = text.last_B()[:, None]
    if r.compiled_for.speculation is None:
        return state._replace(pending_BS=last_B1, count_B=(~is_done_B).astype(jnp.int32))
    draft = r.compiled_for.speculation.draft
    draft_BK, offered_B, draft_state = draft.propose(state.draft, text)
    wanted_B = jnp.clip(r.draft_length()(state.observed), 0, draft.length)
    # The last requested token is the model's own.
    count_B = 1 + jnp.minimum(jnp.minimum(wanted_B, offered_B), room_B - new_B - 1)
    return state._replace(
        pending_BS=jnp.concatenate([last_B1, draft_BK], axis=1),
        count_B=jnp.where(is_done_B, 0, count_B).astype(jnp.int32),
        draft=draft_state,
    )


def check(r: Request, state: LoopState) -> LoopState:
    """Passes the pending tokens through the model once and settles what it chose."""
    best_BS, logits_BSV, cache = step(
        r.decoder,
        state.pending_BS,
        state.text.known_B - 1,
        state.count_B,
        state.cache,
        with_logits=not r.compiled_for.filters.is_greedy,
    )
    chosen_BS = _choose(r, best_BS, logits_BSV, state.text.known_B)
    state = state._replace(cache=cache)
    if r.has_kernel():
        return _settle_by_kernel(r, state, chosen_BS)
    drafted_B = jnp.maximum(state.count_B - 1, 0)
    is_right_BK = state.pending_BS[:, 1:] == chosen_BS[:, :-1]
    is_right_BK &= jnp.arange(r.compiled_for.drafted)[None] < drafted_B[:, None]
    right_B = jnp.sum(jnp.cumprod(is_right_BK, axis=1), axis=1).astype(jnp.int32)
    state = state._replace(
        observed=observe(state.observed, drafted_B, right_B),
        drafted_B=state.drafted_B + drafted_B,
        accepted_B=state.accepted_B + right_B,
    )
    return _settle(r, state, chosen_BS, right_B + 1)


def _settle_by_kernel(r: Request, state: LoopState, chosen_BS: jax.Array) -> LoopState:
    """`_settle` in one C++ kernel, for a lookup draft with a length by acceptance."""
    schedule = r.draft_length()
    assert r.compiled_for.speculation is not None and isinstance(schedule, ByAcceptance)
    chain_VK = r.compiled_for.speculation.draft.lookup_chain_VK
    assert chain_VK is not None
    observed, places = state.observed, state.draft
    after = speculation_round(
        Round(
            *(state.text.ids_BT, state.text.known_B, state.pending_BS, state.count_B, state.is_done_B),
            *(places.place_BM, places.noted_B, observed.checked_B, observed.right_B),
            *(state.drafted_B, state.accepted_B),
        ),
        chosen_BS,
        r.prompt_length_B + r.compiled_for.max_new_tokens,
        r.stop_Z,
        chain_VK,
        jnp.asarray(schedule.thresholds()),
        memory=draft_length.MEMORY,
        checked_bonus=draft_length.CHECKED,
        right_bonus=draft_length.RIGHT,
    )
    return LoopState(
        cache=state.cache,
        text=Text(after.ids_BT, after.known_B),
        pending_BS=after.pending_BS,
        count_B=after.count_B,
        is_done_B=after.is_done_B,
        draft=places._replace(place_BM=after.place_BV, noted_B=after.noted_B),
        observed=Observed(after.checked_B, after.right_B, observed.step + 1),
        drafted_B=after.drafted_B,
        accepted_B=after.accepted_B,
    )


def advance(*request_state_until: Any) -> tuple[LoopState, Generated]:
    """Generates until every sequence has ended or has `until` tokens."""
    *request, state, until = request_state_until
    r = Request(*request)
    state = jax.lax.while_loop(
        lambda state: jnp.any(~state.is_done_B & (state.text.known_B < r.prompt_length_B + until)),
        functools.partial(check, r),
        state,
    )
    made_B, N = state.text.known_B - r.prompt_length_B, r.compiled_for.max_new_tokens
    index_N = jnp.arange(N)
    ids_BN = jnp.take_along_axis(state.text.ids_BT, jnp.add.outer(r.prompt_length_B, index_N), axis=1)
    ids_BN = jnp.where(index_N[None] < made_B[:, None], ids_BN, 0)
    return state, Generated(ids_BN, made_B, state.observed.step, state.drafted_B, state.accepted_B)
