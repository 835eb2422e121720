"""Requests to generate: arguments checked once, in the form that the compiled programs take."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.decoding.draft_length import ByAcceptance, DraftLength
from ryot_jax.decoding.drafts import Draft
from ryot_jax.decoding.engine import Decoder
from ryot_jax.decoding.sampling import Sampling
from ryot_jax.model.config import ModelConfig
from ryot_jax.runtime.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Speculation:
    """A draft, and how many of its tokens to check in each step; None: `ByAcceptance`, at the cost seen on a CPU.

    Programs are compiled for each object: make one, and use it for all calls.
    """

    draft: Draft
    draft_length: DraftLength | None = None


class CompiledFor(NamedTuple):
    """The part of a request that a program is compiled for."""

    max_new_tokens: int
    filters: Sampling  # its temperature is 0 or 1
    speculation: Speculation | None

    @property
    def drafted(self) -> int:
        """Tokens of a draft; 0 without speculation."""
        return 0 if self.speculation is None else self.speculation.draft.length


class Request(NamedTuple):
    """The arguments of the programs; `compiled_for` is static."""

    compiled_for: CompiledFor
    decoder: Decoder
    prompt_BS: jax.Array
    prompt_length_B: jax.Array
    temperature: jax.Array
    stop_Z: jax.Array
    key: jax.Array
    first_sequence: jax.Array

    def draft_length(self) -> DraftLength:
        """The number of drafted tokens to check, as a function of what was observed; only with speculation."""
        assert self.compiled_for.speculation is not None
        chosen = self.compiled_for.speculation.draft_length
        if chosen is not None:
            return chosen
        longest = self.compiled_for.drafted
        return ByAcceptance(_cost_of_a_token(self.decoder, len(self.prompt_BS)), longest)

    def has_kernel(self) -> bool:
        """Whether a C++ kernel settles rounds of this draft and draft length."""
        speculation = self.compiled_for.speculation
        if speculation is None or speculation.draft.lookup_chain_VK is None or self.decoder.engine != "cpu":
            return False
        schedule = self.draft_length()
        return isinstance(schedule, ByAcceptance) and schedule.longest == self.compiled_for.drafted


def checked_request(
    decoder: Decoder,
    prompt: Any,
    prompt_length_B: Any,
    max_new_tokens: int,
    sampling: Sampling,
    stop_tokens: Sequence[int],
    speculation: Speculation | None,
    key: jax.Array | None,
) -> Request:
    """Makes a request of the arguments of `generate`.

    Raises:
      ConfigError: an argument is invalid.
    """
    cfg = decoder.cfg
    ids_BS, length_B = _checked_prompts(cfg, prompt, prompt_length_B)
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
    return Request(
        CompiledFor(max_new_tokens, filters, speculation),
        decoder,
        jnp.asarray(ids_BS, jnp.int32),
        jnp.asarray(length_B, jnp.int32),
        jnp.float32(sampling.temperature),
        jnp.asarray(stop_tokens, jnp.int32),
        jax.random.key(0) if key is None else key,
        jnp.int32(0),
    )


def _checked_prompts(cfg: ModelConfig, prompt: Any, prompt_length_B: Any) -> tuple[np.ndarray, np.ndarray]:
    """Prompts [B, S] and their lengths [B], within the model's vocabulary."""
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
    return ids_BS, length_B


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


def _cost_of_a_token(decoder: Decoder, batch_size: int) -> float:
    """The time that one more token adds to a step, as a share of the step."""
    if decoder.engine == "reference":
        return 0.0  # all lengths are one program, whose masked rows are computed all the same
    # A step reads the weights, for 30 us, and takes 3.5 us a row, on two threads from two sequences on (1.1M
    # parameters, bfloat16, 2 cores of an EPYC of 2024): a token more is 10 % of a step of one sequence, of 32 two
    # thirds.
    rows = 0.12 * -(-batch_size // 2)
    return rows / (1.0 + rows)
