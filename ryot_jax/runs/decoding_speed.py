"""The stage that times generating text with the best checkpoint: without a draft, with one, and 32 texts at once."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ryot_jax import decoding
from ryot_jax.comparison.schema import DecodingResult, Measured
from ryot_jax.comparison.statistics import speed_up
from ryot_jax.data.batches import IGNORED, heldout_batches
from ryot_jax.data.pipeline import Corpus
from ryot_jax.decoding import Decoder, Generated
from ryot_jax.runs import redraw
from ryot_jax.runs.checkpoint_of_run import CheckpointOfRun, restore
from ryot_jax.runs.chosen_checkpoint import ChosenCheckpoint, best_of
from ryot_jax.runs.run import Run
from ryot_jax.runs.stage import Failure, Stage, StageResult
from ryot_jax.runtime.console import Console

PROMPTS = 32  # at most; also the number of texts generated at once
_SECONDS = 3.0  # after which no further round over all prompts starts
_MOST_ROUNDS = 16  # even
_BATCHES = 5
_MEASURED = (
    *("tokens_per_second", "speculative_tokens_per_second", "speed", "acceptance", "tokens_per_step"),
    *("identical", "identical_prompts", "batch32_tokens_per_second"),
)

Way = Callable[[np.ndarray], Generated]


def measure(checkpoint: CheckpointOfRun, chosen: ChosenCheckpoint, corpus: Corpus, console: Console) -> DecodingResult:
    """Continues held-out prompts greedily and times it: `decoding` of `results.json`.

    A prompt takes a quarter of the model's positions, the continuation the rest. Measured numbers are None if that
    leaves no position for a new token.
    """
    start = time.perf_counter()
    model = checkpoint.model
    prompt_BS = _prompts(corpus.heldout, checkpoint.config, max(1, model.max_len // 4))
    B, S = prompt_BS.shape
    new_tokens = model.max_len - S
    decoder = decoding.prepare(checkpoint.params, model)
    console.line(
        f"decoding with the {chosen.checkpoint} checkpoint of {chosen.arm}: {B} prompts of {S} tokens, {new_tokens} "
        f"new ones each ({decoder.engine} engine in {decoder.dtype})"
    )
    measured = _measured(decoder, prompt_BS, new_tokens) if new_tokens > 0 else dict.fromkeys(_MEASURED)
    return DecodingResult(
        arm=chosen.arm,
        step=checkpoint.step,
        engine=decoder.engine,
        dtype=decoder.dtype,
        prompts=B,
        prompt_tokens=S,
        new_tokens=new_tokens,
        draft="lookup",
        **measured,
        seconds=time.perf_counter() - start,
    )


def _prompts(ids: np.ndarray, config: ConfigDict, length: int) -> np.ndarray:
    """Prompts from evenly spaced positions of the text, int32[B, S]; fewer than `PROMPTS` if the text is short."""
    windows = heldout_batches(ids, seq_len=config.training.seq_len, batch_size=PROMPTS, sequences=PROMPTS)
    is_real_B = windows["targets"][0, :, 0] != IGNORED
    return windows["inputs"][0, is_real_B, :length]


def _measured(decoder: Decoder, prompt_BS: np.ndarray, new_tokens: int) -> dict[str, Any]:
    draft = decoding.lookup_draft(decoder.cfg.vocab_size, successor_V=decoding.bigrams(decoder))
    plain = functools.partial(decoding.generate, decoder, max_new_tokens=new_tokens)
    speculative = functools.partial(plain, speculation=decoding.Speculation(draft))
    seconds_RB2, is_same_B, drafted = _by_turns((plain, speculative), prompt_BS)
    plain_B, speculative_B = np.median(seconds_RB2, axis=0).T
    speed = speed_up(plain_B, speculative_B)
    n_drafted, n_accepted, n_steps = (
        sum(int(np.sum(count)) for count in counts)
        for counts in zip(*((one.drafted_B, one.accepted_B, one.steps) for one in drafted), strict=True)
    )
    at_once_BS = np.resize(prompt_BS, (PROMPTS, prompt_BS.shape[1]))  # repeats the prompts if there are fewer
    at_once = np.median([_timed(plain, at_once_BS)[0] for _ in range(1 + _BATCHES)][1:])  # the first call compiles
    return {
        "tokens_per_second": float(new_tokens / plain_B.mean()),
        "speculative_tokens_per_second": float(new_tokens / speculative_B.mean()),
        "speed": Measured(estimate=speed.estimate, ci95=speed.ci95),
        "acceptance": n_accepted / n_drafted if n_drafted else None,
        # The first new token comes with the prompt; without a draft each other one takes a step.
        "tokens_per_step": (new_tokens - 1) * len(prompt_BS) / n_steps if n_steps else None,
        "identical": bool(is_same_B.all()),
        "identical_prompts": int(is_same_B.sum()),
        "batch32_tokens_per_second": float(PROMPTS * new_tokens / at_once),
    }


def _by_turns(ways: tuple[Way, Way], prompt_BS: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Generated]]:
    """Times both ways on one prompt after the other, in rounds; the way that goes first alternates.

    Returns:
      Seconds, float64[rounds, B, 2]; whether both ways always gave the same tokens, by prompt, bool[B]; and the
      output of the second way for each prompt.
    """
    for way in ways:
        jax.block_until_ready(way(prompt_BS[:1]))  # compilation
    seconds: list[np.ndarray] = []
    is_same_B = np.ones(len(prompt_BS), bool)
    start = time.perf_counter()
    while not _enough(len(seconds), time.perf_counter() - start):
        second, seconds_B2 = [], np.zeros((len(prompt_BS), 2))
        for b in range(len(prompt_BS)):
            made: dict[int, Generated] = {}
            for w in (0, 1) if (len(seconds) + b) % 2 == 0 else (1, 0):
                seconds_B2[b, w], made[w] = _timed(ways[w], prompt_BS[b : b + 1])
            is_same_B[b] &= np.array_equal(made[0].ids_BN, made[1].ids_BN)
            second.append(made[1])
        seconds.append(seconds_B2)
    return np.array(seconds), is_same_B, second


def _enough(rounds: int, seconds: float) -> bool:
    """Whether to stop: after one long round, or an even number, in which each way went first equally often."""
    is_whole = rounds == 1 or (rounds > 0 and rounds % 2 == 0)
    return is_whole and (seconds >= _SECONDS or rounds == _MOST_ROUNDS)


def _timed(way: Way, prompt_BS: np.ndarray) -> tuple[float, Generated]:
    start = time.perf_counter()
    generated = jax.block_until_ready(way(prompt_BS))
    return time.perf_counter() - start, generated


def _applies(run: Run, arm: str) -> bool:
    return bool(run.config.decoding.enabled and run.config.checkpoint.enabled)


def _measured_before(run: Run, arm: str) -> DecodingResult | None:
    earlier = redraw.measured_before(run.directory.results)
    before = None if earlier is None else earlier.decoding
    step = restore(run.session, best_of(run.directory, arm)).step
    return before if before is not None and (before.arm, before.step) == (arm, step) else None


def _measure_best(run: Run, arm: str) -> StageResult[DecodingResult | None]:
    chosen = best_of(run.directory, arm)
    return StageResult(measure(restore(run.session, chosen), chosen, run.corpus, run.console))


STAGE = Stage(
    "decoding",
    _measure_best,
    applies=_applies,
    measured_before=_measured_before,
    failure=Failure("decoding was not measured", "Decoding was not measured"),
)
