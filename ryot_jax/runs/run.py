"""A run: a session with a locked run directory, a console, and the training text."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from ryot_jax.config import to_json
from ryot_jax.data.pipeline import Corpus, prepare
from ryot_jax.machine.allocator import AllocatorRecord
from ryot_jax.runs.session import Session, open_session
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.files import write_text
from ryot_jax.runtime.preemption import Preemption
from ryot_jax.runtime.run_directory import RunDirectory, create_run
from ryot_jax.runtime.run_lock import locked
from ryot_jax.training.setup import TrainingSetup, build_setup


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The common input of all stages of a run.

    Attributes:
      session: config, devices, model and kernels.
      directory: the run directory, locked by this process.
      console: prints lines and appends them to the run's log.
      allocator: the allocator settings of this process.
      resumed: whether an earlier process started this run.
      started: `time.perf_counter()` when the run was opened.
      preemption: records SIGTERM during stages that can stop on request.
    """

    session: Session
    directory: RunDirectory
    console: Console
    allocator: AllocatorRecord
    resumed: bool
    started: float = dataclasses.field(default_factory=time.perf_counter)
    preemption: Preemption = dataclasses.field(default_factory=Preemption)

    @property
    def config(self) -> ConfigDict:
        """The session's config."""
        return self.session.config

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The text, built or read from the cache on first use."""
        config = self.config
        return prepare(config.data, config.tokenizer, config.model.vocab_size, self.console.line)

    @functools.cached_property
    def setup(self) -> TrainingSetup:
        """Weights, optimizer, batches and evaluator, made from the run's own seed."""
        return build_setup(self.config, self.session.model, self.corpus)


@contextlib.contextmanager
def open_run(
    config: ConfigDict, *, workdir: Path, resume: RunDirectory | None, allocator: AllocatorRecord, console: Console
) -> Iterator[Run]:
    """Opens a run in a new directory, or the run to resume, for the duration of the `with` block.

    Args:
      config: the resolved config, which is written into the directory.
      workdir: the folder to make a new directory in.
      resume: the run to resume; None: a new run.
      allocator: the allocator settings of this process.
      console: logs into the directory; closed at the end.

    Raises:
      ConfigError: the directory cannot be made, another process has locked it, or the devices cannot share a batch.
    """
    directory = resume or create_run(workdir, config.name)
    with locked(directory) as previous_owner, contextlib.closing(console):
        console.log_to(directory.log)
        if previous_owner:
            console.line(previous_owner)
        write_text(directory.config, to_json(config))
        started, resumed = time.perf_counter(), resume is not None
        session = open_session(config, console.line, trains=True, manifest=directory.manifest if resumed else None)
        console.line(f"run {directory.path}")
        yield Run(session, directory, console, allocator, resumed, started)
