"""`ryot report`: redraws the report of a run."""

import dataclasses
import functools
from pathlib import Path

from ryot_jax.cli import Command, Context, option
from ryot_jax.runtime.run_directory import find_run


@dataclasses.dataclass(frozen=True)
class Report(Command):
    """Draws report.html, report.md and its plots again, from the results.json of a run alone."""

    name = "report"
    usage = ("[--run=RUN] [--attribution=RUN]",)
    run_name: str = option("RUN", "the run to report on", default="latest", flag="run")
    attribution: str | None = option(
        "RUN", "a run of ablate with the same step: its outcome becomes part of the results"
    )
    workdir: Path = option("DIR", 'where "latest" is looked for', default=Path("runs"))

    @functools.cached_property
    def run_path(self) -> Path:
        """The directory of the run to report on."""
        return find_run(self.workdir, self.run_name, trained=True).path

    @functools.cached_property
    def ablated_path(self) -> Path | None:
        """The directory of the run of `ryot ablate`, or None."""
        return None if self.attribution is None else find_run(self.workdir, self.attribution).path

    def check(self) -> None:
        """Finds both runs."""
        _ = self.ablated_path, self.run_path

    def run(self, context: Context) -> int:
        """Writes the reports and prints the summary; returns 0 whatever the verdict."""
        from ryot_jax.runs import redraw

        return redraw.redraw(self.run_path, self.ablated_path, context.console)
