"""What happens between two steps of speculative decoding, in one call of the C++ kernels.

It is integers and a handful of floats, but as operations of XLA they would take a quarter as long as the step. What is
computed is defined by `ryot_jax.decoding`, whose functions for any draft and any schedule are its reference.
"""

from typing import NamedTuple

import jax
import numpy as np

from ryot_jax.kernels import cpu


class Round(NamedTuple):
    """What changes from step to step.

    Attributes:
      ids_BT: int32, the texts; what lies behind `known_B` may be anything.
      known_B: int32, their lengths.
      pending_BS: int32, the last known token, and drafted ones.
      count_B: int32, of the pending tokens that were, or are to be, checked; 0 for a text that has ended.
      is_done_B: bool.
      place_BV: int32, where each token last stood with another behind it; -1: nowhere.
      noted_B: int32, the tokens of the text that `place_BV` knows of.
      checked_B, right_B: float32, the running numbers of drafted tokens, see `Observed`.
      drafted_B, accepted_B: int32, the same from the beginning on.
    """

    ids_BT: jax.Array
    known_B: jax.Array
    pending_BS: jax.Array
    count_B: jax.Array
    is_done_B: jax.Array
    place_BV: jax.Array
    noted_B: jax.Array
    checked_B: jax.Array
    right_B: jax.Array
    drafted_B: jax.Array
    accepted_B: jax.Array


def speculation_round(
    before: Round,
    chosen_BS: jax.Array,
    limit_B: jax.Array,
    stop_Z: jax.Array,
    chain_VK: jax.Array,
    thresholds_K: jax.Array,
    *,
    memory: float,
    checked_bonus: float,
    right_bonus: float,
) -> Round:
    """Takes what was drafted right as known, up to a stop token or the limit, and drafts anew.

    Args:
      before: the state of the step that was taken.
      chosen_BS: int32, what the model chose after each pending token.
      limit_B: int32, the lengths of the whole texts.
      stop_Z: int32, tokens that end a text.
      chain_VK: int32, the guesses after a token that is new in its text.
      thresholds_K: float32, rising: the acceptance from which on one token more is checked.
      memory: the running numbers become memory * number + bonus + what was seen.
      checked_bonus: of the number of tokens checked.
      right_bonus: of the number of tokens that were right.

    Raises NotImplementedError where there are no C++ kernels.
    """
    outputs = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in before)
    arguments = (chosen_BS, limit_B, stop_Z, chain_VK, thresholds_K)
    after = cpu.call(
        "ryot_speculation_round",
        outputs,
        *arguments,
        *before,
        aliases={f"before[{i}]": f"after[{i}]" for i in range(len(before))},
        memory=np.float32(memory),
        checked_bonus=np.float32(checked_bonus),
        right_bonus=np.float32(right_bonus),
    )
    return Round(*after)
