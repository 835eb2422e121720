"""Speed of generating text with a checkpoint."""

from ryot_jax.comparison.schema.base import Measured
from ryot_jax.runtime.records import Record


class DecodingResult(Record, frozen=True, kw_only=True):
    """Speed of greedy continuations of held-out prompts: without a draft, with one, and 32 texts at once.

    Measured numbers are None if the model has no position for a new token after a prompt.

    Attributes:
      arm: arm of the checkpoint.
      step: step of the checkpoint.
      engine: 'cpu' or 'reference'; only the former promises the same tokens with and without a draft.
      dtype: dtype of the engine's matrix products.
      prompts: number of prompts.
      prompt_tokens: tokens of each prompt.
      new_tokens: tokens generated for each prompt.
      draft: kind of the draft.
      tokens_per_second: tokens/s at batch 1 without a draft.
      speculative_tokens_per_second: tokens/s at batch 1 with the draft.
      speed: ratio of tokens/s, with / without the draft, over prompts.
      acceptance: accepted / drafted tokens; None if no token was drafted.
      tokens_per_step: tokens per step after the first token, which comes with the prompt; 1 without a draft.
      identical: whether both ways gave the same tokens for all prompts.
      identical_prompts: number of prompts for which they did.
      batch32_tokens_per_second: tokens/s of 32 texts at once.
      seconds: seconds that the measurement took.
    """

    arm: str
    step: int
    engine: str
    dtype: str
    prompts: int
    prompt_tokens: int
    new_tokens: int
    draft: str
    tokens_per_second: float | None
    speculative_tokens_per_second: float | None
    speed: Measured | None
    acceptance: float | None
    tokens_per_step: float | None
    identical: bool | None
    identical_prompts: int | None
    batch32_tokens_per_second: float | None
    seconds: float
