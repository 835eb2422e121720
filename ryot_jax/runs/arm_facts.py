"""The stage that collects the facts of each arm for the results and times its recompilation with a warm cache."""

import dataclasses
from collections.abc import Mapping

from ryot_jax.comparison.arms import Arm
from ryot_jax.comparison.results import ArmFacts
from ryot_jax.comparison.variants import describe, differences, is_statistical
from ryot_jax.kernels.declaration import Evidence
from ryot_jax.model.accounting import parameters_by_part
from ryot_jax.runs.compiled_arms import CompiledArms
from ryot_jax.runs.run import Run
from ryot_jax.runs.stage import Stage, StageResult


def _collect(run: Run, compiled: CompiledArms) -> StageResult[list[ArmFacts]]:
    return StageResult([_facts(run, compiled, arm) for arm in compiled.arms])


def _facts(run: Run, compiled: CompiledArms, arm: Arm) -> ArmFacts:
    checks = {name: dataclasses.asdict(check) for name, check in arm.program_checks.items()}
    evidence: Mapping[str, Evidence] = compiled.evidence.get(arm.name, {})
    return ArmFacts(
        name=arm.name,
        parameters=sum(parameters_by_part(run.setup.state.params).values()),
        compile_seconds=arm.compile_seconds,
        memory_bytes=arm.memory_bytes,
        program_check=checks or None,
        plan=dict(arm.variant.plan),
        statistical=is_statistical(arm.variant),
        optimizations=describe(arm.variant, evidence, compiled.resolutions[arm.name].reasons),
        differences=differences(compiled.arms[0].variant, arm.variant),
        compiled_from_cache=arm.from_cache,
        compile_warm_seconds=arm.warm_compile_seconds() if run.config.runtime.compilation_cache else None,
    )


STAGE = Stage("compilation from the cache", _collect)
