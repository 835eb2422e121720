"""The folder of a run: the paths of its files, its creation, and finding it again.

`run_lock` makes sure that one process at a time writes to it.
"""

import dataclasses
import datetime
import re
from pathlib import Path

from ryot_jax.runtime.errors import ConfigError

NAME_PATTERN = r"(?!\.+$)[A-Za-z0-9._-]{1,64}"  # of a run's name: safe in a path and in a terminal line
NAME_RULE = "1 to 64 letters, digits, dots, dashes or underscores, and not dots alone"
_UTC_FORMAT = "%Y%m%dT%H%M%SZ"


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config as JSON, from which a run is resumed."""
        return self.path / "config.json"

    @property
    def manifest(self) -> Path:
        """The manifest: machine, software and inputs of the run."""
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        """The metrics, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer of the training, so that a checkpoint can be used without the text."""
        return self.path / "tokenizer.json"

    def config_of(self, training: str) -> Path:
        """The config of a training beside the arms, 'schedule', 'recipe' or 'both'; absent if it was not kept."""
        return self.path / f"config-{training}.json"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints, in one folder per arm."""
        return self.path / "checkpoints"

    def compressed(self, arm: str, checkpoint: str) -> Path:
        """The compressed file of an arm's 'best' or 'latest' checkpoint."""
        return self.path / "compressed" / f"{arm}-{checkpoint}.ryot"

    @property
    def imported(self) -> Path:
        """The origin of a run made by `ryot import`; absent in trained runs."""
        return self.path / "imported.json"

    @property
    def record(self) -> Path:
        """The record of finished blocks and evaluations, written when training is done."""
        return self.path / "record.json"

    @property
    def estimands(self) -> Path:
        """The statement of the estimands and criteria, written before the first step."""
        return self.path / "estimands.json"

    def training_pair(self, index: int) -> "RunDirectory":
        """The folder of a training pair: the run's own for the first, one within it for the others."""
        return self if index == 0 else RunDirectory(self.path / "pairs" / f"{index:03d}")

    def process(self, index: int) -> Path:
        """The JSON file with the block times of a fresh process."""
        return self.path / "processes" / f"{index:03d}.json"

    @property
    def results(self) -> Path:
        """The results: criteria, verdict and the numbers of all arms."""
        return self.path / "results.json"

    @property
    def log(self) -> Path:
        """The log: every line printed to the terminal."""
        return self.path / "run.log"

    @property
    def lock(self) -> Path:
        """The lock file of the process that works on the run."""
        return self.path / "run.lock"


def create_run(workdir: Path, name: str, now: datetime.datetime | None = None) -> RunDirectory:
    """Creates `<workdir>/<utc>-<name>/`; a second run in the same second gets `-2` after its name, and so on.

    Args:
      workdir: the parent folder; created if it does not exist.
      name: 1 to 64 letters, digits, dots, dashes or underscores.
      now: time of creation, with a time zone; None: the current time.

    Raises:
      ConfigError: the name is not allowed, or the folder cannot be made.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(f"name = {name!r} must be {NAME_RULE}")
    utc = (now or datetime.datetime.now(datetime.UTC)).astimezone(datetime.UTC).strftime(_UTC_FORMAT)
    attempt = 1
    while True:
        path = workdir / (f"{utc}-{name}" if attempt == 1 else f"{utc}-{name}-{attempt}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not workdir.is_dir():
                raise ConfigError(f"--workdir={workdir} is not a folder") from None
            attempt += 1
        except OSError as error:
            raise ConfigError(f"--workdir={workdir}: cannot make {path.name} there: {error.strerror}") from error
        else:
            return RunDirectory(path.absolute())


def find_run(workdir: Path, wanted: str, *, trained: bool = False) -> RunDirectory:
    """Finds a run by path or name.

    Args:
      workdir: folder of the run directories.
      wanted: path of a run directory, the name of one in `workdir`, or `'latest'`: the newest there by name, ignoring
        ablations (`-ablate`), which cannot be resumed, generated with or reported on.
      trained: whether to require a trained run, and refuse an imported checkpoint.

    Raises:
      ConfigError: the run does not exist, or is not of the required kind.
    """
    if wanted == "latest":
        runs = sorted((path.parent for path in workdir.glob("*/config.json")), key=_age)
        runs = [run for run in runs if not re.search(r"-ablate(-\d+)?$", run.name)]
        runs = [run for run in runs if not (trained and RunDirectory(run).imported.is_file())]
        if not runs:
            raise ConfigError(f"no run directory in {workdir}/; make one with --config=..., or name it in full")
        return RunDirectory(runs[-1].absolute())
    if not wanted:
        raise ConfigError("a run directory is named by the empty string; name one, or 'latest'")
    for path in (Path(wanted), workdir / wanted):
        if (path / "config.json").is_file():
            found = RunDirectory(path.absolute())
            if trained and found.imported.is_file():
                raise ConfigError(
                    f"{path} is an imported checkpoint: it holds no training to resume or to report on; "
                    "name a run that was trained"
                )
            return found
    raise ConfigError(f"{wanted} is not a run directory: there is no {Path(wanted) / 'config.json'}")


def _age(path: Path) -> tuple[str, int, str]:
    """Sort key: the UTC time in the name, then the number after the name for runs of the same second."""
    utc, _, name = path.name.partition("-")
    number = re.search(r"-(\d+)$", name)
    return utc, int(number.group(1)) if number else 1, name
