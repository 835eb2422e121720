"""Continuation of prompts by programs compiled once: `generate` returns the whole text, `stream` yields it in parts."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.decoding.engine import Decoder
from ryot_jax.decoding.loop import Generated, LoopState, advance, start
from ryot_jax.decoding.request import Request, Speculation, checked_request
from ryot_jax.decoding.sampling import GREEDY, Sampling
from ryot_jax.runtime.compiler import without_ynn
from ryot_jax.runtime.errors import ConfigError


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
    request = checked_request(
        decoder, prompt_BS, prompt_length_B, max_new_tokens, sampling, stop_tokens, speculation, key
    )
    request = request._replace(first_sequence=jnp.int32(first_sequence))
    return programs(decoder.platform).generate(*request)


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
    """`generate`, yielding all tokens so far each time that a sequence has `every` more of them, and at the end.

    Two programs, one for the prompt and one for what follows, whatever `every` is.
    """
    if every < 1:
        raise ConfigError(f"every = {every}: must be at least 1")
    request = checked_request(
        decoder, prompt_BS, prompt_length_B, max_new_tokens, sampling, stop_tokens, speculation, key
    )
    compiled = programs(decoder.platform)
    state = compiled.start(*request)
    for until in (*range(every, max_new_tokens, every), max_new_tokens):
        state, generated = compiled.advance(*request, state, until)
        yield generated
        if state.is_done_B.all():
            return


def _generate(*request: Any) -> Generated:
    return advance(*request, start(*request), Request(*request).compiled_for.max_new_tokens)[1]


class _Programs(NamedTuple):
    generate: Callable[..., Generated]
    start: Callable[..., LoopState]
    advance: Callable[..., tuple[LoopState, Generated]]


@functools.cache
def programs(platform: str) -> _Programs:
    """The jitted programs for a platform ('cpu', 'gpu' or 'tpu')."""
    # A decoding step of the reference engine is many tiny operations, and entering a YNN fusion costs more than one of
    # them: without, the scaled run's model decodes 5.5 times as fast at batch 1, but 16 % slower at batch 32 (jaxlib
    # 0.10.2, 2 cores). One sequence is what people wait for, so programs are compiled without at every batch size.
    options = without_ynn(platform)
    state = len(Request._fields)
    return _Programs(
        generate=jax.jit(_generate, static_argnums=0, compiler_options=options),
        start=jax.jit(start, static_argnums=0, compiler_options=options),
        advance=jax.jit(advance, static_argnums=0, donate_argnums=state, compiler_options=options),
    )
