"""The paired protocol: every arm runs the same blocks of steps, in a random order inside each block, there and back.

Interleaving makes a drift of the machine hit all arms alike; the way back in reverse order cancels a linear drift
within the block; the random order keeps any periodic load from favouring one arm. `arms` and `function_arm` implement
the arms, `outcomes` interprets the record.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from ryot_jax.comparison.interleaving import there_and_back
from ryot_jax.comparison.record import Block, HeldOut, Record
from ryot_jax.runtime.errors import CheckpointError, RyotError


class BlockResult(Protocol):
    """Times and losses of a block of steps."""

    @property
    def seconds(self) -> float:
        """Wall-clock seconds, from an idle device to the last result."""

    @property
    def losses(self) -> Sequence[float]:
        """Training loss of each step, nats/token."""

    @property
    def tokens(self) -> int:
        """Target tokens trained on."""


class Evaluation(Protocol):
    """Held-out losses, nats/token."""

    @property
    def mean_loss(self) -> float:
        """Mean loss over all targets, nats/token."""

    @property
    def sequence_losses(self) -> np.ndarray:
        """Mean loss of each sequence, float64[n]; the same sequences in the same order for every arm."""


class Arm(Protocol):
    """A variant in training, such as `arms.Arm`."""

    name: str

    @property
    def step(self) -> int:
        """Number of training steps done."""

    def params_hash(self) -> str:
        """Sha256 of the current weights, see `tree_hash`."""

    def batches_hash(self) -> str:
        """Running sha256 of every batch that the arm was fed."""

    def warm_up(self) -> None:
        """Executes every compiled program once, untimed, on copies; the state of the arm does not change.

        The first execution of a program pays for page faults and lazy set-up, which are not part of a step.
        """

    def run_block(self, n_steps: int) -> BlockResult:
        """Takes `n_steps` training steps; the device is idle before and after."""

    def evaluate(self) -> Evaluation:
        """Held-out losses of the current weights, from one evaluator for all arms."""


@dataclasses.dataclass(frozen=True)
class ScheduledBlock:
    """A block that is due: `steps` steps that end at step `end_step`, in epoch `epoch` (from 1)."""

    index: int
    epoch: int
    steps: int
    end_step: int
    ends_epoch: bool


@dataclasses.dataclass(frozen=True)
class BlockSchedule:
    """The blocks of a run and the order of the arms in each, a pure function of these five numbers.

    Attributes:
      epochs: number of epochs; each ends with an evaluation.
      steps_per_epoch: training steps per epoch.
      block_steps: steps per block; the last block of an epoch takes the remaining steps.
      tokens_per_step: target tokens per step; a block that reports another number is an error.
      seed: seed of the order of arms.
    """

    epochs: int
    steps_per_epoch: int
    block_steps: int
    tokens_per_step: int
    seed: int

    @property
    def total_steps(self) -> int:
        """Training steps of the whole run, per arm."""
        return self.epochs * self.steps_per_epoch

    def blocks(self) -> tuple[ScheduledBlock, ...]:
        """All blocks of the run in order."""
        blocks: list[ScheduledBlock] = []
        for epoch in range(1, self.epochs + 1):
            for start in range(0, self.steps_per_epoch, self.block_steps):
                steps = min(self.block_steps, self.steps_per_epoch - start)
                end = (epoch - 1) * self.steps_per_epoch + start + steps
                ends_epoch = start + steps == self.steps_per_epoch
                blocks.append(ScheduledBlock(len(blocks), epoch, steps, end, ends_epoch))
        return tuple(blocks)

    def order(self, index: int, names: Sequence[str]) -> tuple[str, ...]:
        """The order of the arms in block `index`, from seed and index alone, so that a resumed run keeps it."""
        generator = np.random.default_rng((self.seed, index))
        return tuple(names[i] for i in generator.permutation(len(names)))

    def visits(self, block: ScheduledBlock, names: Sequence[str]) -> tuple[tuple[str, int], ...]:
        """The visits of a block, (arm, steps) in the order of execution; see `interleaving.there_and_back`."""
        return there_and_back(self.order(block.index, names), dict.fromkeys(names, block.steps))


def _ignore(*_: Any) -> None:
    """Does nothing: the default of every observer callback."""


@dataclasses.dataclass(frozen=True)
class Observer:
    """Callbacks of a run, all called outside of measured times.

    Attributes:
      block: called with (arm name, block, result) after each visit of an arm, two per block: progress and metrics.
      heldout: called with (step, {arm name: evaluation}) after each evaluation.
      pair: called with (record, block) once every arm has finished a block and, at the end of an epoch, was evaluated:
        the place to save checkpoints (all arms are at `block.end_step`) and to stop by raising.
    """

    block: Callable[[str, ScheduledBlock, Any], None] = _ignore
    heldout: Callable[[int, Mapping[str, Any]], None] = _ignore
    pair: Callable[[Record, ScheduledBlock], None] = _ignore


def tree_hash(tree: Any) -> str:
    """Sha256 over paths, dtypes, shapes and bytes of a pytree of arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {np.shape(leaf)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def run(
    arms: Sequence[Arm],
    schedule: BlockSchedule,
    *,
    record: Record | None = None,
    observer: Observer | None = None,
    evaluate: bool = True,
) -> Record:
    """Trains all arms to the end of the schedule, interleaved, and returns the record.

    Args:
      arms: compiled arms, the baseline first; a single arm is allowed.
      schedule: the blocks to run.
      record: the record saved beside the checkpoint that the arms were restored from; None: a new run.
      observer: callbacks.
      evaluate: whether to evaluate the arms before the first step and after each epoch.

    Raises:
      RyotError: initial weights, batches or token counts differ between arms.
      CheckpointError: `record` does not fit the arms or the schedule.
      NonFiniteLossError: the loss of an arm became NaN or infinite.
    """
    observer = observer or Observer()
    names = tuple(arm.name for arm in arms)
    by_name = {arm.name: arm for arm in arms}
    if len(by_name) != len(arms):
        raise RyotError(f"arms must have different names, got {names}")
    if record is not None:
        _check_resumed(record, arms, schedule)
    for arm in arms:
        arm.warm_up()

    def evaluated(record: Record, step: int, epoch: int) -> Record:
        evaluations = {arm.name: arm.evaluate() for arm in arms}
        observer.heldout(step, evaluations)
        return record.with_heldout(
            HeldOut(step, epoch, {name: float(e.mean_loss) for name, e in evaluations.items()}),
            {name: tuple(map(float, e.sequence_losses)) for name, e in evaluations.items()},
        )

    if record is None:
        weights = _agreed("initial weights", {arm.name: arm.params_hash() for arm in arms})
        record = Record(names, weights)
        if evaluate:
            record = evaluated(record, 0, 0)
    for block in schedule.blocks()[len(record.blocks) :]:
        results: dict[str, list[BlockResult]] = {name: [] for name in names}
        for name, steps in schedule.visits(block, names):
            results[name].append(by_name[name].run_block(steps))
            observer.block(name, block, results[name][-1])
        record = record.with_block(_block(block, schedule.order(block.index, names), results, arms, schedule))
        if block.ends_epoch and evaluate:
            record = evaluated(record, block.end_step, block.epoch)
        observer.pair(record, block)
    return record


def _block(
    block: ScheduledBlock,
    order: tuple[str, ...],
    results: Mapping[str, Sequence[BlockResult]],
    arms: Sequence[Arm],
    schedule: BlockSchedule,
) -> Block:
    batches_hash = _agreed("batches", {arm.name: arm.batches_hash() for arm in arms})
    tokens = block.steps * schedule.tokens_per_step
    losses = {name: [loss for visit in visits for loss in visit.losses] for name, visits in results.items()}
    for name, visits in results.items():
        reported = sum(visit.tokens for visit in visits)
        if reported != tokens or len(losses[name]) != block.steps:
            raise RyotError(
                f"arm {name!r} reports {reported} tokens and {len(losses[name])} losses for block "
                f"{block.index}, but its {block.steps} steps of {schedule.tokens_per_step} target tokens are "
                f"{tokens} tokens: throughput would be wrong"
            )
    return Block(
        index=block.index,
        epoch=block.epoch,
        steps=block.steps,
        tokens=tokens,
        order=order,
        seconds={arm.name: float(sum(visit.seconds for visit in results[arm.name])) for arm in arms},
        train_loss={arm.name: float(np.mean(losses[arm.name])) for arm in arms},
        first_loss={arm.name: float(losses[arm.name][0]) for arm in arms},
        batches_hash=batches_hash,
    )


def _agreed(what: str, digests: Mapping[str, str]) -> str:
    if len(set(digests.values())) != 1:
        hashes = ", ".join(f"{name}: {digest[:16]}" for name, digest in digests.items())
        raise RyotError(
            f"the arms do not have the same {what} (sha256 {hashes}): they cannot be compared. All arms "
            "must be made from one seed, and fed from one data set"
        )
    return next(iter(digests.values()))


def _check_resumed(record: Record, arms: Sequence[Arm], schedule: BlockSchedule) -> None:
    names = tuple(arm.name for arm in arms)
    if record.arms != names:
        raise CheckpointError(
            f"the checkpoint holds arms {record.arms}, the config asks for {names}: resume with the run's own config"
        )
    done = [(b.index, b.epoch, b.steps, b.order) for b in record.blocks]
    planned = [(p.index, p.epoch, p.steps, schedule.order(p.index, names)) for p in schedule.blocks()]
    if planned[: len(done)] != done:
        raise CheckpointError(
            "the blocks in the checkpoint are not those of this config (training.epochs, "
            "training.steps_per_epoch, comparison.block_steps or seed differ): resume with the run's config"
        )
    for arm in arms:
        if arm.step != record.step:
            raise CheckpointError(
                f"arm {arm.name!r} was restored at step {arm.step}, but the record stands at step "
                f"{record.step}: restore both arms from the same checkpoint"
            )
