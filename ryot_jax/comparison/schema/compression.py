"""A compressed checkpoint: size, cost and speed."""

from ryot_jax.comparison.schema.base import Measured
from ryot_jax.runtime.records import Record


class CompressedGroup(Record, frozen=True, kw_only=True):
    """A group of arrays: bits a parameter, and by how much it raises the loss (nats/token), measured and expected."""

    name: str
    parameters: int
    bits_per_parameter: float
    rise: float | None
    expected_rise: float


class TradeOffPoint(Record, frozen=True, kw_only=True):
    """Another file of the same checkpoint: bytes, and the relative change of perplexity on `sequences`."""

    method: str
    setting: str
    bytes: int
    perplexity_change: Measured
    sequences: int


class CompressionResult(Record, frozen=True, kw_only=True):
    """The compressed file of a checkpoint, measured on held-out text.

    Attributes:
      arm: whose checkpoint it is.
      step: of the checkpoint.
      budget: what the file had to keep.
      kept: whether it does.
      file: path within the run directory.
      parameters: number of them.
      training_tokens: trained on up to the checkpoint.
      bytes: of the file.
      float_bytes: of the parameters in float32.
      ratio: float_bytes / bytes.
      bits_per_parameter: of the whole file.
      entropy_bytes: entropy of the codes given their classes.
      order0_entropy_bytes: entropy of the codes without classes.
      codes_bytes: of the coded codes; with the next three the whole file.
      side_bytes: side information.
      plain_bytes: arrays as they were.
      header_bytes: header.
      overhead: codes_bytes / entropy_bytes; None for a file without codes.
      lossless_bytes: of the parameters by the best lossless coder that was tried.
      lossless_coder: its name.
      sequences: held-out sequences that the quality is measured on.
      float_loss: of the original, nats/token.
      loss: of the compressed model.
      loss_change: paired over sequences.
      perplexity_change: exp of it, less one.
      kl: divergence from the original's predictions, nats/token.
      agreement: share of tokens at which both find the same one the likeliest.
      tokens_per_second: of generating at batch 1; None where nothing can be generated.
      float_tokens_per_second: of the original.
      speed: compressed / original.
      arrays: groups of arrays.
      pareto: other files.
      seconds: that compressing and measuring took.
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
        """Checks what others are divided by."""
        for name in ("bytes", "parameters"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, not above zero")
