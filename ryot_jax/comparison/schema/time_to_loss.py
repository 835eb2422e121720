"""Times of the step schedule and the recipe to the baseline's final loss."""

from ryot_jax.comparison.schema.base import Measured
from ryot_jax.runtime.records import Record


class ExecutedSteps(Record, frozen=True, kw_only=True):
    """A segment of a training: steps [first_step, end_step) of one batch size, length and depth (0: all layers)."""

    first_step: int
    end_step: int
    batch_size: int
    seq_len: int
    depth: int
    rate: float


class StepKind(Record, frozen=True, kw_only=True):
    """All steps of a training that one compiled program takes.

    Attributes:
      batch_size: sequences in a batch.
      seq_len: tokens in a sequence.
      depth: number of layers; 0: all.
      steps: number of steps.
      seconds: seconds that the steps took.
      compile_seconds: seconds to compile the program.
      saved_seconds: seconds saved over the same tokens in the largest full-depth steps; None for those steps.
      repaid: whether `saved_seconds` exceeds `compile_seconds`.
    """

    batch_size: int
    seq_len: int
    depth: int
    steps: int
    seconds: float
    compile_seconds: float
    saved_seconds: float | None
    repaid: bool | None


class Training(Record, frozen=True, kw_only=True):
    """One planned training, run to its end.

    Attributes:
      name: 'schedule', 'recipe' or 'both'.
      recipe: parts of the recipe.
      phases: its step schedule in words.
      learning_rate: peak learning rate.
      steps: training steps.
      tokens: target tokens.
      tokens_share: target tokens over those of the baseline.
      programs: number of compiled programs.
      unplanned_compilations: number of programs compiled while steps ran.
      checks_failed: number of programs that failed their start-up check.
      seconds: seconds of the steps.
      compile_seconds: seconds to compile the programs.
      compiled_from_cache: whether any program came from the cache of compiled programs.
      loss: final held-out loss, nats/token.
      loss_difference: loss - baseline loss, over held-out sequences.
      reached: whether the loss is not above the baseline's; None: the interval does not decide.
      kernels_seconds: seconds of the optimized arm's training, estimated from steps timed before and after this one.
      share_of_kernels: seconds / kernels_seconds.
      share_of_baseline: seconds / seconds of the baseline's training.
      share_of_baseline_with_compile: likewise, with compilation on both sides.
      executed: the executed steps in order.
      kinds: the executed steps by program.
    """

    name: str
    recipe: tuple[str, ...]
    phases: str
    learning_rate: float
    steps: int
    tokens: int
    tokens_share: float
    programs: int
    unplanned_compilations: int
    checks_failed: int
    seconds: float
    compile_seconds: float
    compiled_from_cache: bool
    loss: float
    loss_difference: Measured
    reached: bool | None
    kernels_seconds: float
    share_of_kernels: float
    share_of_baseline: float | None
    share_of_baseline_with_compile: float | None
    executed: tuple[ExecutedSteps, ...]
    kinds: tuple[StepKind, ...]


class TimeToLoss(Record, frozen=True, kw_only=True):
    """The trainings by step schedule, recipe and both; `target_loss` is the baseline's final loss, nats/token."""

    target_loss: float
    trainings: tuple[Training, ...]
    seconds: float
