"""Drafts: cheap guesses of the next tokens, which the model checks all at once.

A draft is a pair of pure functions of pytrees that run inside the compiled loop, and may be user-supplied. It never
changes the generated text, only the speed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ryot_jax.decoding.engine import Decoder, new_cache, step
from ryot_jax.runtime.errors import ConfigError

DraftState = Any
DRAFT_LENGTH = 6  # above, a guess is right too rarely to the end to pay for its rows (experiments.decoding)


class Text(NamedTuple):
    """The known tokens of each sequence: the first `known_B` of ids_BT, int32. The ids after them are arbitrary."""

    ids_BT: jax.Array
    known_B: jax.Array

    def last_B(self) -> jax.Array:
        """The last known token of each sequence, int32[B]."""
        return jnp.take_along_axis(self.ids_BT, self.known_B[:, None] - 1, axis=1)[:, 0]


@dataclasses.dataclass(frozen=True, eq=False)  # arrays are closed over: programs are compiled for the object
class Draft:
    """A draft: a cheap guess at the next tokens.

    Attributes:
      length: K, the most tokens that it proposes at a time, at least 1.
      init: text -> state, for the prompts.
      propose: (state, text) -> (draft_BK, offered_B, state): tokens that may follow, and how many of them are meant.
        Since the last call, or `init`, each text has grown by at most K + 1 tokens.
      lookup_chain_VK: of a `lookup_draft` that the C++ kernel knows, its guess after each token that is new in its
        text, int32[V, K]; None otherwise.
    """

    length: int
    init: Callable[[Text], DraftState]
    propose: Callable[[DraftState, Text], tuple[jax.Array, jax.Array, DraftState]]
    lookup_chain_VK: jax.Array | None = None

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ConfigError(f"length = {self.length}: a draft proposes at least one token")


class Places(NamedTuple):
    """For each context (a token, or a hash of several) the last place where a token followed it; -1 without one."""

    place_BM: jax.Array
    noted_B: jax.Array  # the tokens of the text that were looked at


def lookup_draft(
    vocab_size: int, *, length: int = DRAFT_LENGTH, order: int = 1, successor_V: jax.Array | None = None
) -> Draft:
    """Prompt lookup: drafts the tokens that followed the last `order` tokens where they last occurred in the text.

    The continuation is copied from there; where it runs into its own end it continues in a circle, which is right for
    text that repeats itself. Contexts of several tokens are found by a hash, whose clashes cost a wrong guess.

    Args:
      vocab_size: of the model.
      length: tokens of a guess.
      order: tokens of a context, at least 1.
      successor_V: int32, the guess after a token that is new in this text, see `bigrams`; None: no guess there.
    """
    if order < 1:
        raise ConfigError(f"order = {order}: a context has at least one token")
    slots = vocab_size if order == 1 else max(vocab_size, 1 << 14)
    chain_VK = None if successor_V is None else _chains(successor_V, length)

    def contexts(ids_BT: jax.Array, end_BS: jax.Array) -> jax.Array:
        slot_BS = jnp.zeros_like(end_BS)
        for back in range(order - 1, -1, -1):
            token_BS = jnp.take_along_axis(ids_BT, jnp.clip(end_BS - back, 0), axis=1)
            slot_BS = token_BS if order == 1 else (slot_BS * 31_337 + token_BS) % slots
        return slot_BS

    def note(places: Places, text: Text, most: int) -> Places:
        """Notes the contexts whose next token is new: one of `most` at the end of the text."""
        end_BS = jnp.add.outer(places.noted_B - 1, jnp.arange(most))
        is_new_BS = (end_BS >= order - 1) & (end_BS < text.known_B[:, None] - 1)
        slot_BS = jnp.where(is_new_BS, contexts(text.ids_BT, end_BS), slots)
        row_BS = jnp.broadcast_to(jnp.arange(len(slot_BS))[:, None], slot_BS.shape)
        return Places(places.place_BM.at[row_BS, slot_BS].max(end_BS, mode="drop"), text.known_B)

    def init(text: Text) -> Places:
        B, T = text.ids_BT.shape
        nothing = Places(jnp.full((B, slots), -1, jnp.int32), jnp.ones(B, jnp.int32))
        return note(nothing, text, T)

    def propose(places: Places, text: Text) -> tuple[jax.Array, jax.Array, Places]:
        places = note(places, text, length + 1)
        end_B = text.known_B - 1
        place_B = jnp.take_along_axis(places.place_BM, contexts(text.ids_BT, end_B[:, None]), axis=1)[:, 0]
        is_found_B = (place_B >= 0) & (end_B >= order - 1)
        at_BK = place_B[:, None] + 1 + jnp.arange(length)[None] % jnp.maximum(end_B - place_B, 1)[:, None]
        draft_BK = jnp.take_along_axis(text.ids_BT, at_BK, axis=1)
        if chain_VK is None:
            return draft_BK, jnp.where(is_found_B, length, 0), places
        draft_BK = jnp.where(is_found_B[:, None], draft_BK, chain_VK[text.last_B()])
        return draft_BK, jnp.full_like(end_B, length), places

    return Draft(length, init, propose, chain_VK if order == 1 else None)


def bigram_draft(successor_V: jax.Array, *, length: int = DRAFT_LENGTH) -> Draft:
    """Always the same token after a token: `successor_V`, int32, see `bigrams`."""
    chain_VK = _chains(successor_V, length)

    def propose(state: tuple[()], text: Text) -> tuple[jax.Array, jax.Array, tuple[()]]:
        return chain_VK[text.last_B()], jnp.full_like(text.known_B, length), state

    return Draft(length, lambda text: (), propose)


@jax.jit
def bigrams(decoder: Decoder) -> jax.Array:
    """The token that the model holds for the most likely one after each token alone, int32[V]."""
    V, rows = decoder.cfg.vocab_size, 64
    tokens_NB = jnp.minimum(jnp.arange(-(-V // rows) * rows), V - 1).reshape(-1, rows)

    def of_tokens(token_B: jax.Array) -> jax.Array:
        none_B, one_B = jnp.zeros(rows, jnp.int32), jnp.ones(rows, jnp.int32)
        return step(decoder, token_B[:, None], none_B, one_B, new_cache(decoder, rows, 1))[0][:, 0]

    return jax.lax.map(of_tokens, tokens_NB).reshape(-1)[:V]


def model_draft(decoder: Decoder, *, length: int = 3) -> Draft:
    """Another decoder's own greedy continuation: of a smaller model, or of the same one compressed.

    It takes a step of that model for each token of a guess, so it pays where such a step is several times cheaper.
    """
    S = length + 1

    def init(text: Text) -> _Behind:
        B, T = text.ids_BT.shape
        cache = new_cache(decoder, B, T + S)
        nothing_B = jnp.zeros(B, jnp.int32)
        ids_BT = text.ids_BT[:, : decoder.cfg.max_len]
        return _Behind(step(decoder, ids_BT, nothing_B, text.known_B - 1, cache, last_only=True)[2], text.known_B - 1)

    def propose(state: _Behind, text: Text) -> tuple[jax.Array, jax.Array, _Behind]:
        # Tokens that were guessed right lie in the cache already; they are written again, in the same step.
        fresh_BS = jnp.take_along_axis(text.ids_BT, jnp.add.outer(state.length_B, jnp.arange(S)), axis=1)
        first_B1, _, cache = step(
            decoder, fresh_BS, state.length_B, text.known_B - state.length_B, state.cache, last_only=True
        )

        def guess(carry: tuple[jax.Array, Any], i: jax.Array) -> tuple[tuple[jax.Array, Any], jax.Array]:
            token_B1, cache = carry
            fits_B = (text.known_B + i < decoder.cfg.max_len).astype(jnp.int32)
            next_B1, _, cache = step(decoder, token_B1, text.known_B + i, fits_B, cache)
            return (next_B1, cache), next_B1[:, 0]

        (_, cache), rest_KB = jax.lax.scan(guess, (first_B1, cache), jnp.arange(length - 1))
        draft_BK = jnp.concatenate([first_B1, rest_KB.T], axis=1)
        return draft_BK, jnp.full_like(text.known_B, length), _Behind(cache, text.known_B)

    return Draft(length, init, propose)


class _Behind(NamedTuple):
    """A draft model's cache, and the known tokens that it holds."""

    cache: Any
    length_B: jax.Array


def _chains(successor_V: jax.Array, length: int) -> jax.Array:
    """The `length` tokens that follow each token, int32[V, K]."""
    chain = [successor_V]
    for _ in range(length - 1):
        chain.append(successor_V[chain[-1]])
    return jnp.stack(chain, axis=1)
