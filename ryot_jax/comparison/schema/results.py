"""The whole of `results.json`."""

from collections.abc import Mapping
from typing import Any

from ryot_jax.comparison.attribution import Attribution
from ryot_jax.comparison.protocol import BlockSchedule
from ryot_jax.comparison.schema.arms import ArmResult, ConfigDifference, OptimizationState
from ryot_jax.comparison.schema.base import Verdict
from ryot_jax.comparison.schema.compression import CompressionResult
from ryot_jax.comparison.schema.controls import Controls
from ryot_jax.comparison.schema.criteria import Criterion, Statement
from ryot_jax.comparison.schema.decoding import DecodingResult
from ryot_jax.comparison.schema.pair import ComparisonResult
from ryot_jax.comparison.schema.settings import Settings
from ryot_jax.comparison.schema.time_to_loss import TimeToLoss
from ryot_jax.machine.roofline_records import Roofline
from ryot_jax.runtime.records import Record

SCHEMA_VERSION = 3


class Results(Record, frozen=True, kw_only=True):
    """Everything that a run found; the one source that reports draw from.

    A field that goes or changes its meaning raises the version, and gets a step in `results.migration`.

    Attributes:
      schema_version: of this file.
      name: of the run.
      verdict: that the criteria and the controls come to.
      estimands: what was stated before the first step; None in files that stated nothing.
      controls: None where none were run.
      criteria: in the order in which they are shown.
      arms: by name.
      comparison: None for a single arm.
      optimizations: as the last arm has them.
      config_differences: of the arms.
      schedule: what the run was to do.
      settings: what it was judged by.
      data: description of the text, free but for `entropies`: nats/token of the held-out targets by kind of count.
      roofline: None where it was not measured.
      attribution: outcome of `ryot ablate`, added by `ryot report --attribution`.
      compression: None where nothing was compressed.
      decoding: None where nothing was generated.
      time_to_loss: of schedule and recipe; None where none was trained.
      initial_params_hash: sha256 of the initial weights.
      batches_hash: running sha256 of all batches.
      warnings: sentences for the reader.
      artifacts: name -> path within the run directory.
      manifest: versions, machine, hashes.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    verdict: Verdict
    estimands: Statement | None
    controls: Controls | None
    criteria: tuple[Criterion, ...]
    arms: Mapping[str, ArmResult]
    comparison: ComparisonResult | None
    optimizations: tuple[OptimizationState, ...]
    config_differences: tuple[ConfigDifference, ...]
    schedule: BlockSchedule
    settings: Settings
    data: Mapping[str, Any]
    roofline: Roofline | None
    attribution: Attribution | None
    compression: CompressionResult | None = None
    decoding: DecodingResult | None = None
    time_to_loss: TimeToLoss | None = None
    initial_params_hash: str
    batches_hash: str | None
    warnings: tuple[str, ...]
    artifacts: Mapping[str, str]
    manifest: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Checks that the parts fit each other."""
        if (len(self.arms) == 2) != (self.comparison is not None) or not self.arms:
            found = "null" if self.comparison is None else "there"
            raise ValueError(
                f"comparison is wanted with two arms and null with one; it is {found}, with {len(self.arms)} arms"
            )
        if self.comparison is not None and {self.comparison.baseline, self.comparison.optimized} != set(self.arms):
            raise ValueError(f"comparison is of other arms than {', '.join(self.arms)}")
        if not isinstance(self.data.get("entropies"), Mapping):
            raise ValueError("data.entropies is missing or no object")

    @property
    def entropies(self) -> Mapping[str, float | None]:
        """Nats/token of the held-out targets by kind of count."""
        found: Mapping[str, float | None] = self.data["entropies"]
        return found

    @property
    def compared(self) -> ComparisonResult:
        """The comparison of a run that has one."""
        assert self.comparison is not None, "a single arm was trained"
        return self.comparison

    @property
    def ordered_arms(self) -> dict[str, ArmResult]:
        """The arms, the baseline first: a JSON file may hold them in any order."""
        names = list(self.arms) if self.comparison is None else [self.comparison.baseline, self.comparison.optimized]
        return {name: self.arms[name] for name in names}
