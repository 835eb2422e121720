"""The settings of the judgement, all known before the first step."""

from ryot_jax.runtime.records import Record

ENTROPIES = ("unigram", "bigram", "chance")


class Settings(Record, frozen=True):
    """Margins, repetitions and parts of a run that decide how it is judged.

    Attributes:
      loss_margin: within which the final losses must lie, nats/token for language models.
      tight_loss_margin: within which they must lie too, or by which the optimized arm's may at most lie above the
        baseline's where its optimizations promise no more than a training run of the same quality.
      beat: name of the entropy that the held-out loss must beat; 'bigram' asks for 'unigram' too, '' for none.
      training_pairs: pairs of training runs, each of its own seed.
      processes: processes that block pairs are timed in.
      controls: whether the controls are run.
      held_out: whether losses are those of held-out examples; otherwise training losses stand in.
      arms: how many are trained: 2, or 1, with which nothing is compared.
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
        """Refuses an entropy that no criterion is declared for."""
        if self.beat and self.beat not in ENTROPIES:
            raise ValueError(f"beat is {self.beat!r}, not one of {', '.join(ENTROPIES)} or empty")

    @property
    def beaten(self) -> tuple[str, ...]:
        """Names of the entropies that the final held-out loss must beat."""
        return ("unigram", "bigram") if self.beat == "bigram" else (self.beat,) if self.beat else ()

    @property
    def speed_unit(self) -> str:
        """Unit that the interval of the speed-up is taken over."""
        if self.processes > 1:
            return "process"
        return "training pair" if self.training_pairs > 1 else "block pair"

    @property
    def loss_unit(self) -> str:
        """Unit that the interval of the loss difference is taken over."""
        if self.training_pairs > 1:
            return "training pair"
        return "held-out sequence" if self.held_out else "block pair"

    @property
    def loss_name(self) -> str:
        """`held-out loss`, or `training loss` where nothing was held out and training losses stand in."""
        return "held-out loss" if self.held_out else "training loss"
