"""The settings that a run is judged by, all known before its first step."""

from ryot_jax.runtime.records import Record

ENTROPIES = ("unigram", "bigram", "chance")


class Settings(Record, frozen=True):
    """Margins, repetitions and stages of a run that determine its criteria.

    Attributes:
      loss_margin: largest difference of the final losses allowed, nats/token for language models.
      tight_loss_margin: a tighter margin on the same difference; one-sided (the optimized loss above the baseline's)
        if the optimizations promise only a training run of the same quality.
      beat: name of the entropy that the held-out loss must beat; 'bigram' implies 'unigram', '' requires none.
      training_pairs: number of training pairs, each with its own seed.
      processes: number of processes that time block pairs.
      controls: whether the controls are run.
      held_out: whether losses are those of held-out examples; otherwise training losses stand in.
      arms: number of arms: 2, or 1 without a comparison.
      decodes: whether text is generated with the trained model.
    """

    loss_margin: float
    tight_loss_margin: float
    beat: str
    training_pairs: int = 1
    processes: int = 1
    controls: bool = False
    held_out: bool = True
    arms: int = 2
    decodes: bool = True

    def __post_init__(self) -> None:
        """Refuses an entropy without a criterion."""
        if self.beat and self.beat not in ENTROPIES:
            raise ValueError(f"beat is {self.beat!r}, not one of {', '.join(ENTROPIES)} or empty")

    @property
    def beaten(self) -> tuple[str, ...]:
        """Names of the entropies that the final held-out loss must beat."""
        return ("unigram", "bigram") if self.beat == "bigram" else (self.beat,) if self.beat else ()

    @property
    def speed_unit(self) -> str:
        """Unit of analysis of the speed-up's interval."""
        if self.processes > 1:
            return "process"
        return "training pair" if self.training_pairs > 1 else "block pair"

    @property
    def loss_unit(self) -> str:
        """Unit of analysis of the loss difference's interval."""
        if self.training_pairs > 1:
            return "training pair"
        return "held-out sequence" if self.held_out else "block pair"

    @property
    def loss_name(self) -> str:
        """`held-out loss`, or `training loss` where nothing was held out and training losses stand in."""
        return "held-out loss" if self.held_out else "training loss"
