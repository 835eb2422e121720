"""The bookkeeping between two steps of speculative decoding, in one call of the C++ kernels.

It handles integers and a handful of floats, but as XLA operations they would take a quarter as long as the step. The
computation is defined by `ryot_jax.decoding`, whose functions for any draft and any draft length are its reference.
"""

from typing import NamedTuple

import jax
import numpy as np

from ryot_jax.kernels import cpu


class Round(NamedTuple):
    """The state that changes from step to step.

    Attributes:
      ids_BT: int32, the texts; entries from `known_B` on are unspecified.
      known_B: int32, their lengths.
      pending_BS: int32, the last known token followed by drafted ones.
      count_B: int32, number of pending tokens that were, or are to be, checked; 0 for a finished text.
      is_done_B: bool, whether the text is finished.
      place_BV: int32, last position of each token that has a successor; -1: none.
      noted_B: int32, number of tokens of the text that `place_BV` covers.
      checked_B, right_B: float32, running counts of checked and of correct drafted tokens, see `Observed`.
      drafted_B, accepted_B: int32, the same counts since the beginning.
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
    """Accept the correctly drafted tokens, up to a stop token or the limit, and draft again.

    Args:
      before: the state before the step.
      chosen_BS: int32, the model's choice after each pending token.
      limit_B: int32, the lengths of the whole texts.
      stop_Z: int32, tokens that end a text.
      chain_VK: int32, the guesses after a token that is new in its text.
      thresholds_K: float32, increasing: the acceptance rate from which one more token is checked.
      memory: decay of the running counts: count = memory * count + bonus + observed.
      checked_bonus: bonus of the number of checked tokens.
      right_bonus: bonus of the number of correct tokens.

    Raises:
      NotImplementedError: the C++ kernels are not available.
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
