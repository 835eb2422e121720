"""The command line as data: `parse(argv)` gives the command, its config and its options.

Nothing is run here. Config files and overrides go through absl and ml_collections (`config.py`); every
mistake becomes a `ConfigError`, so that `main.py` ends with exit code 2.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from ryot_jax.config import differences, fields, get_default, load
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.run_directory import NAME_PATTERN, NAME_RULE, find_run
from ryot_jax.runtime.suggestions import did_you_mean

HELP = """\
Train a transformer language model as two arms, baseline and optimized, and compare them.

  ryot [train] --config=configs/scaled.py [--config.FIELD=VALUE ...] [--dry_run]
  ryot [train] --resume=RUN [--config.FIELD=VALUE ...]
  ryot generate [--run=RUN] --prompt=TEXT
  ryot compress [--run=RUN] [--budget=BUDGET]
  ryot export [--run=RUN] --to=DIR
  ryot import --from=DIR [--name=NAME]
  ryot tune --config=configs/scaled.py [--config.FIELD=VALUE ...]
  ryot ablate --config=configs/scaled.py [--only=NAME,...] [--config.FIELD=VALUE ...]
  ryot report [--run=RUN] [--attribution=RUN]
  ryot doctor

"ryot" and "python -m ryot_jax.main" are the same program. RUN is a run directory or "latest".

train (the default)
  --config=FILE        a Python file with get_config(), or the config.json of a run.
                       A Python config is a program: it is executed. JSON is only read.
  --config.FIELD=VALUE override one field, such as --config.training.learning_rate=3e-4
  --workdir=DIR        where run directories are made (default: runs)
  --dry_run            print the resolved config and what the run would cost, then stop
  --resume=RUN         go on with a run from its latest checkpoint, with its own config

generate
  --run=RUN            the run whose checkpoint writes (default: latest)
  --workdir=DIR        where "latest" is looked for (default: runs)
  --prompt=TEXT        the text to continue; several are continued together
  --max_new_tokens=N   tokens to write (default: as many as the model has positions for)
  --temperature=X      0 takes the likeliest token each time (default: 0)
  --top_k=N            sample among the N likeliest tokens; 0: among all (default: 0)
  --top_p=P            among the likeliest tokens that together have probability P (default: 1)
  --min_p=P            among tokens at least P times as likely as the likeliest one (default: 0)
  --seed=N             of the sampling (default: 0)
  --checkpoint=WHICH   best or latest (default: best; latest if imported, as no loss is known then)
  --arm=NAME           baseline or optimized, or where they were trained schedule, recipe or both
                       (default: the last of the first two that the run has)

  --compressed         write with the checkpoint's compressed file, which compress and train make
  --draft=KIND         lookup, bigram or none: guesses at the next tokens, of which the model checks
                       several at a time, which is faster and changes no token (default: lookup)
  --draft_length=N     tokens of a guess; 0: up to 6, by how many were right so far (default: 0)
  --candidates=N       sample up to N texts for each prompt until one is Python that parses
                       (default: 1)
  --engine=NAME        cpu (C++), reference, or auto: cpu where it can run (default: auto)

compress
  makes one small file of a checkpoint, in the run's compressed/, and measures it on the held-out
  text; what training does at its end (one to two minutes for configs/scaled.py)
  --budget=BUDGET      'perplexity<=1%', 'loss<=0.01' (nats), 'ratio>=8' or 'bytes<=500000'
                       (default: the run's compression.budget)
  --run=RUN, --workdir=DIR, --checkpoint=WHICH, --arm=NAME as of generate

export
  writes a checkpoint as a Hugging Face GPT-2 (model.safetensors, config.json, tokenizer.json ...);
  of models with learned positions, layer norm and gelu
  --to=DIR             a folder that is not there yet, or is empty
  --run=RUN, --workdir=DIR, --checkpoint=WHICH, --arm=NAME as of generate

import
  makes a run directory of a Hugging Face GPT-2, for generate and export; it cannot be resumed
  --from=DIR           a folder with config.json and model.safetensors; with a tokenizer too, as
                       tokenizer.json or as vocab.json and merges.txt, for generate
  --workdir=DIR        where run directories are made (default: runs)
  --name=NAME          of the run (default: the folder's name)

tune
  measures the kernels on the sizes of a config (about a minute for configs/scaled.py) and keeps
  what is fastest here for runs of these sizes; --config.runtime.tune_kernels=True does the same
  at the start of a run; shows what each kind of steps of the config's schedules takes (half a
  minute more), and whether it repays the compilation of its program

ablate
  times a step with each optimization added alone to the baseline and left out of the full set, and
  with all subsets of five or fewer (about 10 minutes for configs/scaled.py); trains nothing
  --only=NAME,...      these alone, the others off everywhere (default: all that are on)
  --rounds=N           each gives one ratio of any two arms; at least 2 (default: 16)
  --block_steps=N      steps of an arm's turn, of which it has two a round (default: 10)
  --workdir=DIR        where run directories are made (default: runs)

report
  draws report.html, report.md and its plots again, from the results.json of a run alone
  --run=RUN            the run to report on (default: latest)
  --attribution=RUN    a run of ablate with the same step: its outcome becomes part of the results
  --workdir=DIR        where "latest" is looked for (default: runs)

doctor
  shows the devices, libraries and kernels of this machine

--help prints this text, --version the version. JAX's own settings are environment variables,
such as JAX_PLATFORMS=cpu.

Exit codes: 0 all criteria pass, 1 crash, 2 usage or config, 3 a criterion failed, 4 inconclusive,
5 data, 6 checkpoint, 7 non-finite loss, 75 preempted and saved, 130 interrupted.
"""

TRAINED = ("generate", "compress", "export")  # commands that begin with a run's checkpoint
COMMANDS = ("train", *TRAINED, "import", "tune", "ablate", "report", "doctor", "help", "version")

# What a resumed run may set anew: where things are kept and shown, never what is computed.
RESUME_MAY_CHANGE = ("data.cache_dir", "metrics.")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What `train` takes beside the config; `resume` is the run directory to go on with, or None."""

    workdir: Path
    dry_run: bool
    resume: Path | None


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """Which checkpoint a command begins with: `run` is a run directory that exists and `arm` one of its arms.

    `checkpoint` is 'best' or 'latest'.
    """

    run: Path
    arm: str
    checkpoint: str


@dataclasses.dataclass(frozen=True)
class GenerateOptions(CheckpointOptions):
    """What `generate` takes beside the checkpoint.

    `max_new_tokens` None: as many as the model has positions for.
    """

    prompts: tuple[str, ...]
    max_new_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    draft: str
    draft_length: int
    candidates: int
    engine: str
    compressed: bool = False


@dataclasses.dataclass(frozen=True)
class CompressOptions(CheckpointOptions):
    """What `compress` takes beside the checkpoint: a budget, None: that of the run's config."""

    budget: str | None


@dataclasses.dataclass(frozen=True)
class ExportOptions(CheckpointOptions):
    """What `export` takes beside the checkpoint: `to` is a folder that is not there yet, or is empty."""

    to: Path


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """What `import` takes; `source` is a folder that exists."""

    source: Path
    workdir: Path
    name: str


@dataclasses.dataclass(frozen=True)
class AblateOptions:
    """What `ablate` takes beside the config; `only` holds names of optimizations, None: all that are on."""

    workdir: Path
    only: tuple[str, ...] | None
    rounds: int
    block_steps: int


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """What `report` takes: run directories that exist; `attribution` is that of a run of `ablate`, or None."""

    run: Path
    attribution: Path | None = None


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """`tune`, `doctor`, `help` and `version` take none."""


@dataclasses.dataclass(frozen=True)
class Invocation:
    """One command: `config` is set for `train`, `tune` and `ablate` (to run) and those of `TRAINED` (of the run)."""

    command: str
    config: ConfigDict | None
    options: (
        TrainOptions
        | GenerateOptions
        | CompressOptions
        | ExportOptions
        | ImportOptions
        | AblateOptions
        | ReportOptions
        | NoOptions
    )

    def require_config(self) -> ConfigDict:
        """The config; only for commands that have one."""
        assert self.config is not None
        return self.config


def parse(argv: Sequence[str]) -> Invocation:
    """What the words of a command line ask for.

    Args:
      argv: the words after the program's name.

    Raises:
      ConfigError: an unknown command, flag or field, a value that cannot be used, a missing file or run.
    """
    words = list(argv)
    if any(word in ("--help", "-help", "-h") for word in words):
        return Invocation("help", None, NoOptions())
    if "--version" in words:
        return Invocation("version", None, NoOptions())
    command = words.pop(0) if words and not words[0].startswith("-") else "train"
    if command == "train":
        return _train(words)
    if command == "generate":
        return _generate(words)
    if command == "compress":
        return _compress(words)
    if command == "export":
        return _export(words)
    if command == "import":
        return _import(words)
    if command == "tune":
        return _tune(words)
    if command == "ablate":
        return _ablate(words)
    if command == "report":
        return _report(words)
    if command in COMMANDS:
        _parse_flags(flags.FlagValues(), command, words)
        return Invocation(command, None, NoOptions())
    if command.endswith((".py", ".json")):
        raise ConfigError(f"unknown command {command!r}; did you mean --config={command}?")
    raise ConfigError(f"unknown command {command!r}{did_you_mean(command, COMMANDS)}; --help lists them")


def _train(words: Sequence[str]) -> Invocation:
    words, overrides = _split_overrides(words)
    known = flags.FlagValues()
    config_path = flags.DEFINE_string("config", None, "", flag_values=known)
    workdir = flags.DEFINE_string("workdir", "runs", "", flag_values=known)
    dry_run = flags.DEFINE_boolean("dry_run", False, "", flag_values=known)
    resume = flags.DEFINE_string("resume", None, "", flag_values=known)
    _parse_flags(known, "train", words)
    if resume.value is None:
        config = load(_required(config_path.value), overrides)
        return Invocation("train", config, TrainOptions(Path(workdir.value), dry_run.value, None))
    run = find_run(Path(workdir.value), resume.value, trained=True)
    stored = load(str(run.config), ())
    config = load(config_path.value or str(run.config), overrides)
    _refuse_other_config(stored, config, run.path)
    return Invocation("train", config, TrainOptions(run.path.parent, dry_run.value, run.path))


def _generate(words: Sequence[str]) -> Invocation:
    known = flags.FlagValues()
    prompts = flags.DEFINE_multi_string("prompt", None, "", flag_values=known)
    max_new_tokens = flags.DEFINE_integer("max_new_tokens", None, "", lower_bound=1, flag_values=known)
    temperature = flags.DEFINE_float("temperature", 0.0, "", lower_bound=0.0, flag_values=known)
    top_k = flags.DEFINE_integer("top_k", 0, "", lower_bound=0, flag_values=known)
    top_p = flags.DEFINE_float("top_p", 1.0, "", flag_values=known)
    min_p = flags.DEFINE_float("min_p", 0.0, "", flag_values=known)
    draft = flags.DEFINE_enum("draft", "lookup", ["lookup", "bigram", "none"], "", flag_values=known)
    draft_length = flags.DEFINE_integer("draft_length", 0, "", lower_bound=0, upper_bound=64, flag_values=known)
    candidates = flags.DEFINE_integer("candidates", 1, "", lower_bound=1, upper_bound=1024, flag_values=known)
    engine = flags.DEFINE_enum("engine", "auto", ["auto", "cpu", "reference"], "", flag_values=known)
    seed = flags.DEFINE_integer("seed", 0, "", lower_bound=0, upper_bound=2**32 - 1, flag_values=known)
    compressed = flags.DEFINE_boolean("compressed", False, "", flag_values=known)
    config, chosen = _parse_checkpoint(known, "generate", words)
    if prompts.value is None:
        raise ConfigError("--prompt is missing, such as --prompt='def '")
    if candidates.value > 1 and temperature.value == 0.0:
        raise ConfigError(
            f"--candidates={candidates.value} with --temperature=0: they would all be the same; give --temperature=0.8"
        )
    options = GenerateOptions(
        **vars(chosen),
        prompts=tuple(prompts.value),
        max_new_tokens=max_new_tokens.value,
        temperature=temperature.value,
        top_k=top_k.value,
        top_p=top_p.value,
        min_p=min_p.value,
        draft=draft.value,
        draft_length=draft_length.value,
        candidates=candidates.value,
        engine=engine.value,
        seed=seed.value,
        compressed=compressed.value,
    )
    return Invocation("generate", config, options)


def _compress(words: Sequence[str]) -> Invocation:
    known = flags.FlagValues()
    budget = flags.DEFINE_string("budget", None, "", flag_values=known)
    config, chosen = _parse_checkpoint(known, "compress", words)
    return Invocation("compress", config, CompressOptions(**vars(chosen), budget=budget.value))


def _export(words: Sequence[str]) -> Invocation:
    known = flags.FlagValues()
    to = flags.DEFINE_string("to", None, "", flag_values=known)
    config, chosen = _parse_checkpoint(known, "export", words)
    if not to.value:
        raise ConfigError("--to is missing, such as --to=exported")
    folder = Path(to.value)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--to={folder} is there already, and is no empty folder; name another one")
    return Invocation("export", config, ExportOptions(**vars(chosen), to=folder))


def _import(words: Sequence[str]) -> Invocation:
    known = flags.FlagValues()
    source = flags.DEFINE_string("from", None, "", flag_values=known)
    workdir = flags.DEFINE_string("workdir", "runs", "", flag_values=known)
    name = flags.DEFINE_string("name", None, "", flag_values=known)
    _parse_flags(known, "import", words)
    if not source.value:
        raise ConfigError("--from is missing: a folder with the config.json and the model.safetensors of a GPT-2")
    folder = Path(source.value)
    if not folder.is_dir():
        raise ConfigError(f"--from={folder}: no such folder")
    chosen = folder.resolve().name if name.value is None else name.value
    if not re.fullmatch(NAME_PATTERN, chosen):
        raise ConfigError(f"--name={chosen}: must be {NAME_RULE}")
    return Invocation("import", None, ImportOptions(folder, Path(workdir.value), chosen))


def _tune(words: Sequence[str]) -> Invocation:
    words, overrides = _split_overrides(words)
    known = flags.FlagValues()
    config_path = flags.DEFINE_string("config", None, "", flag_values=known)
    _parse_flags(known, "tune", words)
    return Invocation("tune", load(_required(config_path.value), overrides), NoOptions())


def _ablate(words: Sequence[str]) -> Invocation:
    words, overrides = _split_overrides(words)
    known = flags.FlagValues()
    config_path = flags.DEFINE_string("config", None, "", flag_values=known)
    workdir = flags.DEFINE_string("workdir", "runs", "", flag_values=known)
    only = flags.DEFINE_list("only", None, "", flag_values=known)
    rounds = flags.DEFINE_integer("rounds", 16, "", lower_bound=2, flag_values=known)
    block_steps = flags.DEFINE_integer("block_steps", 10, "", lower_bound=1, flag_values=known)
    _parse_flags(known, "ablate", words)
    config = load(_required(config_path.value), overrides)
    for name in only.value or ():
        if name not in config.optimizations:
            hint = did_you_mean(name, config.optimizations)
            raise ConfigError(f"--only={name}: no such optimization{hint}; there are {', '.join(config.optimizations)}")
    chosen = None if only.value is None else tuple(only.value)
    return Invocation("ablate", config, AblateOptions(Path(workdir.value), chosen, rounds.value, block_steps.value))


def _report(words: Sequence[str]) -> Invocation:
    known = flags.FlagValues()
    run_name = flags.DEFINE_string("run", "latest", "", flag_values=known)
    workdir = flags.DEFINE_string("workdir", "runs", "", flag_values=known)
    attribution = flags.DEFINE_string("attribution", None, "", flag_values=known)
    _parse_flags(known, "report", words)
    folder = Path(workdir.value)
    ablated = None if attribution.value is None else find_run(folder, attribution.value).path
    return Invocation("report", None, ReportOptions(find_run(folder, run_name.value, trained=True).path, ablated))


def _parse_checkpoint(
    known: flags.FlagValues, command: str, words: Sequence[str]
) -> tuple[ConfigDict, CheckpointOptions]:
    """Parses the words of a command that begins with a checkpoint: its own flags are in `known` already.

    Returns the config of the run and what was chosen of it.
    """
    run_name = flags.DEFINE_string("run", "latest", "", flag_values=known)
    workdir = flags.DEFINE_string("workdir", "runs", "", flag_values=known)
    checkpoint = flags.DEFINE_enum("checkpoint", None, ["best", "latest"], "", flag_values=known)
    arm = flags.DEFINE_string("arm", None, "", flag_values=known)
    _parse_flags(known, command, words)
    run = find_run(Path(workdir.value), run_name.value)
    config = load(str(run.config), ())
    arms = config.comparison.arms
    kept = [name for name in ("schedule", "recipe", "both") if run.config_of(name).is_file()]
    if arm.value in kept:  # its model may be another one than that of the arms
        config = load(str(run.config_of(arm.value)), ())
    elif arm.value is not None and arm.value not in arms:
        raise ConfigError(f"--arm={arm.value}: run {run.path} has the arms {', '.join((*arms, *kept))}")
    # What was imported has no held-out loss, so that none of its checkpoints is the best.
    default = "latest" if run.imported.is_file() else "best"
    return config, CheckpointOptions(run.path, arm.value or arms[-1], checkpoint.value or default)


def _required(config_path: str | None) -> str:
    if not config_path:
        raise ConfigError("--config is missing; for a first run: --config=configs/smoke.py")
    return config_path


def _parse_flags(known: flags.FlagValues, command: str, words: Sequence[str]) -> None:
    try:
        rest = known([command, *words])[1:]
    except flags.UnrecognizedFlagError as error:
        hint = did_you_mean(error.flagname, list(known))
        raise ConfigError(f"{command} has no option --{error.flagname}{hint}") from error
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    if rest:
        file = rest[0].endswith((".py", ".json"))
        hint = f"; did you mean --config={rest[0]}?" if file else ""
        raise ConfigError(f"unexpected word {rest[0]!r} after {command}{hint}")


def _split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates `--config.FIELD...` from the other words, and writes each as `--config.FIELD=VALUE`."""
    switches = {path for path, value in fields(get_default()) if isinstance(value, bool)}
    others: list[str] = []
    overrides: list[str] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        match = re.fullmatch(r"--?(no)?config\.([^=]*)(=.*)?", word, flags=re.DOTALL)
        if not match:
            others.append(word)
            continue
        negated, path, value = match.groups()
        if value is None and path in switches:
            value = "=false" if negated else "=true"
        elif negated:
            raise ConfigError(f"{word}: only a field that is true or false can be negated")
        elif value is None:
            if not remaining:
                raise ConfigError(f"{word} needs a value, as in {word}=VALUE")
            value = f"={remaining.pop(0)}"
        overrides.append(f"--config.{path}{value}")
    return others, overrides


def _refuse_other_config(stored: ConfigDict, wanted: ConfigDict, run: Path) -> None:
    changed = [
        f"{path}: the run has {old!r}, asked for is {new!r}"
        for path, (old, new) in differences(stored, wanted).items()
        if not path.startswith(RESUME_MAY_CHANGE)
    ]
    if changed:
        lines = "\n".join(changed)
        raise ConfigError(f"{run} cannot be resumed with another config:\n{lines}\nstart a new run without --resume")
