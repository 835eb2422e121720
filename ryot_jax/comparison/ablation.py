"""The arms of an ablation: one per subset of a config's optimizations, compiled, proven active and timed in turns.

Only the time of a step is measured; nothing is trained to its end. `attribution` computes the effect of each
optimization from the times.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ryot_jax.comparison.arms import Arm
from ryot_jax.comparison.attribution import MOST_IN_ALL_SUBSETS, Player, Subset, subsets
from ryot_jax.comparison.interleaving import Block, interleave
from ryot_jax.comparison.variants import OPTIMIZATIONS, Optimization, Variant, check_active, differing
from ryot_jax.data.batches import training_iterator
from ryot_jax.kernels import Spec
from ryot_jax.kernels.declaration import Evidence
from ryot_jax.optimizations import KernelPlan, Resolution, resolve
from ryot_jax.optimizations.dispatch import OPTIMIZATION as DISPATCH
from ryot_jax.optimizations.dispatch import steps_per_call
from ryot_jax.runtime import hlo
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.progress import format_duration
from ryot_jax.training.loop import Trainer
from ryot_jax.training.parallel import CompiledStep
from ryot_jax.training.program_check import ProgramCheck
from ryot_jax.training.setup import TrainingSetup
from ryot_jax.training.step_programs import advance_to_first_step_with_everything_on

BASELINE: Subset = frozenset()


@dataclasses.dataclass(frozen=True)
class Design:
    """The arms of an ablation.

    Attributes:
      players: the optimizations to attribute an effect to; all others are off in every arm.
      variants: the arm of each subset, with exactly its players on; the baseline first, the full set last.
      missing: unsupported subsets, each with the reason.
    """

    players: tuple[Player, ...]
    variants: Mapping[Subset, Variant]
    missing: Mapping[Subset, str]


@dataclasses.dataclass(frozen=True)
class CompiledArm:
    """A compiled arm whose optimizations are proven active.

    Attributes:
      variant: its name and kernel plan.
      programs: compiled programs by name, as in `arms.Arm`.
      program_checks: outcome of the start-up check of each program; empty if the config turns it off.
      compile_seconds: seconds to compile all its programs.
      evidence: findings of the active probes, by player.
      fingerprint: digest of the program that takes its steps; programs with equal digests compute the same.
    """

    variant: Variant
    programs: Mapping[str, CompiledStep]
    program_checks: Mapping[str, ProgramCheck]
    compile_seconds: float
    evidence: Mapping[str, Evidence]
    fingerprint: str


def design(optimized: Resolution, spec: Spec, *, block_steps: int, only: Sequence[str] | None = None) -> Design:
    """Designs the arms for the optimizations that a kernel plan has on: all subsets of five or fewer.

    With more than five: the baseline, the full set, each optimization alone, and the full set without each. The plan
    of a subset is requested by name, op by op, so that it is exactly that plan or none: a subset is missing if one of
    its implementations does not support the work without another one.

    Args:
      optimized: kernel plan and reasons of the optimized arm.
      spec: the sizes of a training step.
      block_steps: training steps per block.
      only: names of the players; None: all optimizations that are on.

    Raises:
      ConfigError: no optimization is on, `only` names one that is off, a block is not a multiple of the steps per
        call, or the full set is not supported.
    """
    chosen = _players(optimized, only)
    plan, names = optimized.plan, [player.name for player in chosen]
    together = steps_per_call(KernelPlan(**{name: plan[name] for name in names}))
    if block_steps % together:
        raise ConfigError(
            f"--block_steps={block_steps} must be a multiple of {together}: {DISPATCH.switch}=scan takes "
            f"{together} steps a call, and the rest of a block would be taken one by one"
        )
    full = frozenset(names)
    variants: dict[Subset, Variant] = {}
    missing: dict[Subset, str] = {}
    for subset in _wanted(names):
        wishes = {name: plan[name] for name in names if name in subset}
        try:
            resolved = resolve(wishes, spec=spec).plan
        except ConfigError as refusal:
            if subset == full:
                raise
            missing[subset] = str(refusal)
            continue
        assert resolved == KernelPlan(**wishes), f"{resolved} is not {wishes}"
        variants[subset] = Variant(subset_name(subset, names), resolved)
    players = tuple(Player(o.name, o.switch, o.implementation(plan)) for o in chosen)
    return Design(players, variants, missing)


def build(
    setup: TrainingSetup, design: Design, spec: Spec, *, log: Callable[[str], None]
) -> tuple[dict[Subset, CompiledArm], dict[Subset, str]]:
    """Compiles every arm and proves from its program that its players are on.

    Only the programs of an arm are kept, so that memory never holds more than one training state beside that of
    `setup`.

    Args:
      setup: weights, optimizer and batches.
      design: the arms.
      spec: the sizes of a training step.
      log: called with one line per arm.

    Returns:
      The proven arms, and for each other subset the reason why it could not be proven.

    Raises:
      ConfigError: the full set could not be proven.
    """
    baseline = design.variants[BASELINE]
    full = frozenset(player.name for player in design.players)
    texts: dict[str, str] = {}
    built: dict[Subset, CompiledArm] = {}
    unproven: dict[Subset, str] = {}
    for number, (subset, variant) in enumerate(design.variants.items(), start=1):
        arm, text = _compiled(setup, variant)
        log(f"{variant.name}: compiled in {arm.compile_seconds:.1f} s ({number} of {len(design.variants)})")
        if subset == BASELINE:
            texts[baseline.name] = text
        else:
            try:
                proofs = check_active((baseline, variant), {**texts, variant.name: text}, spec)
            except ConfigError as doubt:
                if subset == full:
                    raise
                unproven[subset] = str(doubt)
                continue
            arm = dataclasses.replace(arm, evidence=proofs[variant.name])
        built[subset] = arm
    return built, unproven


def _compiled(setup: TrainingSetup, variant: Variant) -> tuple[CompiledArm, str]:
    """Compiles an arm and frees its training state; returns it without evidence, and the HLO text to prove it from."""
    arm = Arm(setup, variant)
    text = arm.hlo_text()
    seconds = sum(arm.compile_seconds.values())
    return CompiledArm(variant, arm.programs, arm.program_checks, seconds, {}, hlo.parse(text).fingerprint), text


def doubts(built: Mapping[Subset, CompiledArm]) -> list[str]:
    """Warnings about the compiled arms, one sentence each: equal programs, and programs without YNN fusions."""
    names_by_program: dict[str, list[str]] = {}
    for arm in built.values():
        names_by_program.setdefault(arm.fingerprint, []).append(arm.variant.name)
    equal = [names for names in names_by_program.values() if len(names) > 1]
    unsafe = [arm.variant.name for arm in built.values() if not all(check.ok for check in arm.program_checks.values())]
    return [
        *(f"these arms compiled to the same program, what sets them apart does nothing: {', '.join(n)}" for n in equal),
        *(f"{name} runs without YNN fusions, as the program with them computed other numbers" for name in unsafe),
    ]


def measure(
    setup: TrainingSetup,
    built: Mapping[Subset, CompiledArm],
    *,
    rounds: int,
    block_steps: int,
    log: Callable[[str], None],
) -> dict[Subset, np.ndarray]:
    """Seconds per step of every arm in every round, float64[rounds].

    In a round every arm takes two turns (see `interleaving`) on the same batches, which follow those of the round
    before. One training state is passed from program to program, so that memory does not grow with the number of arms;
    the values of the weights make no difference to the time.

    Args:
      setup: the initial state and the batches.
      built: the arms.
      rounds: number of rounds.
      block_steps: training steps per turn.
      log: called with the expected duration, then with one line per round.

    Raises:
      NonFiniteLossError: training diverged.
    """
    first, *_ = built.values()
    *_, last = built.values()  # the full set: everything on that is on in any arm
    trainer = Trainer(
        first.variant.name,
        first.programs["step"],
        advance_to_first_step_with_everything_on(setup.state, setup.config, last.variant.plan),
        training_iterator(setup.dataset),
        optimizer_name=setup.config.training.optimizer,
    )
    round_start = trainer.batches.get_state()

    def block(arm: CompiledArm) -> Block:
        def run(n_steps: int) -> float:
            trainer.name = arm.variant.name
            trainer.compiled_step, trainer.scanned_steps = arm.programs["step"], arm.programs.get("scan")
            trainer.batches.set_state(round_start)
            return trainer.run_block(n_steps).seconds

        return run

    def finished(done: int) -> None:
        nonlocal round_start
        round_start = trainer.batches.get_state()
        seconds_left = (time.perf_counter() - start) / done * (rounds - done)
        log(f"round {done}/{rounds}  {format_duration(seconds_left)} left")

    blocks = {arm.variant.name: block(arm) for arm in built.values()}
    # The first execution pays for page faults and lazy set-up, which are not part of a step.
    pass_seconds = sum(run(block_steps) for run in blocks.values())
    log(
        f"{len(blocks)} arms, {rounds} rounds, in each 2 blocks of {block_steps} steps an arm: "
        f"about {format_duration(2 * rounds * pass_seconds)}"
    )
    start = time.perf_counter()
    steps = dict.fromkeys(blocks, block_steps)
    seconds = interleave(blocks, steps, rounds=rounds, seed=setup.config.seed, on_round=finished)
    return {subset: seconds[arm.variant.name] for subset, arm in built.items()}


def subset_name(subset: Subset, names: Sequence[str]) -> str:
    """A readable name of a subset of `names`, by the optimizations on or the one off, whichever is shorter."""
    on = [name for name in names if name in subset]
    off = [name for name in names if name not in subset]
    if not on:
        return "baseline"
    if len(off) == 1 and len(names) > 2:
        return f"all but {off[0]}"
    return "+".join(on) if off else "all"


def _players(optimized: Resolution, only: Sequence[str] | None) -> tuple[Optimization, ...]:
    on = differing(Variant("baseline", KernelPlan()), Variant("optimized", optimized.plan))
    if not on:
        reasons = "; ".join(f"{o.switch}: {optimized.reasons[o.name]}" for o in OPTIMIZATIONS)
        raise ConfigError(
            f"no optimization differs between the baseline and the optimized arm, so that there is nothing to "
            f"attribute. Turn one on that this machine supports ({reasons})"
        )
    if only is None:
        return on
    names = [optimization.name for optimization in on]
    for name in only:
        if name not in names:
            reason = optimized.reasons.get(name, "no such optimization")
            raise ConfigError(
                f"--only: optimizations.{name} is as in the baseline ({reason}), so that there is nothing to "
                f"attribute to it; there are {', '.join(names)}"
            )
    if not only:
        raise ConfigError(f"--only names no optimization; there are {', '.join(names)}")
    return tuple(optimization for optimization in on if optimization.name in only)


def _wanted(names: Sequence[str]) -> list[Subset]:
    """The subsets to time, the smaller first."""
    if len(names) <= MOST_IN_ALL_SUBSETS:
        return list(subsets(names))
    full = frozenset(names)
    return [BASELINE, *(frozenset([name]) for name in names), *(full - {name} for name in names), full]
