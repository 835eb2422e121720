"""`ryot generate`: prompts continued with a run's checkpoint."""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np

from ryot_jax import decoding
from ryot_jax.data.tokenizer import JsonTokenizer
from ryot_jax.runs.checkpoint_of_run import CheckpointOfRun, restore, restore_compressed
from ryot_jax.runs.chosen_checkpoint import ChosenCheckpoint
from ryot_jax.runs.session import Session
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import ConfigError

_STREAM_EVERY = 16  # tokens


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of generating text.

    Attributes:
      prompts: at least one prompt.
      max_new_tokens: largest number of new tokens; None: as many as the model has positions for.
      sampling: temperature and cuts of the distribution.
      seed: seed of the sampling.
      draft: 'lookup', 'bigram' or 'none'.
      draft_length: tokens per draft; 0: adapted to the tokens accepted so far.
      candidates: largest number of candidates per prompt.
      engine: 'auto', 'cpu' or 'reference'.
      compressed: whether to use the checkpoint's compressed file.
    """

    prompts: tuple[str, ...]
    max_new_tokens: int | None
    sampling: decoding.Sampling
    seed: int
    draft: str
    draft_length: int
    candidates: int
    engine: str
    compressed: bool


def generate(session: Session, chosen: ChosenCheckpoint, options: Options, console: Console) -> int:
    """Prints each prompt and streams its continuation; returns 0.

    Args:
      session: session of the run's config.
      chosen: the checkpoint.
      options: the prompts and the options of generating.
      console: receives the text.

    Raises:
      CheckpointError: the checkpoint or its tokenizer does not exist or is damaged.
      ConfigError: an option is invalid, or a prompt and its new tokens exceed the model's positions.
    """
    trained = (restore_compressed if options.compressed else restore)(session, chosen)
    tokenizer, model = trained.require_tokenizer(), trained.model
    prompts = [tokenizer.encode(prompt) for prompt in options.prompts]
    if not all(prompts):
        raise ConfigError("--prompt is empty; give at least one character")
    new_tokens = options.max_new_tokens or max(model.max_len - max(map(len, prompts)), 1)
    start = time.perf_counter()
    decoder = decoding.prepare(trained.params, model, engine=options.engine)
    request = _Request(
        decoder,
        tokenizer,
        new_tokens,
        options.sampling,
        _speculation(decoder, options),
        jax.random.key(options.seed),
    )
    if options.candidates > 1:
        said = []
        for number, prompt in enumerate(prompts, 1):
            _head(number, prompts, console)
            said.append(_best_candidate(request, prompt, options, console))
    else:
        said = [_plain(request, prompts, console)]
    seconds = time.perf_counter() - start
    console.line()
    console.line(
        f"({_described(trained, chosen, options)}; {'; '.join(said)}, {seconds:.2f} s, compilation included; "
        f"{decoder.engine} engine in {decoder.dtype})"
    )
    return 0


@dataclasses.dataclass(frozen=True)
class _Request:
    decoder: decoding.Decoder
    tokenizer: JsonTokenizer
    new_tokens: int
    sampling: decoding.Sampling
    speculation: decoding.Speculation | None
    key: jax.Array


def _speculation(decoder: decoding.Decoder, options: Options) -> decoding.Speculation | None:
    if options.draft == "none":
        return None
    successor_V = decoding.bigrams(decoder)
    length = options.draft_length or decoding.DRAFT_LENGTH
    if options.draft == "bigram":
        draft = decoding.bigram_draft(successor_V, length=length)
    else:
        draft = decoding.lookup_draft(decoder.cfg.vocab_size, length=length, successor_V=successor_V)
    return decoding.Speculation(draft, decoding.fixed(length) if options.draft_length else None)


def _plain(request: _Request, prompts: list[list[int]], console: Console) -> str:
    """Prints the texts, streaming that of a single prompt, and returns the counts of tokens and steps in words."""
    stream = decoding.stream(
        request.decoder,
        prompts,
        max_new_tokens=request.new_tokens,
        every=_STREAM_EVERY,
        sampling=request.sampling,
        stop_tokens=[request.tokenizer.eod],
        speculation=request.speculation,
        key=request.key,
    )
    written, generated = 0, None
    for generated in stream:
        if len(prompts) == 1:
            text = _text(request.tokenizer, prompts[0], generated, 0)
            # Prints whole lines only: the bytes of a character may lie in several tokens.
            end = text.rfind("\n") + 1
            if end > written:
                console.line(text[written : end - 1])
                written = end
    assert generated is not None
    if len(prompts) == 1:
        console.line(_text(request.tokenizer, prompts[0], generated, 0)[written:])
    else:
        for row, prompt in enumerate(prompts):
            _head(row + 1, prompts, console)
            console.line(_text(request.tokenizer, prompt, generated, row))
    tokens, steps = int(generated.length_B.sum()), int(generated.steps)
    drafted, accepted = int(generated.drafted_B.sum()), int(generated.accepted_B.sum())
    speculation = f", {accepted} of {drafted} drafted tokens right" if drafted else ""
    return f"{tokens} tokens in {steps} steps{speculation}"


def _head(number: int, prompts: list[list[int]], console: Console) -> None:
    if len(prompts) > 1:
        console.line(f"--- {number}")


def _best_candidate(request: _Request, prompt: list[int], options: Options, console: Console) -> str:
    """Prints the best candidate for one prompt, and returns the counts of candidates and tokens in words."""
    tokenizer = request.tokenizer
    answer = decoding.best_of(
        request.decoder,
        prompt,
        lambda ids: decoding.compiles(tokenizer.decode([*prompt, *_before_end(ids, tokenizer.eod)])),
        budget=decoding.growing_budget(options.candidates),
        max_new_tokens=request.new_tokens,
        sampling=request.sampling,
        stop_tokens=[tokenizer.eod],
        speculation=request.speculation,
        key=request.key,
    )
    console.line(tokenizer.decode([*prompt, *_before_end(answer.ids, tokenizer.eod)]))
    verdict = "parses" if answer.passed else "none of them parses"
    return f"{answer.n_tried} candidates of {answer.n_tokens} tokens, {verdict}"


def _text(tokenizer: JsonTokenizer, prompt: list[int], generated: decoding.Generated, row: int) -> str:
    ids = np.asarray(generated.ids_BN[row, : int(generated.length_B[row])]).tolist()
    # Decoded in one piece: a character's bytes may lie on both sides of the prompt's end.
    return tokenizer.decode([*prompt, *_before_end(ids, tokenizer.eod)])


def _before_end(ids: Sequence[int], eod: int) -> list[int]:
    return list(ids[: ids.index(eod)]) if eod in ids else list(ids)


def _described(trained: CheckpointOfRun, chosen: ChosenCheckpoint, options: Options) -> str:
    compressed = ", compressed" if options.compressed else ""
    return f"{chosen.arm}, {chosen.checkpoint} checkpoint of step {trained.step}{compressed}"
