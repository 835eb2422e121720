"""A compressed checkpoint: size, cost and speed."""

from ryot_jax.comparison.schema.base import Measured
from ryot_jax.runtime.records import Record


class CompressedGroup(Record, frozen=True, kw_only=True):
    """A group of arrays: bits per parameter, and its rise of the loss (nats/token), measured and expected."""

    name: str
    parameters: int
    bits_per_parameter: float
    rise: float | None
    expected_rise: float


class TradeOffPoint(Record, frozen=True, kw_only=True):
    """Another file of the same checkpoint: bytes, and the relative change of perplexity over `sequences` sequences."""

    method: str
    setting: str
    bytes: int
    perplexity_change: Measured
    sequences: int


class CompressionResult(Record, frozen=True, kw_only=True):
    """The compressed file of a checkpoint, measured on held-out text.

    Attributes:
      arm: arm of the checkpoint.
      step: step of the checkpoint.
      budget: the budget, such as `perplexity<=1%`.
      kept: whether the file keeps the budget.
      file: path within the run directory.
      parameters: number of model parameters.
      training_tokens: tokens trained on up to the checkpoint.
      bytes: bytes of the file.
      float_bytes: bytes of the parameters in float32.
      ratio: float_bytes / bytes.
      bits_per_parameter: bits per parameter of the whole file.
      entropy_bytes: entropy of the codes given their classes.
      order0_entropy_bytes: entropy of the codes without classes.
      codes_bytes: bytes of the entropy-coded codes; this and the next three add up to the file.
      side_bytes: bytes of side information.
      plain_bytes: bytes of uncompressed arrays.
      header_bytes: bytes of the header.
      overhead: codes_bytes / entropy_bytes; None for a file without codes.
      lossless_bytes: bytes of the parameters by the best lossless coder that was tried.
      lossless_coder: name of that coder.
      sequences: number of held-out sequences that quality is measured on.
      float_loss: held-out loss of the original, nats/token.
      loss: held-out loss of the compressed model, nats/token.
      loss_change: loss - float_loss, paired over sequences.
      perplexity_change: relative change of perplexity, exp(loss_change) - 1.
      kl: KL divergence from the original's predictions, nats/token.
      agreement: share of positions at which both models find the same token the likeliest.
      tokens_per_second: tokens/s of generating at batch 1; None if no text can be generated.
      float_tokens_per_second: tokens/s of the original likewise.
      speed: ratio of tokens/s, compressed / original.
      arrays: groups of arrays.
      pareto: other files of the checkpoint.
      seconds: seconds of compressing and measuring.
    """

    arm: str
    step: int
    budget: str
    kept: bool
    file: str
    parameters: int
    training_tokens: int
    bytes: int
    float_bytes: int
    ratio: float
    bits_per_parameter: float
    entropy_bytes: float
    order0_entropy_bytes: float
    codes_bytes: int
    side_bytes: int
    plain_bytes: int
    header_bytes: int
    overhead: float | None
    lossless_bytes: int
    lossless_coder: str
    sequences: int
    float_loss: float | None
    loss: float | None
    loss_change: Measured
    perplexity_change: Measured
    kl: Measured
    agreement: Measured
    tokens_per_second: float | None
    float_tokens_per_second: float | None
    speed: Measured | None
    arrays: tuple[CompressedGroup, ...]
    pareto: tuple[TradeOffPoint, ...]
    seconds: float

    def __post_init__(self) -> None:
        """Checks the numbers that others are divided by."""
        for name in ("bytes", "parameters"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, not above zero")
