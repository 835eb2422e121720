"""A run: a session with a directory that it alone works in, a console, and the text that is trained on."""

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
    """Everything that the stages of a run begin with.

    Attributes:
      session: config, devices, model and kernels.
      directory: locked by this process.
      console: writes to the run's log too.
      allocator: what was set before JAX was imported.
      resumed: whether an earlier process began this run.
      started: `time.perf_counter()` when the run was opened.
      preemption: notes SIGTERM during the stages that can stop on request.
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
        """The text; built, or read from the cache, when it is first asked for."""
        config = self.config
        return prepare(config.data, config.tokenizer, config.model.vocab_size, self.console.line)

    @functools.cached_property
    def setup(self) -> TrainingSetup:
        """Weights, optimizer, batches and evaluator of the run's own seed."""
        return build_setup(self.config, self.session.model, self.corpus)


@contextlib.contextmanager
def open_run(
    config: ConfigDict, *, workdir: Path, resume: RunDirectory | None, allocator: AllocatorRecord, console: Console
) -> Iterator[Run]:
    """A run in a new directory, or the one to resume, for the time of the `with` block.

    Args:
      config: the resolved config, which is written into the directory.
      workdir: where a new directory is made.
      resume: the run to resume; None: a new one.
      allocator: what was set before JAX was imported.
      console: closed at the end.

    Raises:
      ConfigError: the directory cannot be made, another process has it, or the devices cannot share a batch.
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
