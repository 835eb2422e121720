"""The shape of `results.json`: a tree of frozen records, each declared once, by topic.

Writer, strict reader and JSON schema follow from the declarations (`results.file`); `results.assembling` fills them
with the measurements.
"""

from ryot_jax.comparison.schema.arms import ArmResult, ConfigDifference, Epoch, OptimizationState
from ryot_jax.comparison.schema.base import NOT_MEASURED, Measured, Verdict
from ryot_jax.comparison.schema.compression import CompressedGroup, CompressionResult, TradeOffPoint
from ryot_jax.comparison.schema.controls import Control, Controls
from ryot_jax.comparison.schema.criteria import Criterion, Estimand, Reading, Statement
from ryot_jax.comparison.schema.decoding import DecodingResult
from ryot_jax.comparison.schema.pair import (
    BlockTimes,
    ComparisonResult,
    LossDifference,
    LossTestsOfMargins,
    ProcessResult,
    ReachedTarget,
    StepTimeSpeedup,
    TimeToTarget,
    TrainingPairResult,
)
from ryot_jax.comparison.schema.results import SCHEMA_VERSION, Results
from ryot_jax.comparison.schema.settings import Settings
from ryot_jax.comparison.schema.time_to_loss import ExecutedSteps, StepKind, TimeToLoss, Training
from ryot_jax.machine.roofline_records import ArmUnderRoof, MeasuredPeaks, Roofline
from ryot_jax.runtime.records import Record

__all__ = [
    "NOT_MEASURED",
    "SCHEMA_VERSION",
    "ArmResult",
    "ArmUnderRoof",
    "BlockTimes",
    "ComparisonResult",
    "CompressedGroup",
    "CompressionResult",
    "ConfigDifference",
    "Control",
    "Controls",
    "Criterion",
    "DecodingResult",
    "Epoch",
    "Estimand",
    "ExecutedSteps",
    "LossDifference",
    "LossTestsOfMargins",
    "Measured",
    "MeasuredPeaks",
    "OptimizationState",
    "ProcessResult",
    "ReachedTarget",
    "Reading",
    "Record",
    "Results",
    "Roofline",
    "Settings",
    "Statement",
    "StepKind",
    "StepTimeSpeedup",
    "TimeToLoss",
    "TimeToTarget",
    "TradeOffPoint",
    "Training",
    "TrainingPairResult",
    "Verdict",
]
