"""The folder of a run: the paths of its files, its creation, and finding it again.

What goes into the files is left to those who write them; that one process has the run is `run_lock.py`.
"""

import dataclasses
import datetime
import re
from pathlib import Path

from ryot_jax.runtime.errors import ConfigError

NAME_PATTERN = r"(?!\.+$)[A-Za-z0-9._-]{1,64}"  # of a run: safe as a part of a path and of a terminal line
NAME_RULE = "1 to 64 letters, digits, dots, dashes or underscores, and not dots alone"
_UTC_FORMAT = "%Y%m%dT%H%M%SZ"


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config as JSON; the only config that is ever loaded back."""
        return self.path / "config.json"

    @property
    def manifest(self) -> Path:
        """Machine, software and inputs of the run; see `manifest`."""
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        """The metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer that the run was trained with, so that a checkpoint can be used without the text."""
        return self.path / "tokenizer.json"

    def config_of(self, training: str) -> Path:
        """The config of a training beside the arms, 'schedule', 'recipe' or 'both'; absent where it was not kept."""
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
        """The origin of a run made by `ryot import`; absent where the run was trained."""
        return self.path / "imported.json"

    @property
    def record(self) -> Path:
        """The finished blocks and evaluations, once training is done."""
        return self.path / "record.json"

    @property
    def estimands(self) -> Path:
        """The quantities that the run estimates and how they will be judged, written before its first step."""
        return self.path / "estimands.json"

    def training_pair(self, index: int) -> "RunDirectory":
        """The folder of a training pair: the run's own for the first, one within it for the others."""
        return self if index == 0 else RunDirectory(self.path / "pairs" / f"{index:03d}")

    def process(self, index: int) -> Path:
        """The JSON file with the results of a process that timed block pairs again."""
        return self.path / "processes" / f"{index:03d}.json"

    @property
    def results(self) -> Path:
        """Criteria, verdict and both arms' figures."""
        return self.path / "results.json"

    @property
    def log(self) -> Path:
        """Every line that the terminal was shown."""
        return self.path / "run.log"

    @property
    def lock(self) -> Path:
        """The lock of the process that works on the run."""
        return self.path / "run.lock"


def create_run(workdir: Path, name: str, now: datetime.datetime | None = None) -> RunDirectory:
    """Creates `<workdir>/<utc>-<name>/`; a second run in the same second gets `-2` after its name, and so on.

    Args:
      workdir: made if need be.
      name: 1 to 64 letters, digits, dots, dashes or underscores.
      now: for tests; aware. Default: the present.

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
    """Finds the run that a person names.

    Args:
      workdir: where run directories are.
      wanted: a run directory, the name of one in `workdir`, or `'latest'`: the newest there by name that is
        no ablation, as those (`-ablate`) hold nothing to resume, to generate with or to report on.
      trained: whether it must be a run of training, which an imported checkpoint is not.

    Raises:
      ConfigError: there is no such run.
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
    """Sorts by the UTC time in the name; among runs of one second by the number after the name."""
    utc, _, name = path.name.partition("-")
    number = re.search(r"-(\d+)$", name)
    return utc, int(number.group(1)) if number else 1, name
