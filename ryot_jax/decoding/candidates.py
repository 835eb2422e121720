"""Several candidates for answers that a program can check: best of n, a growing budget, and a majority vote.

Unlike drafts, candidates change the output: they spend tokens for a higher rate of success.
"""

import ast
import collections
import dataclasses
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import jax
import numpy as np

from ryot_jax.decoding.engine import Decoder
from ryot_jax.decoding.generate import generate
from ryot_jax.decoding.request import Speculation
from ryot_jax.decoding.sampling import Sampling
from ryot_jax.runtime.errors import ConfigError

Answer = TypeVar("Answer", bound=Hashable)
Check = Callable[[list[int]], bool]
"""Function of the new token ids, including a stop token: whether the candidate is right."""

CandidateBudget = Sequence[int]
"""Number of candidates of each round; a round runs only if all candidates before it have failed."""


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The candidate answers that were generated for one prompt.

    Attributes:
      ids: the new tokens of the answer: the first candidate that passes the check, else the first one of all.
      passed: whether it passes.
      n_tried: candidates that were generated.
      n_tokens: new tokens of all of them.
    """

    ids: list[int]
    passed: bool
    n_tried: int
    n_tokens: int


def growing_budget(total: int) -> tuple[int, ...]:
    """Rounds of 1, 1, 2, 4, .. candidates, as many as all before, up to `total` in all.

    An easy prompt costs one candidate; a hard one at most as many rounds, and programs, as total has binary digits,
    and one more.
    """
    if total < 1:
        raise ConfigError(f"candidates = {total}: must be at least 1")
    rounds = [1]
    while sum(rounds) < total:
        rounds.append(min(sum(rounds), total - sum(rounds)))
    return tuple(rounds)


def best_of(
    decoder: Decoder,
    prompt: Sequence[int],
    check: Check,
    *,
    budget: CandidateBudget,
    max_new_tokens: int,
    sampling: Sampling,
    key: jax.Array,
    stop_tokens: Sequence[int] = (),
    speculation: Speculation | None = None,
) -> Candidates:
    """Generates candidates in rounds until one passes the check or the budget is spent.

    Args:
      decoder: see `prepare`.
      prompt: one text's ids.
      check: decides whether a candidate is right.
      budget: candidates of each round, such as (10,) for ten at once, or `growing_budget(10)`.
      max_new_tokens: largest number of new tokens per candidate.
      sampling: the choice of tokens.
      key: candidate number i is the same one whatever the rounds are.
      stop_tokens: ids that end a candidate.
      speculation: drafts, as in `generate`.

    Raises:
      ConfigError: an argument is invalid; greedy sampling, for one, would make all candidates equal.
    """
    if not budget or min(budget) < 1:
        raise ConfigError(f"budget = {tuple(budget)}: needs at least one round, each of at least one candidate")
    if sampling.is_greedy and sum(budget) > 1:
        raise ConfigError("temperature = 0: greedy candidates are all the same; sample, or ask for one candidate")
    first: list[int] | None = None
    n_tried = n_tokens = 0
    for n in budget:
        generated = generate(
            decoder,
            np.tile(np.asarray(prompt, np.int32), (n, 1)),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_tokens=stop_tokens,
            speculation=speculation,
            key=key,
            first_sequence=n_tried,
        )
        candidates = [ids[:length].tolist() for ids, length in zip(*map(np.asarray, generated[:2]), strict=True)]
        n_tried += n
        n_tokens += sum(map(len, candidates))
        first = candidates[0] if first is None else first
        for ids in candidates:
            if check(ids):
                return Candidates(ids, True, n_tried, n_tokens)
    assert first is not None
    return Candidates(first, False, n_tried, n_tokens)


def majority(answers: Iterable[Answer]) -> Answer:
    """The most frequent answer, of equals the one that came first (self-consistency, arXiv:2203.11171).

    Raises:
      ValueError: there are no answers.
    """
    counts = collections.Counter(answers)
    if not counts:
        raise ValueError("no answers to choose from")
    return counts.most_common(1)[0][0]


def compiles(source: str) -> bool:
    """Whether the text is Python that parses, as far as its last complete line, which is more than a comment."""
    lines = source.rsplit("\n", 1)[0] if "\n" in source else source
    try:
        with warnings.catch_warnings():  # of what the text says, not of this program
            warnings.simplefilter("ignore")
            return bool(ast.parse(lines).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
