"""The stage that trains the training pairs of a run in sequence, each from its own seed."""

import dataclasses

from ryot_jax.comparison.arms import Arm
from ryot_jax.comparison.outcomes import TrainingPair
from ryot_jax.runs import training_pair
from ryot_jax.runs.compiled_arms import CompiledArms
from ryot_jax.runs.run import Run
from ryot_jax.runs.stage import Stage, StageResult
from ryot_jax.training.setup import reseeded


def _train_all(run: Run, compiled: CompiledArms) -> StageResult[list[TrainingPair]]:
    """Trains the training pairs that no earlier process of this run has finished."""
    pairs, count = [], run.config.comparison.pairs
    for index in range(count):
        seed, directory = run.config.seed + index, run.directory.training_pair(index)
        record = training_pair.finished(directory) if run.resumed else None
        if record is None:
            if count > 1:
                run.console.line(f"training pair {index + 1} of {count}, seed {seed}")
            setup, arms = run.setup, compiled.arms
            if index > 0:
                setup = reseeded(run.setup, run.corpus, seed)
                arms = [Arm(setup, arm.variant, same_programs_as=arm) for arm in compiled.arms]
            record = training_pair.train(
                setup,
                arms,
                dataclasses.replace(compiled.schedule, seed=seed),
                directory,
                run.console,
                resumed=run.resumed,
                preemption=run.preemption,
                keep_checkpoints=index == 0,
            )
        pairs.append(TrainingPair(seed, record))
    return StageResult(pairs)


STAGE = Stage("training and evaluation", _train_all, stops_on_request=True)
