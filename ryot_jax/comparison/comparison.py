"""The outcome of `compare`: results with their verdict, summary and report."""

import dataclasses
import pathlib

from ryot_jax.comparison import criteria, results
from ryot_jax.comparison.schema import Results, Verdict


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """The outcome of `compare`, with its verdict, summary and report.

    Attributes:
      results: the record that `results.json` holds (see `ryot_jax.comparison.schema`).
    """

    results: Results

    def __repr__(self) -> str:
        """Name and verdict alone, as the results are pages long."""
        return f"<Comparison {self.results.name!r}: {self.verdict}>"

    @property
    def verdict(self) -> Verdict:
        """The verdict: PASS, FAIL or INCONCLUSIVE."""
        return self.results.verdict

    @property
    def exit_code(self) -> int:
        """The exit code of the verdict for a script: 0 (PASS), 3 (FAIL) or 4 (INCONCLUSIVE)."""
        return criteria.EXIT_CODES[self.verdict]

    @property
    def speedup(self) -> float | None:
        """Speed-up: baseline / optimized seconds per step; None without data."""
        return None if self.results.comparison is None else self.results.comparison.step_time_speedup.estimate

    def summary(self) -> str:
        """Verdict, numbers and criteria as plain text."""
        from ryot_jax.report.formats import terminal  # imported here: a comparison needs no plotting

        return terminal.render(self.results)

    def to_json(self) -> str:
        """The results as JSON text."""
        return results.to_text(self.results)

    def report(self, path: str | pathlib.Path) -> pathlib.Path:
        """Writes the report as one self-contained HTML file and returns its path."""
        from ryot_jax.report.formats.html import render
        from ryot_jax.runtime.files import write_text

        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, render(self.results))
        return path

    def _repr_html_(self) -> str:
        """The report as a notebook shows it: in a frame, so that its style and the notebook's stay apart."""
        from ryot_jax.report.formats.html import framed

        return framed(self.results)
