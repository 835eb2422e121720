"""The arms of a comparison: the variants that a config requests, each ready for the paired protocol.

Arms differ in the kernel plan of their variant alone; everything else is in their common `TrainingSetup`. `protocol`
lets the arms take turns, `training` takes the steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ryot_jax.comparison.protocol import tree_hash
from ryot_jax.comparison.variants import Variant
from ryot_jax.data.batches import training_iterator
from ryot_jax.kernels import Spec
from ryot_jax.kernels.resolution import Lookup
from ryot_jax.optimizations import KernelPlan, Resolution, resolve
from ryot_jax.optimizations.dispatch import STEPS_PER_CALL
from ryot_jax.training.evaluation import Evaluation
from ryot_jax.training.loop import BlockResult, Trainer
from ryot_jax.training.parallel import CompiledStep, stack
from ryot_jax.training.program_check import ProgramCheck
from ryot_jax.training.setup import TrainingSetup
from ryot_jax.training.step_programs import advance_to_first_step_with_everything_on, compile_programs, step_function


def variants(
    config: ConfigDict, spec: Spec, lookup: Lookup | None = None
) -> tuple[tuple[Variant, ...], dict[str, Resolution]]:
    """The variants that a config requests, the baseline first, and the kernel resolution of each by its name."""
    off = Resolution(KernelPlan(), dict.fromkeys(config.optimizations, "the baseline has every optimization off"))
    resolutions = {
        name: off if name == "baseline" else resolve(config.optimizations, spec=spec, lookup=lookup)
        for name in sorted(config.comparison.arms)  # 'baseline' sorts first
    }
    return tuple(Variant(name, resolution.plan) for name, resolution in resolutions.items()), resolutions


class Arm:
    """One variant in training, as the paired protocol trains it (see `protocol.Arm`).

    Attributes:
      programs: compiled programs by name: 'step', and 'scan' if its kernel plan takes several steps per call.
      program_checks: outcome of the start-up check of each program; empty if the config turns it off.
      trainer: state, data and counters.
      on_step: see `Trainer.run_block`.
    """

    def __init__(self, setup: TrainingSetup, variant: Variant, *, same_programs_as: "Arm | None" = None):
        """Compiles and checks the programs, or reuses those of another arm of the same variant and sizes."""
        self.name = variant.name
        self.variant = variant
        self.setup = setup
        self._first_batches = [setup.dataset[i] for i in range(STEPS_PER_CALL)]
        if same_programs_as is None:
            self.programs, self.program_checks = self._compiled(setup.config)
        else:
            self.programs, self.program_checks = same_programs_as.programs, same_programs_as.program_checks
        self.trainer = self._trainer(variant.name, setup.dataset)
        self.on_step: Callable[[int, float], None] | None = None

    def _compiled(self, config: ConfigDict) -> tuple[dict[str, CompiledStep], dict[str, ProgramCheck]]:
        setup, plan = self.setup, self.variant.plan
        step_fn = step_function(setup.config, setup.model, setup.graphdef, setup.optimizer, plan)
        state = advance_to_first_step_with_everything_on(setup.state, setup.config, plan)
        return compile_programs(step_fn, state, self._first_batches, config=config, model=setup.model, plan=plan)

    def _trainer(self, name: str, dataset: Any) -> Trainer:
        return Trainer(
            name,
            self.programs["step"],
            self.setup.state,
            training_iterator(dataset),
            scanned_steps=self.programs.get("scan"),
            optimizer_name=self.setup.config.training.optimizer,
        )

    def twin(self, name: str) -> Trainer:
        """A second training with the same programs, initial weights and batches, for the controls."""
        return self._trainer(name, self.setup.dataset)

    def shuffled_twin(self, name: str) -> Trainer:
        """A twin whose targets are shuffled over each batch: the same token counts, and nothing to learn."""
        seed = self.setup.config.seed

        def shuffled(step: int, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            order = np.random.default_rng((seed, step)).permutation(batch["targets"].size)
            return {**batch, "targets": batch["targets"].reshape(-1)[order].reshape(batch["targets"].shape)}

        return self._trainer(name, self.setup.dataset.map_with_index(shuffled))

    @property
    def step(self) -> int:
        """Number of training steps done."""
        return self.trainer.steps_taken

    @property
    def compile_seconds(self) -> dict[str, float]:
        """Seconds of 'trace', 'lower' and 'compile', summed over all programs."""
        parts = [program.seconds for program in self.programs.values()]
        return {name: sum(seconds[name] for seconds in parts) for name in parts[0]}

    @property
    def from_cache(self) -> bool:
        """Whether any program came from the cache of compiled programs."""
        return any(program.from_cache for program in self.programs.values())

    def warm_compile_seconds(self) -> float:
        """Recompiles all programs with a warm cache of compiled programs and returns the seconds."""
        config = self.setup.config.copy_and_resolve_references()
        config.runtime.check_programs = False
        programs, _ = self._compiled(config)
        return sum(sum(program.seconds.values()) for program in programs.values())

    @property
    def memory_bytes(self) -> int | None:
        """Bytes on one device that the largest program needs; None where XLA does not report them."""
        sizes = [program.memory_bytes for program in self.programs.values()]
        return max((size for size in sizes if size is not None), default=None)

    def hlo_text(self) -> str:
        """Optimized HLO text of the program that takes most of the steps: the scan if there is one, else the step."""
        return self.programs.get("scan", self.programs["step"]).hlo_text()

    def params_hash(self) -> str:
        """Sha256 of the current weights."""
        return tree_hash(self.trainer.state.params)

    def batches_hash(self) -> str:
        """Running sha256 of every batch that the arm was fed."""
        return self.trainer.batches_sha256

    def warm_up(self) -> None:
        """Runs every program once on copies, so that the extra cost of a first execution is in no measured time."""
        for program in self.programs.values():
            copy = jax.tree.map(jnp.copy, self.trainer.state)
            copy = advance_to_first_step_with_everything_on(copy, self.setup.config, self.variant.plan)
            batch = self._first_batches[0] if program.steps == 1 else stack(self._first_batches)
            jax.block_until_ready(program(copy, batch))

    def run_block(self, n_steps: int) -> BlockResult:
        """Takes `n_steps` steps."""
        return self.trainer.run_block(n_steps, on_step=self.on_step)

    def evaluate(self) -> Evaluation:
        """Held-out loss of the current weights."""
        return self.trainer.evaluate(self.setup.evaluator)
