"""Output of experiments: criteria, tables in ASCII, and a dated Markdown record under results/.

The three verdicts and their exit codes are those of the main command's criteria.
"""

import dataclasses
import datetime
import shlex
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ryot_jax.comparison.criteria import EXIT_CODES, Criterion, Verdict, overall
from ryot_jax.comparison.statistics import SpeedUp
from ryot_jax.machine.devices import describe_devices
from ryot_jax.machine.processor import describe_processor
from ryot_jax.report.formats.markdown import escape
from ryot_jax.runtime.console import printable
from ryot_jax.runtime.errors import RyotError
from ryot_jax.runtime.manifest import git_state, versions

RESULTS = Path(__file__).parents[1] / "results"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text cells with a title and a header; all columns but the first are numbers."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def at_least(name: str, ratio: SpeedUp, goal: float) -> Criterion:
    """A criterion: PASS if the whole interval of the ratio is at or above the goal, FAIL if all of it is below."""
    target = f"at least {goal:g}"
    if ratio.ci95 is None:
        return Criterion(name, target, "no interval", "INCONCLUSIVE")
    low, high = ratio.ci95
    verdict: Verdict = "PASS" if low >= goal else "FAIL" if high < goal else "INCONCLUSIVE"
    return Criterion(name, target, in_words(ratio), verdict)


def at_most(name: str, value: float, goal: float, form: str = ".3g") -> Criterion:
    """A criterion for a number without spread: PASS or FAIL."""
    return Criterion(name, f"at most {goal:{form}}", f"{value:{form}}", "PASS" if value <= goal else "FAIL")


def not_measured(name: str, target: str, why: str) -> Criterion:
    """A criterion that this machine or this call could not decide."""
    return Criterion(name, target, f"not measured: {why}", "INCONCLUSIVE")


def in_words(ratio: SpeedUp) -> str:
    """A ratio as text, such as `2.81 (2.77 to 2.85), 16 pairs`."""
    if ratio.estimate is None:
        return "no data"
    interval = "no interval" if ratio.ci95 is None else f"{ratio.ci95[0]:.3f} to {ratio.ci95[1]:.3f}"
    return f"{ratio.estimate:.3f} ({interval}), {ratio.pairs} pairs"


def conclude(
    name: str,
    title: str,
    *,
    command: str,
    tables: Sequence[Table],
    criteria: Sequence[Criterion],
    notes: Sequence[str] = (),
    write: bool = False,
    told: bool = False,
) -> int:
    """Print the tables, the criteria and the verdict, write the record if requested, and return the exit code.

    Args:
      name: name of the file under results/, without its ending.
      title: title of the record.
      command: the command line.
      tables: the measurements.
      criteria: the goals; none: nothing is judged, and the exit code is 0.
      notes: sentences that a reader needs.
      write: whether to write results/NAME.md.
      told: whether tables and notes have been printed already, and are only to be written.
    """
    verdict = overall(criteria) if criteria else None
    judged = Table("goals", ("criterion", "target", "found", "verdict"), [_row(c) for c in criteria])
    shown = [*tables, judged] if criteria else list(tables)
    for table in shown[len(tables) if told else 0 :]:
        print(f"\n{ascii_table(table)}")
    for note in () if told else notes:
        print(f"\n{textwrap.fill(printable(note), 110)}")
    print(f"\n{verdict or 'measured; no goal is set for this config'}: {title}")
    if write:
        path = RESULTS / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(_markdown(title, verdict, command, shown, notes), encoding="utf-8")
        print(f"written to {path}")
    return EXIT_CODES[verdict] if verdict else 0


def others_at_work(seconds: float = 1.0) -> str:
    """A sentence on the load of this machine's cores while this process sleeps; call it before starting anything."""

    def idle_and_all() -> tuple[int, int]:
        ticks = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]]
        return ticks[3] + ticks[4], sum(ticks[:8])  # the eight kinds of time; later fields are included in them

    try:
        idle, total = idle_and_all()
        time.sleep(seconds)
        idle_after, total_after = idle_and_all()
    except (OSError, ValueError, IndexError):
        return "Whether other programs ran on this machine is not known."
    busy = 1 - (idle_after - idle) / max(total_after - total, 1)
    warning = " It was not quiet: do not trust the times." if busy > 0.1 else ""
    return f"Before the start other programs used {max(busy, 0.0):.0%} of the machine.{warning}"


def command(module: str, words: Sequence[str] | None) -> str:
    """The command line: the module and the words passed to its `main` (None: those of `sys.argv`)."""
    return shlex.join(["python", "-m", module, *(sys.argv[1:] if words is None else words)])


def exit_code(main: Callable[[], int]) -> int:
    """Run `main()` and return its exit code; the package's errors are reported in one line, as by the main command."""
    try:
        return main()
    except RyotError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def progress(done: int, rounds: int) -> None:
    """Print the number of finished rounds on one line of standard error."""
    print(f"\rround {done} of {rounds}", end="\n" if done == rounds else "", file=sys.stderr, flush=True)


def ascii_table(table: Table) -> str:
    """Format a table for a terminal."""
    lines = [tuple(printable(cell).encode("ascii", "replace").decode() for cell in row) for row in _lines(table)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    rule = tuple("-" * width for width in widths)
    aligned = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join([f"{table.title}:", *aligned])


def _markdown(title: str, verdict: Verdict | None, command: str, tables: Sequence[Table], notes: Sequence[str]) -> str:
    processor, devices = describe_processor(), describe_devices()
    git = git_state(Path(__file__).parents[2] / "ryot_jax")
    revision = f"{(git['revision'] or 'unknown')[:12]}{' with changes' if git['dirty'] else ''}"
    packages = ", ".join(f"{package} {version}" for package, version in versions().items() if version)
    parts = [
        f"# {escape(title)}" + (f": {verdict}" if verdict else ""),
        f"`{command}`",
        f"{datetime.date.today()}; {escape(processor.model)}, {processor.usable_cores} cores, device "
        f"{escape(devices.kind)}; {escape(packages)}; revision {revision}.",
    ]
    for table in tables:
        rule = ("---", *["---:"] * (len(table.header) - 1))
        lines = [tuple(escape(cell) for cell in line) for line in _lines(table)]
        rows = "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
        parts += [f"## {escape(table.title[:1].upper() + table.title[1:])}", rows]
    parts += [escape(note) for note in notes]
    return "\n\n".join(parts) + "\n"


def _lines(table: Table) -> list[tuple[str, ...]]:
    return [table.header, *table.rows]


def _row(criterion: Criterion) -> tuple[str, ...]:
    return criterion.name, criterion.target, criterion.actual, criterion.verdict
