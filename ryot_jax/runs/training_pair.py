"""Trains the arms of one training pair to the end: checkpoints, metrics, progress, and going on after an interruption.

How arms take turns is left to `protocol`, what the record means to `results`.
"""

import contextlib
import functools
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ryot_jax.comparison import protocol
from ryot_jax.comparison.arms import Arm
from ryot_jax.comparison.protocol import Observer, Plan, Schedule
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
    """The record of a training pair that was trained to the end; None: it was not.

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
    schedule: Schedule,
    directory: RunDirectory,
    console: Console,
    *,
    resumed: bool,
    keep_checkpoints: bool = True,
) -> Record:
    """Trains all arms and writes the record.

    Args:
      setup: what the arms have in common.
      arms: at the start of their training.
      schedule: what to run.
      directory: of the training pair.
      console: told of progress.
      resumed: go on from the newest checkpoints, if there are any.
      keep_checkpoints: whether the checkpoints are of use once the record is written.

    Raises:
      RyotError: as `protocol.run` and the checkpoints.
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
        progress = stack.enter_context(
            Progress(
                console,
                arms=[arm.name for arm in arms],
                epochs=schedule.epochs,
                steps_per_epoch=schedule.steps_per_epoch,
                tokens_per_step=schedule.tokens_per_step,
            )
        )
        # Without checkpoints there is nothing that a run could go on from: SIGTERM then ends it at once.
        preemption = stack.enter_context(Preemption()) if saved else None
        for arm in arms:
            arm.on_step = functools.partial(_show_step, progress, arm.name, schedule.tokens_per_step, [])
        record = protocol.run(
            arms,
            schedule,
            record=record,
            observer=Observer(
                block=functools.partial(_write_block, metrics, config.metrics.every_steps),
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
    """Puts all arms back to the newest step that every one of them has; None: there is none, start afresh."""
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
            checkpoints.delete_after(-1)  # a kill between the first saves of two arms left one with nothing
        return None
    step = max(common)
    records = []
    for arm in arms:
        # A kill between two arms' saves leaves one of them ahead; what it has beyond the common step goes.
        saved[arm.name].delete_after(step)
        records.append(arm.trainer.restore(saved[arm.name], step)["record"])
    return Record.from_json(records[-1])


def _show_step(
    progress: Progress, arm: str, tokens_per_step: int, recent: list[tuple[float, int]], step: int, loss: float
) -> None:
    """Tells the display how far an arm is; tokens/s over the last ten calls of its program or so."""
    now = time.perf_counter()
    # Between two blocks of an arm the other one runs: a gap of many steps' length starts the window anew.
    if len(recent) > 1 and (now - recent[-1][0]) / (step - recent[-1][1]) > 5 * _seconds_per_step(recent):
        recent.clear()
    recent.append((now, step))
    del recent[:-11]
    if len(recent) > 1:
        progress.update(arm, step=step, loss=loss, tokens_per_second=tokens_per_step / _seconds_per_step(recent))


def _seconds_per_step(times_and_steps: Sequence[tuple[float, int]]) -> float:
    (start, first), (end, last) = times_and_steps[0], times_and_steps[-1]
    return (end - start) / (last - first)


def _write_block(metrics: MetricsWriter, every_steps: int, arm: str, plan: Plan, result: Any) -> None:
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
    metrics: MetricsWriter, console: Console, schedule: Schedule, step: int, evaluations: Mapping[str, Any]
) -> None:
    for arm, evaluation in evaluations.items():
        metrics.write(arm, step, kind="heldout", loss=evaluation.mean_loss)
    losses = "  ".join(f"{arm} {evaluation.mean_loss:.4f}" for arm, evaluation in evaluations.items())
    console.line(f"epoch {step // schedule.steps_per_epoch}/{schedule.epochs}  held-out loss  {losses}")


def _save(
    arms: Sequence[Arm],
    saved: Mapping[str, Checkpoints],
    config_json: str,
    preemption: Preemption | None,
    record: Record,
    plan: Plan,
) -> None:
    stopping = preemption is not None and preemption.requested
    if not plan.ends_epoch and not stopping:
        return
    for arm in arms:
        if arm.name in saved:
            # Within an epoch nothing was evaluated: such a checkpoint is never the best.
            heldout_loss = record.heldout[-1].mean_loss[arm.name] if plan.ends_epoch else math.inf
            arm.trainer.save(saved[arm.name], heldout_loss, config_json, facts={"record": record.to_json()})
    if stopping:
        raise Preempted(f"SIGTERM: stopped and saved after step {plan.end_step}; go on with: ryot --resume=latest")
