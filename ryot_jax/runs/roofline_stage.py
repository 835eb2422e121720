"""The stage that measures this machine's peaks and places the arms under them."""

from collections.abc import Sequence

from ryot_jax.comparison.outcomes import TrainingPair
from ryot_jax.machine.roofline_records import Roofline
from ryot_jax.runs import roofline
from ryot_jax.runs.compiled_arms import CompiledArms
from ryot_jax.runs.run import Run
from ryot_jax.runs.stage import Stage, StageResult


def _place(run: Run, compiled: CompiledArms, pairs: Sequence[TrainingPair]) -> StageResult[Roofline | None]:
    placed, warnings = roofline.of_run(run.setup, compiled.variants, pairs[0].record)
    return StageResult(placed, tuple(warnings))


STAGE = Stage("roofline", _place)
