"""The record of a paired run: finished blocks and evaluations as plain values, and nothing else.

It is saved as JSON beside each checkpoint and passed back in to resume; `results` computes everything from it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ryot_jax.runtime.errors import CheckpointError
from ryot_jax.runtime.json_values import plain


@dataclasses.dataclass(frozen=True)
class Block:
    """One block of steps, run by every arm in two visits: in `order`, and back.

    Attributes:
      index: position in the run, from 0.
      epoch: its epoch, from 1.
      steps: training steps in it, per arm.
      tokens: target tokens trained on, per arm.
      order: names of the arms in the order of their first visits.
      seconds: wall-clock seconds by arm.
      train_loss: mean training loss over the block's steps by arm, nats/token.
      first_loss: training loss of the block's first step by arm, nats/token.
      batches_hash: running sha256 of all batches up to the block's end, the same for all arms.
    """

    index: int
    epoch: int
    steps: int
    tokens: int
    order: tuple[str, ...]
    seconds: Mapping[str, float]
    train_loss: Mapping[str, float]
    first_loss: Mapping[str, float]
    batches_hash: str


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Held-out losses of all arms after `step` steps (0: before the first), nats/token."""

    step: int
    epoch: int
    mean_loss: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Record:
    """The results of a paired run so far.

    Attributes:
      arms: names of the arms, the baseline first.
      initial_params_hash: sha256 of the initial weights, the same for all arms.
      blocks: finished blocks in order.
      heldout: evaluations in order, the first at step 0.
      sequence_losses: per-sequence held-out losses of the last evaluation by arm, nats/token.
    """

    arms: tuple[str, ...]
    initial_params_hash: str
    blocks: tuple[Block, ...] = ()
    heldout: tuple[HeldOut, ...] = ()
    sequence_losses: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    @property
    def step(self) -> int:
        """Training steps that every arm has done."""
        return sum(block.steps for block in self.blocks)

    def with_block(self, block: Block) -> "Record":
        """This record with one more block."""
        return dataclasses.replace(self, blocks=(*self.blocks, block))

    def with_heldout(self, heldout: HeldOut, sequence_losses: Mapping[str, tuple[float, ...]]) -> "Record":
        """This record with one more evaluation."""
        return dataclasses.replace(self, heldout=(*self.heldout, heldout), sequence_losses=dict(sequence_losses))

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values."""
        value: dict[str, Any] = plain(self, keep_non_finite=True)
        return value

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Record":
        """The record that `to_json` made `value` from.

        Raises:
          CheckpointError: a field is missing or unknown.
        """
        try:
            blocks = tuple(Block(**{**b, "order": tuple(b["order"])}) for b in value["blocks"])
            return Record(
                arms=tuple(value["arms"]),
                initial_params_hash=value["initial_params_hash"],
                blocks=blocks,
                heldout=tuple(HeldOut(**e) for e in value["heldout"]),
                sequence_losses={name: tuple(v) for name, v in value["sequence_losses"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the comparison's record in the checkpoint is damaged or of another version ({error!r}); "
                "start a new run without --resume"
            ) from error
