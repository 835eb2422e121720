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
    """The results of a run, the single source of its reports.

    Removing a field or changing its meaning raises the version and needs a step in `results.migration`.

    Attributes:
      schema_version: version of this schema.
      name: name of the run.
      verdict: overall verdict of the criteria and the controls.
      estimands: the statement made before the first step; None in files without one.
      controls: the controls; None if none were run.
      criteria: the criteria in the order of display.
      arms: outcome of each arm, by name.
      comparison: the optimized arm against the baseline; None for a single arm.
      optimizations: the optimizations of the last arm.
      config_differences: config fields in which the arms differ.
      schedule: the blocks of the run.
      settings: margins and repetitions that the run was judged by.
      data: description of the text; its fields are free except `entropies`: nats/token of the held-out targets by kind
        of count.
      roofline: the arms under the roofline; None if not measured.
      attribution: outcome of `ryot ablate`, added by `ryot report --attribution`.
      compression: the compressed checkpoint; None if nothing was compressed.
      decoding: speed of generating text; None if no text was generated.
      time_to_loss: times of step schedule and recipe; None if none was trained.
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
        """Checks that the parts are consistent."""
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
        entropies: Mapping[str, float | None] = self.data["entropies"]
        return entropies

    @property
    def compared(self) -> ComparisonResult:
        """The comparison, for runs that have one."""
        assert self.comparison is not None, "a single arm was trained"
        return self.comparison

    @property
    def ordered_arms(self) -> dict[str, ArmResult]:
        """The arms with the baseline first, as a JSON file may hold them in any order."""
        names = list(self.arms) if self.comparison is None else [self.comparison.baseline, self.comparison.optimized]
        return {name: self.arms[name] for name in names}
