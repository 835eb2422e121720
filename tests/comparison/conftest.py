"""Arms that need no training: a seeded loss curve and made-up times, for the protocol and the results."""

import dataclasses
import hashlib

import msgspec
import numpy as np
import pytest

from ryot_jax.comparison import protocol, results, variants
from ryot_jax.comparison.outcomes import TrainingPair
from ryot_jax.comparison.schema import Settings
from ryot_jax.comparison.variants import Variant
from ryot_jax.kernels.declaration import Evidence
from ryot_jax.optimizations import KernelPlan

TOKENS_PER_STEP = 64


@dataclasses.dataclass
class FakeResult:
    """A `BlockResult`."""

    seconds: float
    losses: list[float]
    tokens: int


@dataclasses.dataclass
class FakeEvaluation:
    """An `Evaluation`."""

    mean_loss: float
    sequence_losses: np.ndarray


@dataclasses.dataclass
class FakeArm:
    """An `Arm` whose loss falls from 7 towards `end_loss`; times and losses depend on the step alone."""

    name: str
    step_seconds: float = 0.01
    weights: str = "weights"
    data: str = "data"
    loss_offset: float = 0.0
    end_loss: float = 3.0
    tokens_per_step: int = TOKENS_PER_STEP
    step: int = 0
    calls: list[str] = dataclasses.field(default_factory=list)

    def params_hash(self) -> str:
        return hashlib.sha256(f"{self.weights} {self.step}".encode()).hexdigest()

    def batches_hash(self) -> str:
        return hashlib.sha256(f"{self.data} {self.step}".encode()).hexdigest()

    def warm_up(self) -> None:
        self.calls.append("warm_up")

    def loss(self, step: int) -> float:
        return self.end_loss + (7.0 - self.end_loss) * 0.9**step + (self.loss_offset if step else 0.0)

    def run_block(self, n_steps: int) -> FakeResult:
        self.calls.append(f"run {n_steps}")
        losses = [self.loss(step) for step in range(self.step, self.step + n_steps)]
        noise = np.random.default_rng((self.step, len(self.name))).normal(1.0, 0.01)
        self.step += n_steps
        return FakeResult(n_steps * self.step_seconds * noise, losses, n_steps * self.tokens_per_step)

    def evaluate(self) -> FakeEvaluation:
        self.calls.append("evaluate")
        noise_n = np.random.default_rng(7).normal(0.0, 0.3, 40)
        noise_n += 0.001 * np.random.default_rng((self.step, len(self.name))).normal(size=40)
        sequences_n = self.loss(self.step) + noise_n - noise_n.mean()
        return FakeEvaluation(float(sequences_n.mean()), sequences_n)


@pytest.fixture
def make_arms():
    """`make_arms(**changes of the optimized arm)` -> (baseline, optimized), the second 1.25 times as fast."""

    def make(**changes):
        return FakeArm("baseline"), FakeArm("optimized", **{"step_seconds": 0.008, **changes})

    return make


@pytest.fixture
def schedule():
    """Four epochs of 25 steps in blocks of 10, 10 and 5."""
    return protocol.BlockSchedule(epochs=4, steps_per_epoch=25, block_steps=10, tokens_per_step=TOKENS_PER_STEP, seed=0)


@pytest.fixture
def run(schedule):
    """`run(arms, other_schedule=None, **options)`: `protocol.run` with the fixture's schedule."""

    def run_arms(arms, other_schedule=None, **options):
        return protocol.run(arms, other_schedule or schedule, **options)

    return run_arms


@pytest.fixture
def assemble(run, schedule):
    """`assemble(arms, **changes of results.assemble's arguments)` -> results of a whole run of `arms`."""
    plans = {"baseline": KernelPlan(), "optimized": KernelPlan(dense="xla")}

    def facts_of(arm):
        variant, baseline = (Variant(name, plans[name]) for name in (arm.name, "baseline"))
        evidence = {"dense": Evidence(True, "12 products")} if arm.name == "optimized" else {}
        return results.ArmFacts(
            name=arm.name,
            parameters=1000,
            compile_seconds={"trace": 0.5, "lower": 0.25, "compile": 2.0},
            memory_bytes=2**20,
            plan=dict(variant.plan),
            statistical=variants.is_statistical(variant),
            optimizations=variants.describe(variant, evidence, {}),
            differences=variants.differences(baseline, variant),
        )

    def assembled(
        arms,
        more_pairs=(),
        processes=(),
        controls=None,
        compression=None,
        decoding=None,
        time_to_loss=None,
        use_schedule=schedule,
        **changes,
    ):
        """`more_pairs`: arms of further training pairs, by seed from 1 on."""
        arguments = {
            "name": "fake",
            "data": {"source": "made up"},
            "entropies": {"unigram": 6.0, "bigram": 4.0},
            "manifest": {"versions": {"jax": "0.10.2"}},
            "artifacts": {"results": "results.json"},
            **changes,
        }
        settings = arguments.pop("settings", Settings(0.1, 0.02, "bigram"))
        settings = msgspec.structs.replace(settings, arms=len(arms), controls=controls is not None)
        pairs = [TrainingPair(seed, run(each, use_schedule)) for seed, each in enumerate([arms, *more_pairs])]
        beside = {"compression": compression, "decoding": decoding, "time_to_loss": time_to_loss}
        measured = results.Measurements(pairs, processes, controls, **beside)
        return results.assemble(measured, [facts_of(arm) for arm in arms], use_schedule, settings, **arguments)

    return assembled
