"""Trains the arms of one training pair to the end: checkpoints, metrics, progress, and resuming.

`comparison.protocol` lets the arms take turns, `comparison.results` interprets the record.
"""

import contextlib
import functools
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ryot_jax.comparison import protocol
from ryot_jax.comparison.arms import Arm
from ryot_jax.comparison.protocol import BlockSchedule, Observer, ScheduledBlock
from ryot_jax.comparison.record import Record
from ryot_jax.config import to_json
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import CheckpointError, Preempted
from ryot_jax.runtime.files import write_json
from ryot_jax.runtime.metrics import MetricsWriter
from ryot_jax.runtime.preemption import Preemption
from ryot_jax.runtime.progress import Progress
from ryot_jax.runtime.run_directory import RunDirectory
from ryot_jax.training.checkpoints import Checkpoints
from ryot_jax.training.setup import TrainingSetup


def finished(directory: RunDirectory) -> Record | None:
    """Reads the record of a finished training pair; None: it is not finished.

    Raises:
      CheckpointError: the record is damaged.
    """
    if not directory.record.is_file():
        return None
    try:
        return Record.from_json(json.loads(directory.record.read_text(encoding="utf-8")))
    except ValueError as error:
        raise CheckpointError(f"{directory.record} is damaged ({error}); remove it to train this pair anew") from error


def train(
    setup: TrainingSetup,
    arms: Sequence[Arm],
    schedule: BlockSchedule,
    directory: RunDirectory,
    console: Console,
    *,
    resumed: bool,
    preemption: Preemption,
    keep_checkpoints: bool = True,
) -> Record:
    """Trains all arms and writes the record.

    Args:
      setup: the common setup of the arms.
      arms: the arms before their first step.
      schedule: the blocks to run.
      directory: folder of the training pair.
      console: receives lines of progress.
      resumed: whether to start from the newest checkpoints, if there are any.
      preemption: requests to save and stop.
      keep_checkpoints: whether to keep the checkpoints after the record is written.

    Raises:
      RyotError: as in `protocol.run` and `Checkpoints`.
    """
    config, config_json = setup.config, to_json(setup.config)
    directory.path.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        saved = _open_checkpoints(config, arms, directory, stack)
        record = _restore(arms, saved, directory) if resumed else None
        if record is not None:
            console.line(f"resuming after step {record.step} of {schedule.total_steps}")
        metrics = stack.enter_context(
            MetricsWriter(
                directory.metrics,
                resume_steps={arm.name: arm.step for arm in arms} if resumed else None,
                tensorboard=directory.path / "tensorboard" if config.metrics.tensorboard else None,
            )
        )
        display = stack.enter_context(Display(console, arms, schedule))
        for arm in arms:
            arm.on_step = functools.partial(display.step, arm.name)
        record = protocol.run(
            arms,
            schedule,
            record=record,
            observer=Observer(
                block=functools.partial(_on_block, metrics, config.metrics.every_steps, display),
                heldout=functools.partial(_write_heldout, metrics, console, schedule),
                pair=functools.partial(_save, arms, saved, config_json, preemption),
            ),
        )
    write_json(directory.record, record.to_json())
    if not keep_checkpoints:
        shutil.rmtree(directory.checkpoints, ignore_errors=True)
    return record


def _open_checkpoints(
    config: ConfigDict, arms: Sequence[Arm], directory: RunDirectory, stack: contextlib.ExitStack
) -> dict[str, Checkpoints]:
    if not config.checkpoint.enabled:
        return {}
    keep = config.checkpoint
    return {
        arm.name: stack.enter_context(
            contextlib.closing(Checkpoints(directory.checkpoints / arm.name, keep.keep_latest, keep.keep_best))
        )
        for arm in arms
    }


def _restore(arms: Sequence[Arm], saved: Mapping[str, Checkpoints], directory: RunDirectory) -> Record | None:
    """Restores all arms at the newest step that every arm has saved; None: there is none, start from step 0."""
    if not saved:
        raise CheckpointError(f"{directory.path} cannot be resumed: it has checkpoint.enabled = False")
    steps = {name: set(checkpoints.steps()) for name, checkpoints in saved.items()}
    common = set.intersection(*steps.values())
    if not common:
        if all(steps.values()):
            raise CheckpointError(
                f"{directory.path}: the arms have no step in common ({ {n: sorted(s) for n, s in steps.items()} }); "
                "start a new run, with a larger checkpoint.keep_latest"
            )
        for checkpoints in saved.values():
            checkpoints.delete_after(
                -1
            )  # a kill between the first saves of two arms left one of them without a checkpoint
        return None
    step = max(common)
    records = []
    for arm in arms:
        # A kill between the saves of two arms leaves one of them ahead: its later checkpoints are deleted.
        saved[arm.name].delete_after(step)
        records.append(arm.trainer.restore(saved[arm.name], step)["record"])
    return Record.from_json(records[-1])


class Display:
    """The progress of all arms on the console. Use it as a context manager.

    Tokens/s and the time left are those of each arm's last visit in a block, by the clock of the comparison: between
    two visits another arm runs, and within a visit the host only sees when a step is reported to it. They are not
    shown before the end of an arm's first visit.
    """

    def __init__(self, console: Console, arms: Sequence[Arm], schedule: BlockSchedule):
        self._progress = Progress(
            console,
            arms=[arm.name for arm in arms],
            epochs=schedule.epochs,
            steps_per_epoch=schedule.steps_per_epoch,
            tokens_per_step=schedule.tokens_per_step,
        )
        self._tokens_per_second: dict[str, float] = {}

    def __enter__(self) -> "Display":
        """Starts the moving display, if the terminal can show one."""
        self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends the moving display."""
        self._progress.__exit__(*error)

    def step(self, arm: str, step: int, loss: float) -> None:
        """Shows an arm at a step, with its loss in nats per token."""
        self._progress.update(arm, step=step, loss=loss, tokens_per_second=self._tokens_per_second.get(arm))

    def block(self, arm: str, result: protocol.BlockResult) -> None:
        """Records the speed of an arm's finished visit, shown from its next step on."""
        self._tokens_per_second[arm] = result.tokens / result.seconds


def _on_block(
    metrics: MetricsWriter, every_steps: int, display: Display, arm: str, block: ScheduledBlock, result: Any
) -> None:
    display.block(arm, result)
    _write_block(metrics, every_steps, arm, result)


def _write_block(metrics: MetricsWriter, every_steps: int, arm: str, result: Any) -> None:
    for offset, (loss, grad_norm) in enumerate(zip(result.losses, result.grad_norms, strict=True)):
        step = result.first_step + offset + 1
        if step % every_steps == 0:
            metrics.write(arm, step, kind="train", loss=loss, grad_norm=grad_norm)
    metrics.write(
        arm,
        result.first_step + len(result.losses),
        kind="block",
        seconds=result.seconds,
        tokens_per_second=result.tokens / result.seconds,
    )


def _write_heldout(
    metrics: MetricsWriter, console: Console, schedule: BlockSchedule, step: int, evaluations: Mapping[str, Any]
) -> None:
    for arm, evaluation in evaluations.items():
        metrics.write(arm, step, kind="heldout", loss=evaluation.mean_loss)
    losses = "  ".join(f"{arm} {evaluation.mean_loss:.4f}" for arm, evaluation in evaluations.items())
    console.line(f"epoch {step // schedule.steps_per_epoch}/{schedule.epochs}  held-out loss  {losses}")


def _save(
    arms: Sequence[Arm],
    saved: Mapping[str, Checkpoints],
    config_json: str,
    preemption: Preemption,
    record: Record,
    block: ScheduledBlock,
) -> None:
    if not block.ends_epoch and not preemption.requested:
        return
    for arm in arms:
        if arm.name in saved:
            # A checkpoint within an epoch has no held-out loss, and so is never the best.
            heldout_loss = record.heldout[-1].mean_loss[arm.name] if block.ends_epoch else math.inf
            arm.trainer.save(saved[arm.name], heldout_loss, config_json, facts={"record": record.to_json()})
    if preemption.requested:
        raise Preempted(f"SIGTERM: stopped and saved after step {block.end_step}; resume with: ryot --resume=latest")
