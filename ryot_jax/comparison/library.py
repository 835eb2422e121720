"""Compares two user-supplied training steps of any JAX program, independent of this package's model and configs.

    from ryot_jax.comparison import compare

    result = compare(baseline_step, optimized_step, state, batches, evaluate=heldout_losses)
    print(result.summary())
    result.report("report.html")

The comparison is that of `ryot train`: the same initial state and batches in both arms, asserted by hash; blocks of
steps in random order; the block pair as the unit of analysis; placebo and known delay as controls; a verdict that may
be INCONCLUSIVE.
"""

import dataclasses
import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ryot_jax.comparison import controls, criteria, results
from ryot_jax.comparison.comparison import Comparison
from ryot_jax.comparison.function_arm import FunctionArm, Step, StepProgram, as_stream, compile_arm
from ryot_jax.comparison.outcomes import TrainingPair, arm_outcome
from ryot_jax.comparison.protocol import BlockSchedule, Observer, ScheduledBlock, run
from ryot_jax.comparison.record import Record
from ryot_jax.comparison.schema import Control, Controls, Results, Settings
from ryot_jax.machine.devices import describe_devices
from ryot_jax.machine.processor import describe_processor
from ryot_jax.runtime import manifest
from ryot_jax.runtime.errors import ConfigError

_EVALUATIONS = 8  # at most, evenly spread: time to target is interpolated between them
Shuffle = Callable[[np.random.Generator, Any], Any]


def compare(
    baseline: Step,
    optimized: Step,
    state: Any,
    batches: Callable[[int], Any] | Sequence[Any],
    *,
    evaluate: Callable[[Any], Any] | None = None,
    names: tuple[str, str] = ("baseline", "optimized"),
    steps: int = 320,
    block_steps: int = 20,
    items_per_step: int = 1,
    margin: float = 0.1,
    tight_margin: float = 0.02,
    same_numerics: bool = False,
    chance_loss: float | None = None,
    shuffle: Shuffle | None = None,
    control_blocks: int = 16,
    control_steps: int = 20,
    seed: int = 0,
    jit: bool = True,
    name: str = "comparison",
    log: Callable[[str], None] | None = None,
) -> Comparison:
    """Trains with two step functions in turns and judges the second against the first.

    Args:
      baseline: `(state, batch) -> (state, loss)`, where loss is a scalar or a dict with a scalar 'loss'. Wrapped in
        `jax.jit` already (with donation, shardings and so on, which are kept), or not.
      optimized: likewise, for the same state and batches.
      state: the initial state of both arms, a pytree of arrays; not modified.
      batches: `step -> batch`, or a sequence that is repeated in a cycle; the same for both arms.
      evaluate: `state -> losses[n]` of n held-out examples, the same for both arms; called up to nine times. None: the
        training losses of the last half of the blocks are compared instead.
      names: names of the two arms.
      steps: training steps of each arm; `steps / block_steps` is the number of block pairs.
      block_steps: steps of each arm in a block. A block should take a tenth of a second or more.
      items_per_step: items per step that throughput counts, such as the tokens or examples of a batch.
      margin: largest difference of the final losses allowed, in the unit of the loss.
      tight_margin: largest amount by which the second arm's loss may exceed the first's; with `same_numerics`, the
        largest difference in either direction.
      same_numerics: whether the second step promises the first's numbers to rounding (a faster kernel), so that a
        better loss is a defect; False: it promises a training run of the same quality.
      chance_loss: loss of guessing without the inputs, such as the entropy of the labels; the final loss must be below
        it. None: the loss only has to fall by 5 %.
      shuffle: `(rng, batch) -> batch` with shuffled labels; training on such batches must fail to learn. None: no such
        control.
      control_blocks: block pairs of the placebo and of the known delay; 0: no controls.
      control_steps: steps per block of these controls.
      seed: seed of the order of arms.
      jit: whether to compile the steps; if False they are called as they are, and not checked to differ.
      name: name of the comparison in its report.
      log: called with each line of progress; None: nothing is logged.

    Raises:
      ConfigError: an argument is invalid, or both steps compile to the same program, so that nothing would be compared.
      NonFiniteLossError: a loss is not finite.
    """
    schedule = _schedule(steps, block_steps, items_per_step, seed)
    _check(names, margin, tight_margin, control_blocks, control_steps, state)
    design = _Design(
        name=name,
        schedule=schedule,
        settings=Settings(
            margin,
            tight_margin,
            beat="" if chance_loss is None else "chance",
            controls=control_blocks > 0,
            held_out=evaluate is not None,
            decodes=False,
        ),
        entropies={} if chance_loss is None else {"chance": chance_loss},
        control_blocks=control_blocks,
        control_steps=control_steps,
        shuffle=shuffle,
        same_numerics=same_numerics,
        jit=jit,
    )
    stream = as_stream(batches)
    programs = _programs((baseline, optimized), names, state, stream(0), jit=jit)
    arms = [
        FunctionArm(arm_name, program, state, stream, evaluate, items_per_step)
        for arm_name, program in zip(names, programs, strict=True)
    ]
    return Comparison(_train_and_judge(arms, design, log or (lambda line: None)))


@dataclasses.dataclass(frozen=True)
class _Design:
    """The arguments of `compare` except the arms: how these are judged and controlled."""

    name: str
    schedule: BlockSchedule
    settings: Settings
    entropies: Mapping[str, float]
    control_blocks: int
    control_steps: int
    shuffle: Shuffle | None
    same_numerics: bool
    jit: bool


def _programs(
    steps: tuple[Step, Step], names: tuple[str, str], state: Any, batch: Any, *, jit: bool
) -> list[StepProgram]:
    programs = [compile_arm(step, state, batch, jit=jit) for step in steps]
    if jit and programs[0].fingerprint == programs[1].fingerprint:
        raise ConfigError(
            f"{names[0]!r} and {names[1]!r} compile to the same program: whatever sets them apart does nothing here, "
            "and a comparison would measure nothing"
        )
    return programs


def _train_and_judge(arms: Sequence[FunctionArm], design: _Design, log: Callable[[str], None]) -> Results:
    """Trains the arms, runs the controls and returns the judged results."""
    schedule, held_out = design.schedule, design.settings.held_out
    stated_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    log(f"{schedule.total_steps} steps of each arm in {len(schedule.blocks())} block pairs")
    record = run(arms, schedule, observer=Observer(pair=_log_blocks(log, schedule)), evaluate=held_out)
    checks = None
    if design.control_blocks > 0:
        log("controls")
        checks = _controls(arms[1], design)
    return results.assemble(
        results.Measurements([TrainingPair(schedule.seed, record)], controls=checks),
        [_facts(arm, same_numerics=design.same_numerics) for arm in arms],
        schedule,
        design.settings,
        name=design.name,
        data={"items_per_step": schedule.tokens_per_step, "held_out": held_out},
        entropies=design.entropies,
        manifest=manifest.machine(describe_devices(), describe_processor()),
        artifacts={},
        stated_at=stated_at,
        warnings=[] if design.jit else ["The steps were not compiled here: that they differ was not checked."],
    )


def _controls(arm: FunctionArm, design: _Design) -> Controls:
    placebo, delay, floor = controls.timing_controls(
        arm.twin, blocks=design.control_blocks, block_steps=design.control_steps, seed=design.schedule.seed
    )
    items: tuple[Control, ...] = (placebo, delay)
    if design.shuffle is not None:
        items = (*items, _shuffled(arm, design.shuffle, design.schedule, design.entropies))
    return Controls(items, floor)


def _schedule(steps: int, block_steps: int, items_per_step: int, seed: int) -> BlockSchedule:
    if block_steps < 1 or steps < 2 * block_steps or steps % block_steps:
        raise ConfigError(
            f"steps={steps} must be two or more times block_steps={block_steps}, and a multiple of it: block pairs are "
            "what the interval is taken over"
        )
    if items_per_step < 1:
        raise ConfigError(f"items_per_step={items_per_step} must be at least 1")
    blocks = steps // block_steps
    epochs = max(count for count in range(1, _EVALUATIONS + 1) if blocks % count == 0)
    return BlockSchedule(epochs, steps // epochs, block_steps, items_per_step, seed)


def _check(
    names: tuple[str, str], margin: float, tight_margin: float, control_blocks: int, control_steps: int, state: Any
) -> None:
    if len(names) != 2 or names[0] == names[1]:
        raise ConfigError(f"names={names!r} must be two different names")
    if not 0 <= tight_margin <= margin:
        raise ConfigError(f"need 0 <= tight_margin <= margin; got tight_margin={tight_margin}, margin={margin}")
    if control_blocks == 1 or control_blocks < 0 or control_steps < 1:
        raise ConfigError(
            f"control_blocks={control_blocks}, control_steps={control_steps}: an interval needs two or more blocks of "
            "one or more steps; control_blocks=0 leaves the controls out"
        )
    if not jax.tree.leaves(state):
        raise ConfigError("state holds no array: there would be nothing to train")


def _log_blocks(log: Callable[[str], None], schedule: BlockSchedule) -> Callable[[Record, ScheduledBlock], None]:
    blocks = len(schedule.blocks())

    def on_pair(record: Record, block: ScheduledBlock) -> None:
        losses = ", ".join(f"{name} {loss:.4f}" for name, loss in record.blocks[-1].train_loss.items())
        log(f"block pair {block.index + 1} of {blocks}: training loss {losses}")

    return on_pair


def _shuffled(arm: FunctionArm, shuffle: Shuffle, schedule: BlockSchedule, entropies: Mapping[str, float]) -> Control:
    """Trains on shuffled labels for half the steps, enough for an arm that learns to pass the criteria of learning."""

    def shuffled(step: int) -> Any:
        return shuffle(np.random.default_rng((schedule.seed, step)), arm.stream(step))

    twin = dataclasses.replace(arm.twin("shuffled"), stream=shuffled)
    steps = max(1, schedule.total_steps // schedule.block_steps // 2) * schedule.block_steps
    half = dataclasses.replace(schedule, epochs=1, steps_per_epoch=steps)
    record = run([twin], half, evaluate=arm.evaluator is not None)
    judged = criteria.learning(
        {"shuffled": [arm_outcome(record, "shuffled", half)]}, entropies, "chance" if entropies else ""
    )
    failed = [criterion.name for criterion in judged if criterion.verdict != "PASS"]
    losses = f"loss falls by {judged[0].actual.lstrip('+')}"
    return controls.judge_shuffled(failed, losses, half.total_steps, twin.seconds_spent)


def _facts(arm: FunctionArm, *, same_numerics: bool) -> results.ArmFacts:
    return results.ArmFacts(
        name=arm.name,
        parameters=sum(int(np.size(leaf)) for leaf in jax.tree.leaves(arm.state)),
        compile_seconds=arm.program.compile_seconds,
        memory_bytes=arm.program.memory_bytes,
        statistical=not same_numerics,
    )
