"""Continue prompts: one compiled loop over a cache, with or without drafts that are checked several tokens at once.

Speculative decoding changes no token. A step computes what the model would choose after the last known token and
after each drafted one; drafted tokens count as far as they are what the model chose, and behind the last of them stands
the model's own choice. For sampled tokens the choice is a draw with a number that belongs to the position: a drafted
token d is taken with probability p(d); where it is not, the draw is one of p without d. That is rejection sampling
(arXiv:2211.17192, 2.3) for a draft that is sure of itself; here it also is, draw for draw, what sampling without a
draft gives.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.decoding import draft_length
from ryot_jax.decoding.draft_length import ByAcceptance, DraftLength, Observed, nothing_observed, observe
from ryot_jax.decoding.drafts import Draft, DraftState, Text
from ryot_jax.decoding.engine import AnyCache, Decoder, new_cache, step
from ryot_jax.decoding.sampling import GREEDY, Sampling, sample, uniforms
from ryot_jax.kernels.decoding.speculation import Round, speculation_round
from ryot_jax.model.cache import write_at
from ryot_jax.runtime.compiler import without_ynn
from ryot_jax.runtime.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Speculation:
    """A draft, and the schedule of how much of it to check; None: `ByAcceptance`, at the cost seen on a CPU.

    Programs are compiled for each object: make one, and use it for all calls.
    """

    draft: Draft
    draft_length: DraftLength | None = None


class Generated(NamedTuple):
    """What was generated, and what it took.

    Attributes:
      ids_BN: int32, the new tokens; zeros behind a sequence's end.
      length_B: int32, how many there are; a stop token is the last of them.
      steps: int32[], passes through the model behind the prompt.
      drafted_B: int32, drafted tokens that were checked.
      accepted_B: int32, and that were right.
    """

    ids_BN: jax.Array
    length_B: jax.Array
    steps: jax.Array
    drafted_B: jax.Array
    accepted_B: jax.Array


def generate(
    decoder: Decoder,
    prompt_BS: jax.Array | np.ndarray | Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    prompt_length_B: jax.Array | np.ndarray | Sequence[int] | None = None,
    sampling: Sampling = GREEDY,
    stop_tokens: Sequence[int] = (),
    speculation: Speculation | None = None,
    key: jax.Array | None = None,
    first_sequence: int = 0,
) -> Generated:
    """Generates up to `max_new_tokens` tokens after each prompt.

    Args:
      decoder: see `prepare`.
      prompt_BS: token ids, [B, S], or a list of prompts that may differ in length.
      max_new_tokens: at least 1.
      prompt_length_B: how many of the S tokens are the prompt, for each sequence; None: all of them.
      sampling: how tokens are chosen; greedy by default.
      stop_tokens: ids that end a sequence.
      speculation: drafts that make it faster, and change no token (with the reference engine, but for rounding: its
        numbers may depend on how many tokens a step takes).
      key: for sampling. A sequence's draws depend on the key, its number and its tokens' places alone.
      first_sequence: the number of the first sequence; the others follow.

    Compiles once for each shape of prompts, `max_new_tokens`, set of filters, number of stop tokens and `speculation`.

    Raises:
      ConfigError: an argument cannot be used; above all where a prompt and its new tokens together exceed
        `cfg.max_len`: the model has never seen such positions, so the window is not moved silently.
    """
    request = _checked(decoder, prompt_BS, prompt_length_B, max_new_tokens, sampling, stop_tokens, speculation, key)
    request = request._replace(first_sequence=jnp.int32(first_sequence))
    return _programs(decoder.platform).generate(*request)


def stream(
    decoder: Decoder,
    prompt_BS: jax.Array | np.ndarray | Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    every: int = 16,
    prompt_length_B: jax.Array | np.ndarray | Sequence[int] | None = None,
    sampling: Sampling = GREEDY,
    stop_tokens: Sequence[int] = (),
    speculation: Speculation | None = None,
    key: jax.Array | None = None,
) -> Iterator[Generated]:
    """The same bit by bit: what there is each time that a sequence has `every` more tokens, at last all of it.

    Two programs, one for the prompt and one for what follows, whatever `every` is.
    """
    if every < 1:
        raise ConfigError(f"every = {every}: must be at least 1")
    request = _checked(decoder, prompt_BS, prompt_length_B, max_new_tokens, sampling, stop_tokens, speculation, key)
    programs = _programs(decoder.platform)
    state = programs.start(*request)
    for until in (*range(every, max_new_tokens, every), max_new_tokens):
        state, generated = programs.advance(*request, state, until)
        yield generated
        if state.is_done_B.all():
            return


class _Fixed(NamedTuple):
    """What a program is compiled for."""

    max_new_tokens: int
    filters: Sampling  # its temperature is 0 or 1
    speculation: Speculation | None

    @property
    def drafted(self) -> int:
        return 0 if self.speculation is None else self.speculation.draft.length


class _State(NamedTuple):
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


class _Request(NamedTuple):
    """The arguments of the programs, the first one static."""

    fixed: _Fixed
    decoder: Decoder
    prompt_BS: jax.Array
    prompt_length_B: jax.Array
    temperature: jax.Array
    stop_Z: jax.Array
    key: jax.Array
    first_sequence: jax.Array

    def draft_length(self) -> DraftLength:
        """The schedule of speculation."""
        assert self.fixed.speculation is not None
        schedule = self.fixed.speculation.draft_length
        if schedule is not None:
            return schedule
        longest = self.fixed.drafted
        return ByAcceptance(_cost_of_a_token(self.decoder, len(self.prompt_BS)), longest)

    def has_kernel(self) -> bool:
        """Whether the C++ kernels know this draft and this schedule."""
        speculation = self.fixed.speculation
        if speculation is None or speculation.draft.lookup_chain_VK is None or self.decoder.engine != "cpu":
            return False
        schedule = self.draft_length()
        return isinstance(schedule, ByAcceptance) and schedule.longest == self.fixed.drafted


def _start(*request: Any) -> _State:
    """The prompt, and the first token after it."""
    r = _Request(*request)
    B, S = r.prompt_BS.shape
    capacity = S + r.fixed.max_new_tokens + r.fixed.drafted  # with what a step may write behind the last token
    zeros_B = jnp.zeros(B, jnp.int32)
    best_B1, logits_B1V, cache = step(
        r.decoder,
        r.prompt_BS,
        zeros_B,
        r.prompt_length_B,
        new_cache(r.decoder, B, capacity),
        with_logits=not r.fixed.filters.is_greedy,
        last_only=True,
    )
    text = Text(jnp.pad(r.prompt_BS, [(0, 0), (0, capacity + 1 - S)]), r.prompt_length_B)
    state = _State(
        cache=cache,
        text=text,
        pending_BS=jnp.zeros((B, 1 + r.fixed.drafted), jnp.int32),
        count_B=zeros_B,
        is_done_B=zeros_B > 0,
        draft=() if r.fixed.speculation is None else r.fixed.speculation.draft.init(text),
        observed=nothing_observed(B),
        drafted_B=zeros_B,
        accepted_B=zeros_B,
    )
    return _settle(r, state, _choose(r, best_B1, logits_B1V, text.known_B), zeros_B + 1)


def _choose(r: _Request, best_BS: jax.Array, logits_BSV: jax.Array | None, known_B: jax.Array) -> jax.Array:
    """The tokens that follow, of which the first is each text's token number `known_B`."""
    if logits_BSV is None:
        return best_BS
    B, S = best_BS.shape
    made_BS = jnp.add.outer(known_B - r.prompt_length_B, jnp.arange(S))
    return sample(
        logits_BSV, uniforms(r.key, r.first_sequence + jnp.arange(B), made_BS), r.fixed.filters, r.temperature
    )


def _settle(r: _Request, state: _State, chosen_BS: jax.Array, new_B: jax.Array) -> _State:
    """Takes the first `new_B` chosen tokens as known, and asks for the next draft."""
    room_B = r.prompt_length_B + r.fixed.max_new_tokens - state.text.known_B
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
    if r.fixed.speculation is None:
        return state._replace(pending_BS=last_B1, count_B=(~is_done_B).astype(jnp.int32))
    draft = r.fixed.speculation.draft
    draft_BK, offered_B, draft_state = draft.propose(state.draft, text)
    wanted_B = jnp.clip(r.draft_length()(state.observed), 0, draft.length)
    # The last token that is asked for is the model's own.
    count_B = 1 + jnp.minimum(jnp.minimum(wanted_B, offered_B), room_B - new_B - 1)
    return state._replace(
        pending_BS=jnp.concatenate([last_B1, draft_BK], axis=1),
        count_B=jnp.where(is_done_B, 0, count_B).astype(jnp.int32),
        draft=draft_state,
    )


def _check(r: _Request, state: _State) -> _State:
    """One pass through the model."""
    best_BS, logits_BSV, cache = step(
        r.decoder,
        state.pending_BS,
        state.text.known_B - 1,
        state.count_B,
        state.cache,
        with_logits=not r.fixed.filters.is_greedy,
    )
    chosen_BS = _choose(r, best_BS, logits_BSV, state.text.known_B)
    state = state._replace(cache=cache)
    if r.has_kernel():
        return _settle_by_kernel(r, state, chosen_BS)
    drafted_B = jnp.maximum(state.count_B - 1, 0)
    is_right_BK = state.pending_BS[:, 1:] == chosen_BS[:, :-1]
    is_right_BK &= jnp.arange(r.fixed.drafted)[None] < drafted_B[:, None]
    right_B = jnp.sum(jnp.cumprod(is_right_BK, axis=1), axis=1).astype(jnp.int32)
    state = state._replace(
        observed=observe(state.observed, drafted_B, right_B),
        drafted_B=state.drafted_B + drafted_B,
        accepted_B=state.accepted_B + right_B,
    )
    return _settle(r, state, chosen_BS, right_B + 1)


def _settle_by_kernel(r: _Request, state: _State, chosen_BS: jax.Array) -> _State:
    """What follows a pass through the model, for a lookup draft and a schedule by acceptance."""
    schedule = r.draft_length()
    assert r.fixed.speculation is not None and isinstance(schedule, ByAcceptance)
    chain_VK = r.fixed.speculation.draft.lookup_chain_VK
    assert chain_VK is not None
    observed, places = state.observed, state.draft
    after = speculation_round(
        Round(
            *(state.text.ids_BT, state.text.known_B, state.pending_BS, state.count_B, state.is_done_B),
            *(places.place_BM, places.noted_B, observed.checked_B, observed.right_B),
            *(state.drafted_B, state.accepted_B),
        ),
        chosen_BS,
        r.prompt_length_B + r.fixed.max_new_tokens,
        r.stop_Z,
        chain_VK,
        jnp.asarray(schedule.thresholds()),
        memory=draft_length.MEMORY,
        checked_bonus=draft_length.CHECKED,
        right_bonus=draft_length.RIGHT,
    )
    return _State(
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


def _advance(*request_state_until: Any) -> tuple[_State, Generated]:
    """Goes on until every sequence has ended or has `until` tokens."""
    *request, state, until = request_state_until
    r = _Request(*request)
    state = jax.lax.while_loop(
        lambda state: jnp.any(~state.is_done_B & (state.text.known_B < r.prompt_length_B + until)),
        functools.partial(_check, r),
        state,
    )
    made_B, N = state.text.known_B - r.prompt_length_B, r.fixed.max_new_tokens
    index_N = jnp.arange(N)
    ids_BN = jnp.take_along_axis(state.text.ids_BT, jnp.add.outer(r.prompt_length_B, index_N), axis=1)
    ids_BN = jnp.where(index_N[None] < made_B[:, None], ids_BN, 0)
    return state, Generated(ids_BN, made_B, state.observed.step, state.drafted_B, state.accepted_B)


def _generate(*request: Any) -> Generated:
    return _advance(*request, _start(*request), _Request(*request).fixed.max_new_tokens)[1]


def _cost_of_a_token(decoder: Decoder, batch_size: int) -> float:
    """What one more token a step takes, as a share of a step."""
    if decoder.engine == "reference":
        return 0.0  # all lengths are one program, whose masked rows are computed all the same
    # A step reads the weights, for 30 us, and takes 3.5 us a row, on two threads from two sequences on (1.1M
    # parameters, bfloat16, 2 cores of an EPYC of 2024): a token more is 10 % of a step of one sequence, of 32 two
    # thirds.
    rows = 0.12 * -(-batch_size // 2)
    return rows / (1.0 + rows)


class _Programs(NamedTuple):
    generate: Callable[..., Generated]
    start: Callable[..., _State]
    advance: Callable[..., tuple[_State, Generated]]


@functools.cache
def _programs(platform: str) -> _Programs:
    # A decoding step of the reference engine is many tiny operations, and entering a YNN fusion costs more than one of
    # them: without, the scaled run's model decodes 5.5 times as fast at batch 1, but 16 % slower at batch 32 (jaxlib
    # 0.10.2, 2 cores). One sequence is what people wait for, so programs are compiled without at every batch size.
    options = without_ynn(platform)
    state = len(_Request._fields)
    return _Programs(
        generate=jax.jit(_generate, static_argnums=0, compiler_options=options),
        start=jax.jit(_start, static_argnums=0, compiler_options=options),
        advance=jax.jit(_advance, static_argnums=0, donate_argnums=state, compiler_options=options),
    )


def _checked(
    decoder: Decoder,
    prompt: Any,
    prompt_length_B: Any,
    max_new_tokens: int,
    sampling: Sampling,
    stop_tokens: Sequence[int],
    speculation: Speculation | None,
    key: jax.Array | None,
) -> _Request:
    cfg = decoder.cfg
    if isinstance(prompt, Sequence) and prompt_length_B is None:
        prompt, prompt_length_B = padded(prompt)
    ids_BS = np.asarray(prompt)
    if ids_BS.ndim != 2 or not ids_BS.size or not np.issubdtype(ids_BS.dtype, np.integer):
        raise ConfigError(
            f"prompt of shape {ids_BS.shape}, {ids_BS.dtype}: must be integers [B, S] with at least one token"
        )
    B, S = ids_BS.shape
    length_B = np.full(B, S) if prompt_length_B is None else np.asarray(prompt_length_B)
    if length_B.shape != (B,) or not np.issubdtype(length_B.dtype, np.integer):
        raise ConfigError(f"prompt_length_B of shape {length_B.shape}, {length_B.dtype}: must be integers [{B}]")
    if length_B.min() < 1 or length_B.max() > S:
        raise ConfigError(f"prompt_length_B = {length_B.min()} to {length_B.max()}: must lie in 1 to {S}")
    if ids_BS.min() < 0 or ids_BS.max() >= cfg.vocab_size:
        raise ConfigError(
            f"prompt has token ids {ids_BS.min()} to {ids_BS.max()}: must lie below model.vocab_size = "
            f"{cfg.vocab_size}; encode it with the tokenizer of the run"
        )
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens = {max_new_tokens}: must be at least 1")
    longest = int(length_B.max())
    if longest + max_new_tokens > cfg.max_len:
        raise ConfigError(
            f"max_new_tokens = {max_new_tokens}: with a prompt of {longest} tokens exceeds model.max_len = "
            f"{cfg.max_len}; ask for at most {max(cfg.max_len - longest, 0)} or shorten the prompt"
        )
    if sampling.top_k > cfg.vocab_size:
        raise ConfigError(f"top_k = {sampling.top_k}: exceeds model.vocab_size = {cfg.vocab_size}")
    if not sampling.is_greedy and key is None:
        raise ConfigError(f"temperature = {sampling.temperature}: sampling needs a key; give one or use temperature 0")
    for token in stop_tokens:
        if not 0 <= token < cfg.vocab_size:
            raise ConfigError(f"stop token {token}: must lie below model.vocab_size = {cfg.vocab_size}")
    filters = Sampling() if sampling.is_greedy else dataclasses.replace(sampling, temperature=1.0)
    return _Request(
        _Fixed(max_new_tokens, filters, speculation),
        decoder,
        jnp.asarray(ids_BS, jnp.int32),
        jnp.asarray(length_B, jnp.int32),
        jnp.float32(sampling.temperature),
        jnp.asarray(stop_tokens, jnp.int32),
        jax.random.key(0) if key is None else key,
        jnp.int32(0),
    )


def padded(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of any lengths as prompt_BS, zeros behind each, and their lengths.

    Raises:
      ConfigError: there is none, or one is empty.
    """
    length_B = np.array([len(prompt) for prompt in prompts], np.int32)
    if not len(length_B) or not length_B.all():
        raise ConfigError(f"prompts of {length_B.tolist()} tokens: need at least one prompt, each with a token")
    prompt_BS = np.zeros((len(prompts), length_B.max()), np.int32)
    for row_S, prompt in zip(prompt_BS, prompts, strict=True):
        row_S[: len(prompt)] = prompt
    return prompt_BS, length_B
