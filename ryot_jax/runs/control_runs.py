"""The stage that runs the controls, with the programs of the optimized arm."""

import dataclasses
import time
from collections.abc import Mapping

from ryot_jax.comparison import criteria
from ryot_jax.comparison.arms import Arm
from ryot_jax.comparison.controls import judge_shuffled, timing_controls
from ryot_jax.comparison.criteria import ArmOutcome
from ryot_jax.comparison.protocol import BlockSchedule
from ryot_jax.comparison.schema import Control, Controls, Settings
from ryot_jax.data.entropy import NgramEntropies
from ryot_jax.runs.compiled_arms import CompiledArms
from ryot_jax.runs.run import Run
from ryot_jax.runs.stage import Stage, StageResult
from ryot_jax.runtime.console import Console


def run_controls(
    arm: Arm, schedule: BlockSchedule, entropies: Mapping[str, float], settings: Settings, console: Console
) -> Controls:
    """Runs placebo, known delay and shuffled targets.

    Args:
      arm: the optimized arm; its own training does not change.
      schedule: the blocks of the run.
      entropies: nats/token by kind of count, as in `criteria.learning`.
      settings: settings of the verdict.
      console: receives the verdict of each control.
    """
    console.line("controls: two arms of one program, and one that takes more steps than it says")
    comparison = arm.setup.config.comparison
    placebo, delay, noise_floor = timing_controls(
        arm.twin,
        blocks=comparison.control_blocks,
        block_steps=comparison.control_steps,
        seed=schedule.seed,
        seconds=comparison.control_seconds,
    )
    controls = Controls((placebo, delay, _shuffled(arm, schedule, entropies, settings)), noise_floor)
    for control in controls.items:
        console.line(f"  {control.name.replace('_', ' ')}: {control.verdict}, {control.actual}")
    return controls


def _shuffled(arm: Arm, schedule: BlockSchedule, entropies: Mapping[str, float], settings: Settings) -> Control:
    """Trains on shuffled targets for half the run's steps, enough for an arm that learns to beat the entropies."""
    start = time.perf_counter()
    trainer = arm.shuffled_twin("shuffled")
    initial = trainer.evaluate(arm.setup.evaluator).mean_loss
    steps = max(1, schedule.total_steps // 2)
    block = trainer.run_block(steps)
    final = trainer.evaluate(arm.setup.evaluator).mean_loss
    outcome = ArmOutcome(
        steps=steps,
        planned_steps=steps,
        first_train_loss=block.losses[0],
        final_train_loss=block.losses[-1],
        initial_heldout_loss=initial,
        final_heldout_loss=final,
        best_heldout_loss=min(initial, final),
        tokens_per_second=block.tokens / block.seconds,
    )
    judged = criteria.learning({"shuffled": [outcome]}, entropies, settings.beat)
    failed = [criterion.name for criterion in judged if criterion.verdict != "PASS"]
    losses = f"held-out loss {initial:.3f} to {final:.3f}"
    return judge_shuffled(failed, losses, steps, time.perf_counter() - start)


def _applies(run: Run, compiled: CompiledArms, entropies: NgramEntropies) -> bool:
    return compiled.settings.controls


def _run(run: Run, compiled: CompiledArms, entropies: NgramEntropies) -> StageResult[Controls | None]:
    counted = dataclasses.asdict(entropies)
    return StageResult(run_controls(compiled.arms[-1], compiled.schedule, counted, compiled.settings, run.console))


STAGE = Stage("controls", _run, applies=_applies)
