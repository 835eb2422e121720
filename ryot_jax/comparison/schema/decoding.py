"""How fast a checkpoint generates text."""

from ryot_jax.comparison.schema.base import Measured
from ryot_jax.runtime.records import Record


class DecodingResult(Record, frozen=True, kw_only=True):
    """Greedy continuations of held-out prompts, plainly, with a draft, and 32 at once.

    What is measured is None where the model has no position for a new token behind a prompt.

    Attributes:
      arm: whose checkpoint it is.
      step: of the checkpoint.
      engine: 'cpu' or 'reference'; only the former promises the same tokens with and without a draft.
      dtype: of its products.
      prompts: how many.
      prompt_tokens: of each.
      new_tokens: generated for each.
      draft: kind of the draft.
      tokens_per_second: at batch 1, without a draft.
      speculative_tokens_per_second: at batch 1, with the draft.
      speed: with / without the draft, over prompts.
      acceptance: accepted / drafted tokens; None where none was drafted.
      tokens_per_step: behind the first, which comes with the prompt; 1 without a draft.
      identical: whether both ways gave the same tokens for all prompts.
      identical_prompts: for how many they did.
      batch32_tokens_per_second: of 32 texts at once.
      seconds: that measuring took.
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
