"""How soon schedule and recipe reach the baseline's final loss."""

from ryot_jax.comparison.schema.base import Measured
from ryot_jax.runtime.records import Record


class ExecutedSteps(Record, frozen=True, kw_only=True):
    """A segment of a training: steps [first_step, end_step) of one batch, length and depth (0: all layers)."""

    first_step: int
    end_step: int
    batch_size: int
    seq_len: int
    depth: int
    rate: float


class StepKind(Record, frozen=True, kw_only=True):
    """All steps of one program.

    Attributes:
      batch_size: sequences in a batch.
      seq_len: tokens in a sequence.
      depth: layers; 0: all.
      steps: how many.
      seconds: that they took.
      compile_seconds: of their program.
      saved_seconds: against their tokens in the training's largest steps of all layers; None for those themselves.
      repaid: whether that is more than the compilation took.
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
    """One training to the end of a plan.

    Attributes:
      name: 'schedule', 'recipe' or 'both'.
      recipe: parts of the recipe.
      phases: the plan in words.
      learning_rate: peak.
      steps: training steps.
      tokens: target tokens.
      tokens_share: of the baseline's tokens.
      programs: compiled programs of the plan.
      unplanned_compilations: programs that had to be compiled while steps ran.
      checks_failed: programs that failed their start-up check.
      seconds: of the steps.
      compile_seconds: of the programs.
      compiled_from_cache: whether one of them came from the cache of compiled programs.
      loss: final held-out loss, nats/token.
      loss_difference: to the baseline's, over held-out sequences.
      reached: whether the loss is not above the baseline's; None: the interval does not tell.
      kernels_seconds: of the optimized arm's training, timed before and after this one.
      share_of_kernels: of that time.
      share_of_baseline: of the baseline's.
      share_of_baseline_with_compile: the same with compilation on both sides.
      executed: its steps in order.
      kinds: its steps by program.
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
    """The trainings by schedule, recipe and both; `target_loss` is the baseline's final one, nats/token."""

    target_loss: float
    trainings: tuple[Training, ...]
    seconds: float
