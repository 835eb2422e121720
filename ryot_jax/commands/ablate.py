"""`ryot ablate`: measures the effect of each optimization."""

import dataclasses
from pathlib import Path

from ryot_jax.cli import ConfigCommand, Context, option
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.suggestions import did_you_mean


@dataclasses.dataclass(frozen=True)
class Ablate(ConfigCommand):
    """Times a step with each optimization added alone to the baseline and left out of the full set.

    With five or fewer it times all subsets too. It takes about 10 minutes for configs/scaled.py, and trains nothing.
    """

    name = "ablate"
    usage = ("--config=configs/scaled.py [--only=NAME,...] [--config.FIELD=VALUE ...]",)
    only: tuple[str, ...] | None = option(
        "NAME,...", "these alone, the others off everywhere", separated=True, default_text="all that are on"
    )
    rounds: int = option("N", "each gives one ratio of any two arms; at least 2", default=16, lower=2)
    block_steps: int = option("N", "steps of an arm's turn, of which it has two a round", default=10, lower=1)
    workdir: Path = option("DIR", "where run directories are made", default=Path("runs"))

    def check(self) -> None:
        """Loads the config and checks the names of optimizations."""
        names = self.config.optimizations
        for name in self.only or ():
            if name not in names:
                hint = did_you_mean(name, names)
                raise ConfigError(f"--only={name}: no such optimization{hint}; there are {', '.join(names)}")

    def run(self, context: Context) -> int:
        """Times the arms, prints and writes the effects; returns 0."""
        from ryot_jax.runs import ablation

        extent = ablation.Extent(self.only, self.rounds, self.block_steps)
        return ablation.ablate(self.config, self.workdir, extent, context.allocator, context.console)
